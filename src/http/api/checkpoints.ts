/** Checkpoints: snapshots of the files of a sandbox, under the name that its clients give them. Processes are not part of them. */
import { createRoute, z } from '@hono/zod-openapi';
import { removeSnapshot, rewindComputer, takeSnapshot } from '../../engine/computers/snapshots.ts';
import { OverwinterError } from '../../resource/error.ts';
import { getSnapshot, listSnapshots, type SnapshotRow } from '../../store/computer/snapshots.ts';
import { body, json, text, type Api } from '../api.ts';
import { Time } from '../wire.ts';
import type { Ground } from './app.ts';
import { refusals } from './error.ts';
import { findSandbox } from './find.ts';
import { SandboxPath } from './wire.ts';

const LISTED_MAX = 200;
const KEPT = { standard: 10, max: 100 };

const Retention = z.discriminatedUnion('mode', [
  z.object({ mode: z.literal('none') }),
  z.object({
    mode: z.literal('delete_oldest'),
    maxCount: z.int().min(1).max(KEPT.max).default(KEPT.standard),
  }),
]);

const Create = z
  .object({
    name: text(256).min(1),
    kind: z.enum(['full', 'disk_only']).optional().openapi({ description: '`full` is not supported.' }),
    promoteToFull: z.boolean().optional().openapi({ description: 'Not supported.' }),
    retentionPolicy: Retention.optional().openapi({ description: 'Which others go when this one is made.' }),
  })
  .openapi('CreateCheckpoint', { example: { name: 'before the upgrade' } });

const Checkpoint = z
  .object({
    id: z.string(),
    sandboxId: z.string(),
    orgId: z.string(),
    name: z.string(),
    kind: z.literal('disk_only'),
    sandboxConfig: z.object({ cpuCount: z.number(), memoryMB: z.int(), diskMB: z.int() }),
    status: z.literal('ready'),
    sizeBytes: z.int().openapi({ description: 'Compressed.' }),
    createdAt: Time,
  })
  .openapi('Checkpoint');

const CheckpointPath = SandboxPath.extend({ checkpoint_id: text(64) });
const path = '/sandboxes/{sandbox_id}/checkpoints';

export function mountCheckpoints(api: Api, ground: Ground): void {
  mountCollection(api, ground);
  mountOne(api, ground);
}

function mountCollection(api: Api, ground: Ground): void {
  const { runtime, computers, admit } = ground;
  api.openapi(
    createRoute({
      ...{ method: 'post', path, ...admit.org('write') },
      request: { params: SandboxPath, ...body(Create) },
      responses: { 201: json(Checkpoint, 'A copy of its files as they are now.'), ...refusals },
    }),
    async (context) => {
      const { org } = context.get('caller');
      const { name, kind, promoteToFull, retentionPolicy } = context.req.valid('json');
      if (kind === 'full' || promoteToFull === true)
        throw noMemory(kind === 'full' ? 'kind' : 'promoteToFull');
      const state = await findSandbox(ground, org, context.req.valid('param').sandbox_id);
      const made = await takeSnapshot(runtime, computers, org, state, name);
      if (retentionPolicy?.mode === 'delete_oldest')
        await keepNewest(ground, org, state.id, retentionPolicy.maxCount);
      return context.json(render(made), 201);
    },
  );

  api.openapi(
    createRoute({
      ...{ method: 'get', path, ...admit.org('read') },
      request: { params: SandboxPath },
      responses: { 200: json(z.array(Checkpoint), `Newest first; ${LISTED_MAX} at most.`), ...refusals },
    }),
    async (context) => {
      const { org } = context.get('caller');
      const { id } = await findSandbox(ground, org, context.req.valid('param').sandbox_id);
      const rows = await listSnapshots(runtime.database.db, org, { computer_id: id, limit: LISTED_MAX });
      return context.json(rows.map(render), 200);
    },
  );
}

function mountOne(api: Api, ground: Ground): void {
  const { runtime, computers, admit } = ground;
  const find = async (org: string, { sandbox_id, checkpoint_id }: z.infer<typeof CheckpointPath>) => {
    const state = await findSandbox(ground, org, sandbox_id);
    const row = await getSnapshot(runtime.database.db, org, checkpoint_id);
    if (row?.computer_id !== state.id)
      throw new OverwinterError('not_found', 'no such checkpoint of this sandbox');
    return { state, row };
  };

  api.openapi(
    createRoute({
      ...{ method: 'post', path: `${path}/{checkpoint_id}/restore`, ...admit.org('write') },
      request: { params: CheckpointPath },
      responses: {
        204: { description: 'It has the files of the checkpoint, and no process from before.' },
        ...refusals,
      },
    }),
    async (context) => {
      const { state, row } = await find(context.get('caller').org, context.req.valid('param'));
      await rewindComputer(computers, state, row);
      return context.body(null, 204);
    },
  );

  api.openapi(
    createRoute({
      ...{ method: 'delete', path: `${path}/{checkpoint_id}`, ...admit.org('write') },
      request: { params: CheckpointPath },
      responses: { 204: { description: 'Sandboxes that were made from it keep their files.' }, ...refusals },
    }),
    async (context) => {
      const { org } = context.get('caller');
      const { row } = await find(org, context.req.valid('param'));
      await removeSnapshot(runtime, org, row.id);
      return context.body(null, 204);
    },
  );
}

async function keepNewest(
  { runtime }: Ground,
  org: string,
  computer_id: string,
  count: number,
): Promise<void> {
  const rows = await listSnapshots(runtime.database.db, org, { computer_id, limit: LISTED_MAX });
  const named = rows.filter(({ name }) => name !== null);
  for (const { id } of named.slice(count)) await removeSnapshot(runtime, org, id).catch(unlessGone);
}

/** Another request had to remove it too. */
function unlessGone(error: unknown): void {
  if (!(error instanceof OverwinterError && error.code === 'not_found')) throw error;
}

function noMemory(field: string): OverwinterError {
  return new OverwinterError(
    'not_supported',
    `"${field}": checkpoints hold files, not memory: only disk_only is served`,
    field,
  );
}

function render({
  id,
  org,
  computer_id,
  name,
  spec,
  bytes,
  created_at,
}: SnapshotRow): z.infer<typeof Checkpoint> {
  return {
    ...{ id, sandboxId: computer_id, orgId: org, name: name ?? '', kind: 'disk_only', status: 'ready' },
    sandboxConfig: { cpuCount: spec.vcpus, memoryMB: spec.ram_mb, diskMB: spec.disk_size_mb },
    ...{ sizeBytes: bytes, createdAt: created_at.toISOString() },
  };
}
