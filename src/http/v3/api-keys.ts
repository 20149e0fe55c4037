/** API keys of an org: made, listed, revoked. Shown whole once, when made. Admin keys only. */
import { randomBytes } from 'node:crypto';
import { createRoute, z } from '@hono/zod-openapi';
import type { Runtime } from '../../engine/runtime.ts';
import { KEY_SCOPES, type KeyScope } from '../../resource/api-key.ts';
import { OverwinterError } from '../../resource/error.ts';
import { makeApiKey } from '../../secret/key.ts';
import {
  insertApiKey,
  listApiKeys,
  revokeApiKey,
  type ApiKeyRow,
  type NewApiKey,
} from '../../store/api-keys.ts';
import { body, idCursor, json, limit, page, renderPage, text, type Api } from '../api.ts';
import type { Admit } from '../auth.ts';
import { problems } from '../error.ts';
import type { Revocations } from '../revocations.ts';
import { Time } from '../wire.ts';

const YEAR_10000 = Date.UTC(10_000, 0);

const CreateApiKey = z
  .object({
    name: text(256).min(1),
    scopes: z
      .array(z.enum(KEY_SCOPES))
      .min(1)
      .openapi({ description: '`read` < `write` < `admin`: a key may do what its highest scope may.' }),
    expires_at: z.iso
      .datetime({ offset: true })
      .nullish()
      .openapi({ description: 'In the future, before the year 10000. Without it the key does not expire.' }),
  })
  .openapi('CreateApiKey', {
    example: { name: 'dashboard', scopes: ['read'], expires_at: '2099-01-01T00:00:00Z' },
  });

const ApiKey = z
  .object({
    id: z.string(),
    name: z.string(),
    prefix: z.string().openapi({ description: 'What the key begins with: `ow_` and 8 hex digits.' }),
    scopes: z.array(z.enum(KEY_SCOPES)),
    created_at: Time,
    expires_at: Time.nullable(),
    last_used_at: Time.nullable().openapi({ description: 'To the minute.' }),
    revoked_at: Time.nullable(),
  })
  .openapi('ApiKey');

/** With the key itself, which is kept nowhere. */
export const CreatedApiKey = ApiKey.extend({ key: z.string() }).openapi('CreatedApiKey');

export function mountApiKeys(api: Api, runtime: Runtime, admit: Admit, revocations: Revocations): void {
  api.openapi(
    createRoute({
      method: 'post',
      path: '/api-keys',
      ...admit.org('admin'),
      request: body(CreateApiKey),
      responses: { 201: json(CreatedApiKey, 'The key, shown once.'), ...problems },
    }),
    async (context) => {
      const { name, scopes, expires_at } = context.req.valid('json');
      const expiry = expiryOf(expires_at ?? undefined, runtime.now());
      const { key, stored } = newApiKey(runtime, name, scopes, expiry);
      const row = await insertApiKey(runtime.database.db, context.get('caller').org, stored);
      return context.json({ ...renderApiKey(row), key }, 201);
    },
  );

  api.openapi(
    createRoute({
      method: 'get',
      path: '/api-keys',
      ...admit.org('admin'),
      request: { query: z.object({ limit: limit(50, 100), cursor: idCursor('key_') }) },
      responses: {
        200: json(page(ApiKey), 'Newest first.'),
        ...problems,
      },
    }),
    async (context) => {
      const query = context.req.valid('query');
      const rows = await listApiKeys(runtime.database.db, context.get('caller').org, query);
      return context.json(renderPage(rows.map(renderApiKey), query.limit), 200);
    },
  );

  api.openapi(
    createRoute({
      method: 'delete',
      path: '/api-keys/{api_key_id}',
      ...admit.org('admin'),
      request: { params: z.object({ api_key_id: text(256) }) },
      responses: {
        204: {
          description:
            'Revoked, also on open streams. The last admin key of an org that does not expire is refused.',
        },
        ...problems,
      },
    }),
    async (context) => {
      const { api_key_id } = context.req.valid('param');
      await revokeApiKey(runtime.database.db, context.get('caller').org, api_key_id);
      void revocations.check();
      return context.body(null, 204);
    },
  );
}

/** A key and its row to store. */
export function newApiKey(
  runtime: Runtime,
  name: string,
  scopes: KeyScope[],
  expires_at: Date | null,
): { key: string; stored: NewApiKey } {
  const { key, ...made } = makeApiKey(randomBytes);
  const distinct = KEY_SCOPES.filter((scope) => scopes.includes(scope));
  return { key, stored: { id: runtime.newId('api_key'), name, ...made, scopes: distinct, expires_at } };
}

export function renderApiKey(row: ApiKeyRow): z.infer<typeof ApiKey> {
  const { id, name, public_id, scopes, created_at, expires_at, last_used_at, revoked_at } = row;
  return {
    ...{ id, name, prefix: `ow_${public_id}`, scopes },
    created_at: created_at.toISOString(),
    expires_at: expires_at?.toISOString() ?? null,
    last_used_at: last_used_at?.toISOString() ?? null,
    revoked_at: revoked_at?.toISOString() ?? null,
  };
}

function expiryOf(written: string | undefined, now: number): Date | null {
  if (written === undefined) return null;
  const time = Date.parse(written);
  if (time > now && time < YEAR_10000) return new Date(time);
  throw new OverwinterError('invalid', '"expires_at": must lie between now and the year 9999', 'expires_at');
}
