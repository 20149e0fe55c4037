/** Orgs of the installation: made with a first admin key, listed. For admin keys of the default org only. */
import { createRoute, z } from '@hono/zod-openapi';
import type { Runtime } from '../../engine/runtime.ts';
import { insertOrg, listOrgs, type OrgRow } from '../../store/orgs.ts';
import { body, idCursor, json, limit, page, renderPage, text, type Api } from '../api.ts';
import type { Admit } from '../auth.ts';
import { problems } from '../error.ts';
import { Time } from '../wire.ts';
import { CreatedApiKey, newApiKey, renderApiKey } from './api-keys.ts';

const FIRST_KEY_NAME = 'first';

const CreateOrg = z.object({ name: text(256).min(1) }).openapi('CreateOrg', { example: { name: 'acme' } });

const Org = z.object({ id: z.string(), name: z.string(), created_at: Time }).openapi('Org');

const CreatedOrg = Org.extend({
  api_key: CreatedApiKey.openapi({ description: "The org's first admin key, shown once." }),
}).openapi('CreatedOrg');

export function mountOrgs(api: Api, runtime: Runtime, admit: Admit): void {
  api.openapi(
    createRoute({
      method: 'post',
      path: '/orgs',
      ...admit.org('operator'),
      request: body(CreateOrg),
      responses: { 201: json(CreatedOrg, 'The org and its first key.'), ...problems },
    }),
    async (context) => {
      const { name } = context.req.valid('json');
      const { key, stored } = newApiKey(runtime, FIRST_KEY_NAME, ['admin'], null);
      const made = await insertOrg(runtime.database.db, { id: runtime.newId('org'), name }, stored);
      return context.json({ ...renderOrg(made.org), api_key: { ...renderApiKey(made.api_key), key } }, 201);
    },
  );

  api.openapi(
    createRoute({
      method: 'get',
      path: '/orgs',
      ...admit.org('operator'),
      request: { query: z.object({ limit: limit(50, 100), cursor: idCursor('org_') }) },
      responses: {
        200: json(page(Org), 'Newest first.'),
        ...problems,
      },
    }),
    async (context) => {
      const query = context.req.valid('query');
      const rows = await listOrgs(runtime.database.db, query);
      return context.json(renderPage(rows.map(renderOrg), query.limit), 200);
    },
  );
}

function renderOrg({ id, name, created_at }: OrgRow): z.infer<typeof Org> {
  return { id, name, created_at: created_at.toISOString() };
}
