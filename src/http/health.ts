/** Whether the server is up, and on what it stands. Open to all. */
import { createRoute, z } from '@hono/zod-openapi';
import type { Runtime } from '../engine/runtime.ts';
import { json, type Api } from './api.ts';

const Health = z.object({
  status: z.literal('ok'),
  version: z.string(),
  /** This process among the nodes of the cluster. */
  node: z.string(),
  sandbox: z.unknown(),
  database: z.enum(['embedded', 'postgres']),
});

export function mountHealth(
  app: Api,
  runtime: Runtime,
  about: { version: string; capabilities: unknown },
): void {
  app.openapi(
    createRoute({
      method: 'get',
      path: '/healthz',
      responses: { 200: json(Health, 'The server is up.') },
    }),
    (context) => {
      const { version, capabilities } = about;
      const answer = {
        status: 'ok',
        version,
        node: runtime.node,
        sandbox: capabilities,
        database: runtime.database.kind,
      } as const;
      return context.json(answer as never, 200);
    },
  );
}
