/** Computers: make, list, read, start, stop, delete; and what they can be made from. */
import { createRoute, z } from '@hono/zod-openapi';
import {
  createComputer,
  deleteComputer,
  getComputer,
  startComputer,
  stopComputer,
} from '../../engine/computers/owner.ts';
import { COMPUTER_STATUSES, expectLegal, type ComputerState } from '../../resource/computer/life.ts';
import { NetworkPolicy, RANGES } from '../../resource/computer/spec.ts';
import { listComputers } from '../../store/computer/computers.ts';
import { listPorts } from '../../store/computer/ports.ts';
import { body, json, text, type Api } from '../api.ts';
import type { Ground } from './app.ts';
import { details } from './error.ts';
import { Computer, ComputerPath, Count, renderComputer, renderTemplates, Template } from './wire.ts';

const whole = ({ min, max }: { min: number; max: number }) => z.int().min(min).max(max).nullish();

const CreateComputer = z
  .object({
    vcpus: whole(RANGES.vcpus),
    ram_mb: whole(RANGES.ram_mb),
    disk_size_mb: whole(RANGES.disk_size_mb),
    image: text(255).min(1).nullish().openapi({ description: 'An alias of a template.' }),
    template_id: text(64).min(1).nullish(),
    template_version: text(128).min(1).nullish(),
    network_policy: NetworkPolicy.nullish(),
    external_volume_enabled: z
      .literal(false, 'volumes are not served: the files of a computer outlive its stop without one')
      .nullish(),
    size_id: z.null('sizes are not served: give vcpus, ram_mb and disk_size_mb').optional(),
    snapshot_id: text(64).min(1).nullish().openapi({ description: 'Its first files come from it.' }),
    driver: z.enum(['bwrap', 'docker', 'process']).nullish(),
  })
  .openapi('CreateComputer', {
    example: { vcpus: 1, ram_mb: 1024, image: 'ubuntu-desktop-24.04', network_policy: { mode: 'off' } },
  });

const ComputerList = z.object({ computers: z.array(Computer), count: z.int() });

const ListQuery = z.object({
  status: z
    .enum(COMPUTER_STATUSES)
    .optional()
    .openapi({ description: 'Deleted computers are listed only when they are asked for.' }),
  template_id: text(64).optional(),
  project_id: text(36).optional().openapi({ description: 'Of no effect: an org has no projects.' }),
  limit: Count,
});

const BULK_MAX = 100;
/** Of one request, deleted at the same time. */
const BULK_AT_ONCE = 8;

const BulkDelete = z
  .object({ computer_ids: z.array(text(256)).min(1).max(BULK_MAX) })
  .openapi('BulkDelete', { example: { computer_ids: ['cmp_000000000000000000000000'] } });

const BulkDeleted = z.object({
  deleted: z.int(),
  deleted_ids: z.array(z.string()),
  failed_ids: z.array(z.string()),
});

const Made = z.object({ 'idempotency-key': text(256).min(1).optional() });
const one = json(Computer, 'The computer.');

export function mountComputers(api: Api, ground: Ground): void {
  mountCollection(api, ground);
  mountBulkDelete(api, ground);
  mountOne(api, ground);
  mountLife(api, ground);
}

function mountCollection(api: Api, ground: Ground): void {
  const { runtime, computers, open } = ground;
  api.openapi(
    createRoute({
      method: 'post',
      path: '/computers',
      ...open('write'),
      request: { ...body(CreateComputer), headers: Made },
      responses: { 201: json(Computer, 'It runs, or is in `error` and says why.'), ...details },
    }),
    async (context) => {
      const state = await createComputer(runtime, computers, context.get('caller').org, {
        ...withoutNulls(context.req.valid('json')),
        idempotency_key: context.req.valid('header')['idempotency-key'],
      });
      return context.json(await render(ground, context.get('caller').org, state), 201);
    },
  );

  api.openapi(
    createRoute({
      method: 'get',
      path: '/computers',
      ...open('read'),
      request: { query: ListQuery },
      responses: { 200: json(ComputerList, 'Newest first.'), ...details },
    }),
    async (context) => {
      const { org } = context.get('caller');
      const { status, template_id, limit } = context.req.valid('query');
      const { db } = runtime.database;
      const states = await listComputers(db, org, { status, template_id, limit });
      const ids = states.map(({ id }) => id);
      const ports = await listPorts(db, org, ids);
      const rendered = states.map((state) => renderComputer(state, ports, ground.port_url));
      return context.json({ computers: rendered, count: rendered.length }, 200);
    },
  );

  api.openapi(
    createRoute({
      method: 'get',
      path: '/computers/templates',
      ...open('read'),
      responses: { 200: json(z.array(Template), 'All of them.'), ...details },
    }),
    (context) => context.json(renderTemplates(), 200),
  );
}

function mountBulkDelete(api: Api, { runtime, computers, open }: Ground): void {
  api.openapi(
    createRoute({
      method: 'post',
      path: '/computers/bulk-delete',
      ...open('write'),
      request: body(BulkDelete),
      responses: { 200: json(BulkDeleted, 'Each id by itself: one that fails stops no other.'), ...details },
    }),
    async (context) => {
      const ids = [...new Set(context.req.valid('json').computer_ids)];
      const { org } = context.get('caller');
      const gone = new Set<string>();
      await eachOf(ids, BULK_AT_ONCE, async (id) => {
        const { status } = await deleteComputer(computers, await getComputer(runtime, org, id));
        if (status === 'deleted' || status === 'deleting') gone.add(id);
      });
      const deleted_ids = ids.filter((id) => gone.has(id));
      const failed_ids = ids.filter((id) => !gone.has(id));
      return context.json({ deleted: gone.size, deleted_ids, failed_ids }, 200);
    },
  );
}

function mountOne(api: Api, ground: Ground): void {
  const { runtime, computers, open } = ground;
  const path = '/computers/{computer_id}';
  api.openapi(
    createRoute({
      ...{ method: 'get', path, ...open('read') },
      request: { params: ComputerPath },
      responses: { 200: one, ...details },
    }),
    async (context) => {
      const { org } = context.get('caller');
      const state = await getComputer(runtime, org, context.req.valid('param').computer_id);
      return context.json(await render(ground, org, state), 200);
    },
  );

  api.openapi(
    createRoute({
      ...{ method: 'delete', path, ...open('write') },
      request: { params: ComputerPath },
      responses: { 200: json(Computer, 'As it was last: nothing of it is left.'), ...details },
    }),
    async (context) => {
      const { org } = context.get('caller');
      const state = await getComputer(runtime, org, context.req.valid('param').computer_id);
      return context.json(await render(ground, org, await deleteComputer(computers, state)), 200);
    },
  );
}

/** What is asked of one computer without a body. Each is over when it answers: clients go on at once. */
function mountLife(api: Api, ground: Ground): void {
  const { computers, runtime } = ground;
  mountDoing(api, ground, '/computers/{computer_id}/stop', (state) => stopComputer(computers, state));
  const start = (state: ComputerState) => startComputer(runtime, computers, state);
  mountDoing(api, ground, '/computers/{computer_id}/start', start);
  mountDoing(api, ground, '/computers/{computer_id}/retry-restore', async (state) => {
    expectLegal(state.status, 'restore');
    return await start(state);
  });
}

function mountDoing(
  api: Api,
  ground: Ground,
  path: `/computers/{computer_id}/${string}`,
  act: (state: ComputerState) => Promise<ComputerState>,
): void {
  api.openapi(
    createRoute({
      ...{ method: 'post', path, ...ground.open('write') },
      request: { params: ComputerPath },
      responses: { 200: one, ...details },
    }),
    async (context) => {
      const { org } = context.get('caller');
      const { computer_id } = context.req.valid('param');
      const state = await act(await getComputer(ground.runtime, org, computer_id));
      return context.json(await render(ground, org, state), 200);
    },
  );
}

async function render(
  { runtime, port_url }: Ground,
  org: string,
  state: ComputerState,
): Promise<z.infer<typeof Computer>> {
  return renderComputer(state, await listPorts(runtime.database.db, org, [state.id]), port_url);
}

type WithoutNulls<Fields> = { [Name in keyof Fields]: Exclude<Fields[Name], null> };

/** These clients write `null` for what they leave to the server. */
function withoutNulls({
  size_id: _,
  external_volume_enabled: __,
  ...fields
}: z.infer<typeof CreateComputer>) {
  const given = Object.entries(fields).filter(([, value]) => value !== null && value !== undefined);
  return Object.fromEntries(given) as WithoutNulls<typeof fields>;
}

/** What `act` throws leaves the others alone. */
async function eachOf(ids: string[], at_once: number, act: (id: string) => Promise<void>): Promise<void> {
  for (let index = 0; index < ids.length; index += at_once)
    await Promise.allSettled(ids.slice(index, index + at_once).map(act));
}
