/** The master key of the installation: changed while the server runs. For admin keys of the default org only. */
import { createRoute, z } from '@hono/zod-openapi';
import type { MiddlewareHandler } from 'hono';
import { createRotation } from '../../engine/keys/rotate-master-key.ts';
import type { Runtime } from '../../engine/runtime.ts';
import { json, type Api } from '../api.ts';
import type { Admit } from '../auth.ts';
import { problems } from '../error.ts';

const PATH = '/master-key/rotation';
/** Longer than a request may take to arrive. */
const SETTLE_MS_MAX = 90_000;

const Rotation = z
  .object({
    key_id: z.string().openapi({ description: 'The master key that seals.' }),
    rewrapped: z.number().int().openapi({ description: 'Stored secrets that this call has put under it.' }),
    remaining: z.number().int().openapi({ description: 'Stored secrets that are under other keys still.' }),
    other_key_ids: z.array(z.string()).openapi({
      description:
        'Keys that this node keeps besides, to open. With `remaining` 0 the operator may remove those that they have given.',
    }),
  })
  .openapi('MasterKeyRotation');

/** @param settled from `followWrites` */
export function mountMasterKey(api: Api, runtime: Runtime, admit: Admit, settled: Writes['settled']): void {
  const rotate = createRotation(runtime, settled);
  api.openapi(
    createRoute({
      method: 'post',
      path: PATH,
      ...admit.org('operator'),
      responses: { 200: json(Rotation, 'What was done, and what is left to do.'), ...problems },
    }),
    async (context) => context.json(await rotate(), 200),
  );
}

export type Writes = {
  /** Mount it before the routes. */
  follow: MiddlewareHandler;
  /** Resolves when those that are under way now are over; false when that takes too long. */
  settled: () => Promise<boolean>;
};

/** May last for hours, and stores nothing sealed. */
const LASTING = /\/(exec|pty|terminals|files|archive|display|browser|agents\/run)(\/|$)/;

/** Follows the requests that may store something, as they may have sealed it some time before. */
export function followWrites(): Writes {
  const under_way = new Set<Promise<void>>();
  const follow: MiddlewareHandler = async (context, next) => {
    const { method, path } = context.req;
    // A rotation that waited for rotations would wait for itself.
    if (method === 'GET' || path.endsWith(PATH) || LASTING.test(path)) return await next();
    const { promise, resolve } = Promise.withResolvers<void>();
    under_way.add(promise);
    await next().finally(() => {
      under_way.delete(promise);
      resolve();
    });
  };
  const settled = async (): Promise<boolean> => {
    const giving_up = Promise.withResolvers<boolean>();
    const timer = setTimeout(() => giving_up.resolve(false), SETTLE_MS_MAX);
    const over = Promise.all(under_way).then(() => true);
    return await Promise.race([over, giving_up.promise]).finally(() => clearTimeout(timer));
  };
  return { follow, settled };
}
