/** Published ports: what listens on them inside is reached by visitors under a URL of this server, without a key. */
import { createRoute, z } from '@hono/zod-openapi';
import { getComputer } from '../../engine/computers/owner.ts';
import { publish } from '../../engine/computers/publish.ts';
import { listPorts, unpublishPort } from '../../store/computer/ports.ts';
import { body, json, type Api } from '../api.ts';
import type { Ground } from './app.ts';
import { details } from './error.ts';
import { ComputerPath, PublishedPort, renderPort } from './wire.ts';

const PORT = { min: 1024, max: 65_535, standard: 8000 };

const Publish = z
  .object({
    port: z.int().min(PORT.min).max(PORT.max).nullish(),
    force: z.boolean().nullish().openapi({ description: 'Of no effect.' }),
  })
  .openapi('PublishPort', { example: { port: PORT.standard } });

const PortPath = ComputerPath.extend({
  port: z
    .string()
    .regex(/^\d{4,5}$/, 'must be a port')
    .transform(Number)
    .refine((port) => port >= PORT.min && port <= PORT.max, `must be between ${PORT.min} and ${PORT.max}`)
    .openapi({ type: 'integer', minimum: PORT.min, maximum: PORT.max }),
});

const path = '/computers/{computer_id}/published-ports';

export function mountPublishedPorts(api: Api, { runtime, open, port_url }: Ground): void {
  const { database } = runtime;
  api.openapi(
    createRoute({
      ...{ method: 'post', path, ...open('write') },
      request: { ...body(Publish), params: ComputerPath },
      responses: { 200: json(PublishedPort, 'Published, now or before.'), ...details },
    }),
    async (context) => {
      const { org } = context.get('caller');
      const port = context.req.valid('json').port ?? PORT.standard;
      const computer = await getComputer(runtime, org, context.req.valid('param').computer_id);
      const row = await publish(runtime, org, computer, port);
      return context.json(renderPort(row, port_url), 200);
    },
  );

  api.openapi(
    createRoute({
      ...{ method: 'get', path, ...open('read') },
      request: { params: ComputerPath },
      responses: { 200: json(z.array(PublishedPort), 'All of them.'), ...details },
    }),
    async (context) => {
      const { org } = context.get('caller');
      const { id } = await getComputer(runtime, org, context.req.valid('param').computer_id);
      const rows = await listPorts(database.db, org, [id]);
      const rendered = rows.map((row) => renderPort(row, port_url));
      return context.json(rendered, 200);
    },
  );

  api.openapi(
    createRoute({
      ...{ method: 'delete', path: `${path}/{port}`, ...open('write') },
      request: { params: PortPath },
      responses: { 200: json(PublishedPort, 'Not published, also when it never was.'), ...details },
    }),
    async (context) => {
      const { org } = context.get('caller');
      const { computer_id, port } = context.req.valid('param');
      const { id } = await getComputer(runtime, org, computer_id);
      await unpublishPort(database.db, org, id, port);
      const over = { id: null, status: 'unpublished', url: null, created_at: null } as const;
      return context.json({ ...over, computer_id: id, port }, 200);
    },
  );
}
