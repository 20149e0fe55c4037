/** URLs that open one file to whoever has them, for a time: no longer than the API key that they were made with. */
import { createRoute, z } from '@hono/zod-openapi';
import { RESPONSE_ALREADY_SENT } from '@hono/node-server/utils/response';
import type { Context } from 'hono';
import { statFile, writeFile } from '../../engine/computers/files.ts';
import { OverwinterError } from '../../resource/error.ts';
import type { KeyScope } from '../../resource/api-key.ts';
import { isId } from '../../resource/id.ts';
import { openLink, signLink, type Link } from '../../secret/link.ts';
import { findUsable } from '../../store/api-keys.ts';
import { orgOf } from '../../store/computer/keeping.ts';
import { body, FilePath, json, type Api, type Env } from '../api.ts';
import type { Caller } from '../authorize.ts';
import { upload } from '../socket/transfer.ts';
import type { Ground } from './app.ts';
import { refusals } from './error.ts';
import { sendFile } from './files.ts';
import { awakeHandle, findSandbox } from './find.ts';
import { SandboxPath } from './wire.ts';

const EXPIRES_S = { standard: 3600, max: 86_400 };
const SIGNATURE_CHARACTERS_MAX = 2048;

const Wanted = z
  .object({
    path: FilePath,
    expiresIn: z
      .int()
      .min(1)
      .max(EXPIRES_S.max)
      .default(EXPIRES_S.standard)
      .openapi({ description: 'In seconds.' }),
  })
  .openapi('SignUrl', { example: { path: 'notes.txt', expiresIn: 3600 } });

const Signed = z
  .object({
    url: z.string().openapi({ description: 'To GET the file from, or to PUT it to; it needs no key.' }),
  })
  .openapi('SignedUrl');

const PURPOSES = ['download', 'upload'] as const;

export function mountSigned(api: Api, ground: Ground): void {
  for (const purpose of PURPOSES) {
    api.openapi(
      createRoute({
        ...{
          method: 'post',
          path: `/sandboxes/{sandbox_id}/files/${purpose}-url`,
          ...ground.admit.org('write'),
        },
        request: { params: SandboxPath, ...body(Wanted) },
        responses: { 200: json(Signed, 'It opens this file, for this, until then.'), ...refusals },
      }),
      async (context) => {
        const { id: key_id, org } = context.get('caller');
        const { path, expiresIn } = context.req.valid('json');
        const { id } = await findSandbox(ground, org, context.req.valid('param').sandbox_id);
        const expires = Math.floor(ground.runtime.now() / 1000) + expiresIn;
        const signature = signLink(ground.runtime.sealer, { org, id, purpose, path, expires }, key_id);
        const query = new URLSearchParams({ path, expires: String(expires), signature });
        const at = `${originOf(context, ground)}/api/sandboxes/${id}/files/${purpose}`;
        return context.json({ url: `${at}?${query.toString()}` }, 200);
      },
    );
  }
  // For any method: the document has a place for routes that a key opens.
  api.all('/sandboxes/:sandbox_id/files/download', async (context) => {
    expectMethod(context, 'GET');
    const { link, holder } = await opened(ground, context, 'download');
    const computer = await awakeHandle(ground, holder, link.id);
    const { size } = await statFile(computer, link.path);
    await sendFile(context, ground, holder, computer, { path: link.path, size });
    return RESPONSE_ALREADY_SENT;
  });
  api.all('/sandboxes/:sandbox_id/files/upload', async (context) => {
    expectMethod(context, 'PUT');
    const { link, holder } = await opened(ground, context, 'upload');
    const computer = await awakeHandle(ground, holder, link.id);
    await upload(context, ground, holder, (content, signal) =>
      writeFile(computer, link.path, content, { signal }),
    );
    return context.body(null, 204);
  });
}

type Opened = { link: Link; holder: Caller };

/** One request of the key that the URL was made with. @throws OverwinterError `forbidden`, `rate_limited` */
async function opened(ground: Ground, context: Context<Env>, purpose: Link['purpose']): Promise<Opened> {
  const address = context.env.incoming.socket.remoteAddress ?? '';
  const found = await ground.admit.attempt(address, () => look(ground, context, purpose));
  if (!found)
    throw new OverwinterError('forbidden', 'the signature of the URL is not valid, or not any more');
  await ground.admit.count(found.holder);
  return found;
}

async function look(
  ground: Ground,
  context: Context<Env>,
  purpose: Link['purpose'],
): Promise<Opened | undefined> {
  const { runtime } = ground;
  const { database, sealer } = runtime;
  const id = context.req.param('sandbox_id') ?? '';
  const { path = '', expires = '', signature = '' } = context.req.query();
  const until = /^\d{1,12}$/.test(expires) ? Number(expires) : 0;
  if (until * 1000 < runtime.now() || signature.length > SIGNATURE_CHARACTERS_MAX) return undefined;
  const org = isId('computer', id) ? await orgOf(database.db, id) : undefined;
  if (org === undefined) return undefined;
  const link: Link = { org, id, purpose, path, expires: until };
  const key_id = openLink(sealer, link, signature);
  if (key_id === undefined || !(await findUsable(database, [key_id])).has(key_id)) return undefined;
  // Only a key that may write has had one made.
  const scopes: KeyScope[] = ['write'];
  const key = { id: key_id, org, scopes, in_default_org: false, expires_at: null };
  return { link, holder: { kind: 'org', ...key } };
}

/** @throws OverwinterError `not_found` */
function expectMethod(context: Context<Env>, method: string): void {
  if (context.req.method !== method) throw new OverwinterError('not_found', 'there is no such route');
}

function originOf(
  { req }: { req: { header(name: string): string | undefined } },
  { public_url }: Ground,
): string {
  return public_url?.replace(/\/+$/, '') ?? `http://${req.header('host') ?? ''}`;
}
