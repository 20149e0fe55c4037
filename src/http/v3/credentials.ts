/** Credentials: model provider keys, write-only (contract §15.5). Org keys only. */
import { createRoute, z } from '@hono/zod-openapi';
import type { Runtime } from '../../engine/runtime.ts';
import { OverwinterError } from '../../resource/error.ts';
import {
  deleteCredential,
  getCredential,
  insertCredential,
  listCredentials,
  rotateCredential,
  setDefaultCredential,
  type CredentialRow,
  type NewCredential,
} from '../../store/credentials.ts';
import { body, idCursor, json, limit, page, renderPage, text, type Api } from '../api.ts';
import type { Admit } from '../auth.ts';
import { problems } from '../error.ts';
import { Credential, renderCredential } from '../wire.ts';

const LAST = 4;

/** A provider's key. Short texts are refused: their last four characters would tell too much of them. */
export const Key = z
  .string()
  .min(8)
  .max(4096)
  .regex(/^[\x21-\x7e]+$/, 'must be printable ASCII without blanks');

const CreateCredential = z
  .object({
    provider: z.enum(['anthropic', 'openai']).default('anthropic'),
    key: Key,
    name: text(256).nullish(),
    is_default: z.boolean().default(false),
  })
  .openapi('CreateCredential', {
    example: { provider: 'anthropic', key: 'sk-ant-example', name: 'team', is_default: true },
  });

const SetDefault = z
  .object({ credential: text(256), provider: z.string().optional() })
  .openapi('SetDefaultCredential', { example: { credential: 'cred_000000000000000000000000' } });
const CredentialPath = z.object({ credential_id: text(256) });

export function mountCredentials(api: Api, runtime: Runtime, admit: Admit): void {
  api.openapi(
    createRoute({
      method: 'post',
      path: '/credentials',
      ...admit.org('admin'),
      request: body(CreateCredential),
      responses: { 201: json(Credential, 'The credential, without its key.'), ...problems },
    }),
    async (context) => {
      const { org } = context.get('caller');
      const { provider, key, name, is_default } = context.req.valid('json');
      const { db } = runtime.database;
      const row = await insertCredential(
        db,
        org,
        newCredential(runtime, org, { provider, key, name: name ?? null }),
      );
      const made = is_default ? found(await setDefaultCredential(db, org, row.id)) : row;
      return context.json(renderCredential(made), 201);
    },
  );

  api.openapi(
    createRoute({
      method: 'get',
      path: '/credentials',
      ...admit.org('read'),
      request: { query: z.object({ limit: limit(50, 100), cursor: idCursor('cred_') }) },
      responses: {
        200: json(page(Credential), 'Newest first.'),
        ...problems,
      },
    }),
    async (context) => {
      const query = context.req.valid('query');
      const rows = await listCredentials(runtime.database.db, context.get('caller').org, query);
      return context.json(renderPage(rows.map(renderCredential), query.limit), 200);
    },
  );

  api.openapi(
    createRoute({
      method: 'put',
      path: '/credentials/default',
      ...admit.org('admin'),
      request: body(SetDefault),
      responses: { 200: json(Credential, 'The credential, now the default of its provider.'), ...problems },
    }),
    async (context) => {
      const { org } = context.get('caller');
      const { credential, provider } = context.req.valid('json');
      const row = found(await getCredential(runtime.database.db, org, credential));
      if (provider !== undefined && provider !== row.provider) {
        throw new OverwinterError('invalid', `the credential is for ${row.provider}`, 'provider');
      }
      const chosen = found(await setDefaultCredential(runtime.database.db, org, row.id));
      return context.json(renderCredential(chosen), 200);
    },
  );

  api.openapi(
    createRoute({
      method: 'patch',
      path: '/credentials/{credential_id}',
      ...admit.org('admin'),
      request: {
        params: CredentialPath,
        ...body(z.object({ key: Key }).openapi('RotateCredential', { example: { key: 'sk-ant-another' } })),
      },
      responses: { 200: json(Credential, 'The credential, with another key behind it.'), ...problems },
    }),
    async (context) => {
      const { org } = context.get('caller');
      const { credential_id } = context.req.valid('param');
      const sealed = sealKey(runtime, org, credential_id, context.req.valid('json').key);
      const row = found(await rotateCredential(runtime.database.db, org, credential_id, sealed));
      return context.json(renderCredential(row), 200);
    },
  );

  api.openapi(
    createRoute({
      method: 'delete',
      path: '/credentials/{credential_id}',
      ...admit.org('admin'),
      request: { params: CredentialPath },
      responses: { 204: { description: 'Gone; agents that used it fall back to the default.' }, ...problems },
    }),
    async (context) => {
      const { org } = context.get('caller');
      if (!(await deleteCredential(runtime.database.db, org, context.req.valid('param').credential_id))) {
        throw noCredential();
      }
      return context.body(null, 204);
    },
  );
}

/** A credential to be stored, its key sealed for its own row. */
export function newCredential(
  runtime: Runtime,
  org: string,
  { provider, key, name }: { provider: string; key: string; name: string | null },
): NewCredential {
  const id = runtime.newId('credential');
  return { id, provider, name, ...sealKey(runtime, org, id, key) };
}

export function sealKey(
  runtime: Runtime,
  org: string,
  id: string,
  key: string,
): { last4: string; sealed: string } {
  // A caller's id that names no place cannot be a credential either; the sealer would throw on it.
  if (!/^cred_[0-9a-f]+$/.test(id)) throw noCredential();
  const sealed = runtime.sealer.seal(key, { org, table: 'credential', id, column: 'sealed' });
  return { last4: key.slice(-LAST), sealed };
}

function found(row: CredentialRow | undefined): CredentialRow {
  if (!row) throw noCredential();
  return row;
}

function noCredential(): OverwinterError {
  return new OverwinterError('not_found', 'no such credential');
}
