/** Snapshots and copies of computers (ours: the contract has none). */
import { createRoute, z } from '@hono/zod-openapi';
import { getComputer } from '../../engine/computers/owner.ts';
import { COPIES_MAX, forkComputer, removeSnapshot, takeSnapshot } from '../../engine/computers/snapshots.ts';
import { OverwinterError } from '../../resource/error.ts';
import { getSnapshot, listSnapshots, type SnapshotRow } from '../../store/computer/snapshots.ts';
import { body, json, text, type Api } from '../api.ts';
import { Time } from '../wire.ts';
import type { Ground } from './app.ts';
import { details } from './error.ts';
import { Computer, ComputerPath, Count, renderComputer } from './wire.ts';

const Snapshot = z
  .object({
    id: z.string(),
    computer_id: z.string(),
    name: z.string().nullable(),
    size_bytes: z.int().openapi({ description: 'Compressed.' }),
    created_at: Time,
  })
  .openapi('Snapshot');

const TakeSnapshot = z
  .object({ name: text(256).min(1).nullish() })
  .openapi('TakeSnapshot', { example: { name: 'before the upgrade' } });

const Fork = z
  .object({ count: z.int().min(1).max(COPIES_MAX).default(1) })
  .openapi('Fork', { example: { count: 2 } });

const SnapshotList = z.object({ snapshots: z.array(Snapshot), count: z.int() });
const Copies = z.object({ computers: z.array(Computer), count: z.int() });
const SnapshotPath = z.object({ snapshot_id: text(64) });

export function mountSnapshots(api: Api, ground: Ground): void {
  mountOfComputer(api, ground);
  mountFork(api, ground);
  mountOfOrg(api, ground);
}

function mountOfComputer(api: Api, { runtime, computers, open }: Ground): void {
  api.openapi(
    createRoute({
      method: 'post',
      path: '/computers/{computer_id}/snapshots',
      ...open('write'),
      request: { ...body(TakeSnapshot), params: ComputerPath },
      responses: {
        201: json(Snapshot, 'A copy of its files; create a computer from it by `snapshot_id`.'),
        ...details,
      },
    }),
    async (context) => {
      const { org } = context.get('caller');
      const computer = await getComputer(runtime, org, context.req.valid('param').computer_id);
      const { name = null } = context.req.valid('json');
      return context.json(render(await takeSnapshot(runtime, computers, org, computer, name)), 201);
    },
  );

  api.openapi(
    createRoute({
      method: 'get',
      path: '/computers/{computer_id}/snapshots',
      ...open('read'),
      request: { params: ComputerPath, query: z.object({ limit: Count }) },
      responses: { 200: json(SnapshotList, 'Newest first.'), ...details },
    }),
    async (context) => {
      const { org } = context.get('caller');
      const { id } = await getComputer(runtime, org, context.req.valid('param').computer_id);
      const filter = { computer_id: id, limit: context.req.valid('query').limit };
      return context.json(renderList(await listSnapshots(runtime.database.db, org, filter)), 200);
    },
  );
}

function mountFork(api: Api, { runtime, computers, open, port_url }: Ground): void {
  api.openapi(
    createRoute({
      method: 'post',
      path: '/computers/{computer_id}/fork',
      ...open('write'),
      request: { ...body(Fork), params: ComputerPath },
      responses: { 201: json(Copies, 'New computers with the files that it has now.'), ...details },
    }),
    async (context) => {
      const { org } = context.get('caller');
      const computer = await getComputer(runtime, org, context.req.valid('param').computer_id);
      const { count } = context.req.valid('json');
      const copies = await forkComputer(runtime, computers, org, computer, count);
      const rendered = copies.map((copy) => renderComputer(copy, [], port_url));
      return context.json({ computers: rendered, count: rendered.length }, 201);
    },
  );
}

function mountOfOrg(api: Api, { runtime, open }: Ground): void {
  api.openapi(
    createRoute({
      method: 'get',
      path: '/snapshots',
      ...open('read'),
      request: { query: z.object({ limit: Count }) },
      responses: { 200: json(SnapshotList, 'Newest first.'), ...details },
    }),
    async (context) => {
      const { limit } = context.req.valid('query');
      return context.json(
        renderList(await listSnapshots(runtime.database.db, context.get('caller').org, { limit })),
        200,
      );
    },
  );

  api.openapi(
    createRoute({
      method: 'get',
      path: '/snapshots/{snapshot_id}',
      ...open('read'),
      request: { params: SnapshotPath },
      responses: { 200: json(Snapshot, 'The snapshot.'), ...details },
    }),
    async (context) => {
      const { snapshot_id } = context.req.valid('param');
      const row = await getSnapshot(runtime.database.db, context.get('caller').org, snapshot_id);
      if (!row) throw new OverwinterError('not_found', 'no such snapshot');
      return context.json(render(row), 200);
    },
  );

  api.openapi(
    createRoute({
      method: 'delete',
      path: '/snapshots/{snapshot_id}',
      ...open('write'),
      request: { params: SnapshotPath },
      responses: {
        200: json(Snapshot, 'As it was. Computers that were made from it keep their files.'),
        ...details,
      },
    }),
    async (context) => {
      const { snapshot_id } = context.req.valid('param');
      return context.json(render(await removeSnapshot(runtime, context.get('caller').org, snapshot_id)), 200);
    },
  );
}

function render({ id, computer_id, name, bytes, created_at }: SnapshotRow): z.infer<typeof Snapshot> {
  return { id, computer_id, name, size_bytes: bytes, created_at: created_at.toISOString() };
}

function renderList(rows: SnapshotRow[]): z.infer<typeof SnapshotList> {
  return { snapshots: rows.map(render), count: rows.length };
}
