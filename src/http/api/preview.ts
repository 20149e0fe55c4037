/**
 * Preview URLs: published ports whose visits wake a sandbox that hibernates, and bring back the server in it where its start command is
 * known. The token that visitors may need is the sandbox's, for all of its ports.
 */
import { createRoute, z } from '@hono/zod-openapi';
import { publish, unpublish } from '../../engine/computers/publish.ts';
import { digest } from '../../secret/key.ts';
import { changeKeeping } from '../../store/computer/keeping.ts';
import { listPorts, type PublishedPortRow } from '../../store/computer/ports.ts';
import { OverwinterError } from '../../resource/error.ts';
import { body, json, text, type Api } from '../api.ts';
import { Time } from '../wire.ts';
import type { Ground } from './app.ts';
import { refusals } from './error.ts';
import { findSandbox } from './find.ts';
import { hostOf } from '../published/host.ts';
import { makeToken } from './sandboxes.ts';
import { SandboxPath } from './wire.ts';

const PORT = { min: 1024, max: 65_535 };

const Create = z
  .object({
    port: z.int().min(PORT.min).max(PORT.max),
    startCommand: text(8192)
      .min(1)
      .optional()
      .openapi({ description: 'A bash script. When nothing listens at a visit it is run, and waited for.' }),
    authConfig: z.record(z.string(), z.unknown()).optional().openapi({ description: 'Must be empty.' }),
    domain: z.string().optional().openapi({ description: 'Not supported.' }),
  })
  .openapi('CreatePreview', { example: { port: 8000, startCommand: 'python3 -m http.server 8000' } });

const Preview = z
  .object({
    id: z.string(),
    sandboxId: z.string(),
    orgId: z.string(),
    hostname: z.string(),
    url: z.string(),
    port: z.int(),
    startCommand: z.string().nullable(),
    sslStatus: z.enum(['active', 'none']),
    authConfig: z.record(z.string(), z.unknown()),
    createdAt: Time,
  })
  .openapi('Preview');

const Rotated = z.object({ previewAuthToken: z.string() }).openapi('PreviewAuthToken');

const PortPath = SandboxPath.extend({
  port: z
    .string()
    .regex(/^\d{1,5}$/, 'must be a port')
    .transform(Number)
    .openapi({ type: 'integer', minimum: PORT.min, maximum: PORT.max }),
});
const path = '/sandboxes/{sandbox_id}/preview';

export function mountPreview(api: Api, ground: Ground): void {
  mountCollection(api, ground);
  mountRotate(api, ground);
  mountOne(api, ground);
}

function mountCollection(api: Api, ground: Ground): void {
  const { runtime, admit, ports_url } = ground;
  api.openapi(
    createRoute({
      ...{ method: 'post', path, ...admit.org('write') },
      request: { params: SandboxPath, ...body(Create) },
      responses: { 201: json(Preview, 'It leads there, now or before.'), ...refusals },
    }),
    async (context) => {
      const { org } = context.get('caller');
      const { port, startCommand, authConfig = {}, domain } = context.req.valid('json');
      if (domain !== undefined) throw notServed('domain', 'host names of your own are not served');
      if (Object.keys(authConfig).length > 0)
        throw notServed(
          'authConfig',
          'a token is for the whole sandbox: previewAuth at create, or preview/rotate',
        );
      const state = await findSandbox(ground, org, context.req.valid('param').sandbox_id);
      const started = startCommand === undefined ? {} : { start_command: startCommand };
      const row = await publish(runtime, org, state, port, { wakes: true, ...started });
      return context.json(render(row, ports_url()), 201);
    },
  );

  api.openapi(
    createRoute({
      ...{ method: 'get', path, ...admit.org('read') },
      request: { params: SandboxPath },
      responses: { 200: json(z.array(Preview), 'All of them, by port.'), ...refusals },
    }),
    async (context) => {
      const { org } = context.get('caller');
      const { id } = await findSandbox(ground, org, context.req.valid('param').sandbox_id);
      const rows = await listPorts(runtime.database.db, org, [id]);
      return context.json(
        rows.map((row) => render(row, ports_url())),
        200,
      );
    },
  );
}

function mountRotate(api: Api, ground: Ground): void {
  api.openapi(
    createRoute({
      ...{ method: 'post', path: `${path}/rotate`, ...ground.admit.org('write') },
      request: { params: SandboxPath },
      responses: { 200: json(Rotated, 'From now on visitors must bear it; said this once.'), ...refusals },
    }),
    async (context) => {
      const { org } = context.get('caller');
      const { id, status } = await findSandbox(ground, org, context.req.valid('param').sandbox_id);
      if (status === 'deleted' || status === 'deleting')
        throw new OverwinterError('conflict', `the computer is ${status}: it has no visitors any more`);
      const token = makeToken();
      await changeKeeping(ground.runtime.database.db, org, id, { preview_digest: digest(token) });
      return context.json({ previewAuthToken: token }, 200);
    },
  );
}

function mountOne(api: Api, ground: Ground): void {
  api.openapi(
    createRoute({
      ...{ method: 'delete', path: `${path}/{port}`, ...ground.admit.org('write') },
      request: { params: PortPath },
      responses: { 204: { description: 'It leads nowhere any more.' }, ...refusals },
    }),
    async (context) => {
      const { org } = context.get('caller');
      const { sandbox_id, port } = context.req.valid('param');
      const { id } = await findSandbox(ground, org, sandbox_id);
      await unpublish(ground.runtime, org, id, port);
      return context.body(null, 204);
    },
  );
}

function notServed(field: string, sentence: string): OverwinterError {
  return new OverwinterError('not_supported', `"${field}": ${sentence}`, field);
}

function render(row: PublishedPortRow, ports_url: string): z.infer<typeof Preview> {
  const { id, org, computer_id, port, start_command, created_at } = row;
  const hostname = hostOf(ports_url, computer_id, port);
  const scheme = new URL(ports_url.replace('*', 'p')).protocol;
  return {
    ...{ id, sandboxId: computer_id, orgId: org, hostname, url: `${scheme}//${hostname}`, port },
    ...{ startCommand: start_command, sslStatus: scheme === 'https:' ? 'active' : 'none', authConfig: {} },
    createdAt: created_at.toISOString(),
  };
}
