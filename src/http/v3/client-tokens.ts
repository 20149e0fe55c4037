/** Client tokens: access to one session for a browser (contract §2.4). Minted with an org key. */
import { createRoute, z } from '@hono/zod-openapi';
import type { Runtime } from '../../engine/runtime.ts';
import { mintClientToken } from '../../engine/sessions.ts';
import { json, type Api } from '../api.ts';
import type { Admit } from '../auth.ts';
import { problems } from '../error.ts';

const MintClientToken = z
  .object({
    scopes: z
      .array(z.enum(['read', 'steer']))
      .min(1)
      .nullish(),
    ttl: z.number().nullish().openapi({ description: 'Seconds; brought into 60..86400. Default 3600.' }),
  })
  .openapi('MintClientToken');

const ClientToken = z
  .object({
    token: z.string(),
    client_token: z.string().openapi({ description: 'The same as `token`.' }),
    scopes: z.array(z.enum(['read', 'steer'])),
    expires_at: z.string().openapi({ format: 'date-time' }),
  })
  .openapi('ClientToken');

export function mountClientTokens(api: Api, runtime: Runtime, admit: Admit): void {
  api.openapi(
    createRoute({
      method: 'post',
      path: '/sessions/{session_id}/client-tokens',
      ...admit.session(),
      request: {
        params: z.object({ session_id: z.string() }),
        body: { required: false, content: { 'application/json': { schema: MintClientToken } } },
      },
      responses: { 201: json(ClientToken, 'The token, shown once.'), ...problems },
    }),
    async (context) => {
      const { scopes, ttl } = context.req.valid('json');
      const minted = await mintClientToken(runtime, context.get('caller').org, context.get('session').id, {
        scopes: scopes ?? undefined,
        ttl_s: ttl ?? undefined,
      });
      const { token, expires_at } = minted;
      const answer = {
        token,
        client_token: token,
        scopes: minted.scopes,
        expires_at: expires_at.toISOString(),
      };
      return context.json(answer, 201);
    },
  );
}
