/** Client tokens: access to one session for a browser (contract §2.4). Minted, listed and revoked with an org key. */
import { createRoute, z } from '@hono/zod-openapi';
import type { Runtime } from '../../engine/runtime.ts';
import { mintClientToken } from '../../engine/sessions.ts';
import { OverwinterError } from '../../resource/error.ts';
import {
  listClientTokens,
  revokeClientToken,
  revokeClientTokens,
  type ClientTokenRow,
} from '../../store/client-tokens.ts';
import { idCursor, json, limit, page, renderPage, text, type Api } from '../api.ts';
import type { Admit } from '../auth.ts';
import { problems } from '../error.ts';
import type { Revocations } from '../revocations.ts';
import { Time } from '../wire.ts';

const Scopes = z.array(z.enum(['read', 'steer']));

const MintClientToken = z
  .object({
    scopes: Scopes.min(1).nullish(),
    ttl: z.number().nullish().openapi({ description: 'Seconds; brought into 60..86400. Default 3600.' }),
  })
  .openapi('MintClientToken', { example: { scopes: ['read'], ttl: 600 } });

const MintedClientToken = z
  .object({
    id: z.string(),
    token: z.string(),
    client_token: z.string().openapi({ description: 'The same as `token`.' }),
    scopes: Scopes,
    expires_at: Time,
  })
  .openapi('MintedClientToken');

const ClientToken = z
  .object({
    id: z.string(),
    scopes: Scopes,
    created_at: Time,
    expires_at: Time,
    revoked_at: Time.nullable(),
  })
  .openapi('ClientToken');

const SessionPath = z.object({ session_id: z.string() });

export function mountClientTokens(api: Api, runtime: Runtime, admit: Admit, revocations: Revocations): void {
  mountMint(api, runtime, admit);
  mountList(api, runtime, admit);
  mountRevoke(api, runtime, admit, revocations);
}

function mountMint(api: Api, runtime: Runtime, admit: Admit): void {
  api.openapi(
    createRoute({
      method: 'post',
      path: '/sessions/{session_id}/client-tokens',
      ...admit.session('write'),
      request: {
        params: SessionPath,
        body: { required: false, content: { 'application/json': { schema: MintClientToken } } },
      },
      responses: { 201: json(MintedClientToken, 'The token, shown once.'), ...problems },
    }),
    async (context) => {
      const { scopes, ttl } = context.req.valid('json');
      const minted = await mintClientToken(runtime, context.get('caller'), context.get('session').id, {
        scopes: scopes ?? undefined,
        ttl_s: ttl ?? undefined,
      });
      const { id, token, expires_at } = minted;
      const answer = {
        ...{ id, token, client_token: token },
        scopes: minted.scopes,
        expires_at: expires_at.toISOString(),
      };
      return context.json(answer, 201);
    },
  );
}

function mountList(api: Api, runtime: Runtime, admit: Admit): void {
  api.openapi(
    createRoute({
      method: 'get',
      path: '/sessions/{session_id}/client-tokens',
      ...admit.session('read'),
      request: { params: SessionPath, query: z.object({ limit: limit(50, 100), cursor: idCursor('ctk_') }) },
      responses: {
        200: json(page(ClientToken), 'Newest first; never the tokens themselves.'),
        ...problems,
      },
    }),
    async (context) => {
      const query = context.req.valid('query');
      const { org } = context.get('caller');
      const rows = await listClientTokens(runtime.database.db, org, context.get('session').id, query);
      return context.json(renderPage(rows.map(render), query.limit), 200);
    },
  );
}

function mountRevoke(api: Api, runtime: Runtime, admit: Admit, revocations: Revocations): void {
  api.openapi(
    createRoute({
      method: 'delete',
      path: '/sessions/{session_id}/client-tokens/{token_id}',
      ...admit.session('write'),
      request: { params: SessionPath.extend({ token_id: text(256) }) },
      responses: { 204: { description: 'Revoked, also on open streams.' }, ...problems },
    }),
    async (context) => {
      const { org } = context.get('caller');
      const { token_id } = context.req.valid('param');
      const { db } = runtime.database;
      if (!(await revokeClientToken(db, org, context.get('session').id, token_id)))
        throw new OverwinterError('not_found', 'no such client token');
      void revocations.check();
      return context.body(null, 204);
    },
  );

  api.openapi(
    createRoute({
      method: 'delete',
      path: '/sessions/{session_id}/client-tokens',
      ...admit.session('write'),
      request: { params: SessionPath },
      responses: { 204: { description: 'All are revoked, also on open streams.' }, ...problems },
    }),
    async (context) => {
      await revokeClientTokens(runtime.database.db, context.get('caller').org, context.get('session').id);
      void revocations.check();
      return context.body(null, 204);
    },
  );
}

function render(row: ClientTokenRow): z.infer<typeof ClientToken> {
  const { id, scopes, created_at, expires_at, revoked_at } = row;
  return {
    ...{ id, scopes },
    created_at: created_at.toISOString(),
    expires_at: expires_at.toISOString(),
    revoked_at: revoked_at?.toISOString() ?? null,
  };
}
