/**
 * Computers, proved by crashing: the server kills itself after a named effect of a computer's life; the next one carries out what was
 * meant, leaves nothing behind, and touches nothing that lives.
 */
import fs from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import failpoints from '../../fixtures/failpoints.json' with { type: 'json' };
import { numberOf } from '../helpers/fuzz/random.ts';
import { reply, text } from '../helpers/model/messages-api.ts';
import type { TestNode } from '../helpers/node.ts';
import { eventually, makeWorld, type World } from '../helpers/world.ts';

type Answer = {
  id: string;
  name: string;
  status: string;
  exit_code: number;
  stdout: string;
  computers: Answer[];
  snapshots: Answer[];
};

/** How often each place is killed at; `npm run test:crash` asks for a thousand kills in all. */
const ROUNDS = numberOf('OVERWINTER_CRASH_ROUNDS', 1);

const CREATE = ['computer.made', 'computer.intended', 'computer.woken', 'computer.recorded'];
const STOP = ['computer.stop_intended', 'computer.slept', 'computer.snapshotted', 'computer.stopped'];
const DELETE = [
  ...[
    'computer.delete_intended',
    'computer.destroyed',
    'blob.all_removed',
    'computer.snapshot_removed',
    'computer.forgotten',
  ],
  'computer.deleted',
];
const SNAPSHOT = ['snapshot.intended', 'snapshot.written', 'snapshot.recorded'];
const UNSNAPSHOT = ['snapshot.hidden', 'snapshot.blob_removed'];

describe('the places to be killed at', () => {
  it('are all that computers have', () => {
    const named = failpoints.filter((name) => /^(computer|snapshot)\.|^blob\.all_removed$/.test(name));
    const reached = [...CREATE, ...STOP, ...DELETE, ...SNAPSHOT, ...UNSNAPSHOT];
    const apart = ['computer.reaped', 'computer.rewind_copied', 'computer.rewound'];
    expect([...reached, ...apart].toSorted()).toEqual(named.toSorted());
  });
});

describe('killed after', () => {
  let world: World;
  let bystander: Answer;
  beforeAll(async () => {
    world = await makeWorld(() => reply(text('.')), { OVERWINTER_POLL_MS: '50' });
    const first = await world.start();
    bystander = await create(first);
    await exec(first, bystander, 'echo mine > kept');
    await first.stop();
  });
  afterAll(() => world.end());

  it.each([...CREATE, ...STOP, ...DELETE, ...SNAPSHOT, ...UNSNAPSHOT])(
    '%s leaves no orphan, and harms no other',
    { timeout: 40_000 * ROUNDS },
    async (failpoint) => {
      for (let round = 0; round < ROUNDS; round += 1) await killAndSettle(world, failpoint, bystander);
    },
  );

  it.each([
    ['computer.rewind_copied', 'has its files as they were', 'other\nfile\nmore\n'],
    ['computer.rewound', 'goes back to the snapshot when it is started', 'hello\nfile\n'],
  ])('%s %s', { timeout: 40_000 }, async (failpoint, _, files) => {
    const doomed = await world.start({ OVERWINTER_FAILPOINT: failpoint });
    const computer = await create(doomed);
    await exec(doomed, computer, 'echo hello > file');
    const { id } = await call(doomed, `POST /v1/computers/${computer.id}/snapshots`, {});
    await exec(doomed, computer, 'echo other > file; echo more > more');
    await expect(call(doomed, restoreOf(computer, id))).rejects.toThrow();
    await eventually(() => doomed.process.signalCode === 'SIGKILL');
    const node = await world.start();
    await eventually(async () => (await list(node)).every(({ status }) => AT_REST.has(status)));
    expect((await exec(node, computer, 'cat file; ls')).stdout).toBe(files);
    await call(node, restoreOf(computer, id));
    // It needs the snapshot no more.
    await call(node, `DELETE /v1/snapshots/${id}`);
    expect((await exec(node, computer, 'cat file; ls')).stdout).toBe('hello\nfile\n');
    await call(node, `DELETE /v1/computers/${computer.id}`);
    expect(fs.globSync(path.join(world.directory, 'blobs', 'computers', computer.id, '*'))).toEqual([]);
    await node.stop();
    await settle(world, bystander);
  });

  it('computer.reaped leaves the rest to the next', { timeout: 40_000 }, async () => {
    const doomed = await world.start({ OVERWINTER_FAILPOINT: 'computer.woken' });
    await create(doomed).catch(() => undefined);
    await eventually(() => doomed.process.signalCode === 'SIGKILL');
    // It may die before it has said that it serves.
    const reaping = await world.start({ OVERWINTER_FAILPOINT: 'computer.reaped' }).catch(() => undefined);
    if (reaping) await eventually(() => reaping.process.signalCode === 'SIGKILL');
    await settle(world, bystander);
  });
});

describe.runIf(process.getuid?.() === 0)('killed when a disk lies ready', () => {
  it('sandbox.spare_made leaves all well', { timeout: 60_000 }, async () => {
    const world = await makeWorld(() => reply(text('.')), { OVERWINTER_SANDBOX: 'bwrap' });
    try {
      const first = await world.start();
      const computer = await create(first);
      await exec(first, computer, 'echo first > file');
      await first.stop();
      const doomed = await world.start({ OVERWINTER_FAILPOINT: 'sandbox.spare_made' });
      for (let count = 0; count < 2; count += 1) await create(doomed).catch(() => undefined);
      await eventually(() => doomed.process.signalCode === 'SIGKILL');
      const node = await world.start();
      const second = await create(node);
      expect((await exec(node, second, 'ls; echo second > file; cat file')).stdout).toBe('second\n');
      await call(node, `POST /v1/computers/${computer.id}/start`);
      expect((await exec(node, computer, 'cat file')).stdout).toBe('first\n');
    } finally {
      await world.end();
    }
  });
});

const FREEZER = '/sys/fs/cgroup/freezer/overwinter';

describe.runIf(process.getuid?.() === 0 && fs.existsSync('/sys/fs/cgroup/freezer'))(
  'killed while a computer stands still',
  () => {
    it('leaves no process of it, although it cannot hear the kill', { timeout: 60_000 }, async () => {
      const world = await makeWorld(() => reply(text('.')), { OVERWINTER_SANDBOX: 'bwrap' });
      try {
        const doomed = await world.start();
        const computer = await create(doomed);
        await exec(doomed, computer, 'head -c 300M /dev/urandom > large; sleep 98765 >/dev/null 2>&1 &');
        call(doomed, `POST /v1/computers/${computer.id}/snapshots`, {}).catch(() => undefined);
        const frozen = (): boolean =>
          fs
            .globSync(`${FREEZER}/*/${computer.id}.*/freezer.state`)
            .some((state) => fs.readFileSync(state, 'utf8').trim() === 'FROZEN');
        await eventually(frozen);
        await doomed.kill();
        expect(sleepers()).toBe(1);
        const node = await world.start();
        await eventually(async () => (await list(node)).every(({ status }) => status === 'stopped'));
        expect(sleepers()).toBe(0);
        expect((await exec(node, computer, 'stat -c %s large')).stdout).toBe('314572800\n');
      } finally {
        await world.end();
      }
    });
  },
);

function sleepers(): number {
  const lines = fs.globSync('/proc/[0-9]*/cmdline').map((file) => {
    try {
      return fs.readFileSync(file, 'utf8');
    } catch {
      return '';
    }
  });
  return lines.filter((line) => /^sleep\0(?=98765)/.test(line)).length;
}

async function killAndSettle(world: World, failpoint: string, bystander: Answer): Promise<void> {
  const doomed = await world.start({ OVERWINTER_FAILPOINT: failpoint });
  await journey(doomed).catch(() => undefined);
  await eventually(() => doomed.process.signalCode === 'SIGKILL');
  await settle(world, bystander);
}

/** The next server brings all to rest; what is left works, and can be removed to the last byte. */
async function settle(world: World, bystander: Answer): Promise<void> {
  const node = await world.start();
  await eventually(async () => (await list(node)).every(({ status }) => AT_REST.has(status)));
  const left = await list(node);
  expect(directories(world)).toEqual(left.map(({ id }) => id).toSorted());
  for (const computer of left) {
    await call(node, `POST /v1/computers/${computer.id}/start`);
    expect((await exec(node, computer, 'echo alive')).stdout).toBe('alive\n');
  }
  expect((await exec(node, bystander, 'cat kept')).stdout).toBe('mine\n');
  for (const { id } of left.filter((one) => one.id !== bystander.id))
    await call(node, `DELETE /v1/computers/${id}`);
  expect(directories(world)).toEqual([bystander.id]);
  // What is shown of snapshots is whole; what is not is removed once nobody can be writing it.
  for (const { id } of (await call(node, 'GET /v1/snapshots')).snapshots) {
    const heir = await call(node, 'POST /v1/computers', { snapshot_id: id });
    expect((await exec(node, heir, 'cat file')).stdout).toBe('hello\n');
    await call(node, `DELETE /v1/computers/${heir.id}`);
    await call(node, `DELETE /v1/snapshots/${id}`);
  }
  await eventually(() => snapshots(world).length === 0);
  await node.stop();
}

const AT_REST = new Set(['running', 'stopped']);

/** Made, used, stopped, started, deleted: whatever comes after the kill is not reached. */
async function journey(node: TestNode): Promise<void> {
  const computer = await create(node);
  await exec(node, computer, 'echo hello > file');
  const snapshot = await call(node, `POST /v1/computers/${computer.id}/snapshots`, {});
  await call(node, `DELETE /v1/snapshots/${snapshot.id}`);
  await call(node, `POST /v1/computers/${computer.id}/stop`);
  await call(node, `DELETE /v1/computers/${computer.id}`);
}

async function create(node: TestNode): Promise<Answer> {
  return await call(node, 'POST /v1/computers', {});
}

function restoreOf({ id }: Answer, snapshot: string): string {
  return `POST /api/sandboxes/${id}/checkpoints/${snapshot}/restore`;
}

async function list(node: TestNode): Promise<Answer[]> {
  return (await call(node, 'GET /v1/computers')).computers;
}

async function exec(node: TestNode, { id }: Answer, command: string): Promise<Answer> {
  return await call(node, `POST /v1/computers/${id}/exec?resume=true`, { command });
}

async function call(node: TestNode, what: string, body?: object): Promise<Answer> {
  const [method = '', route = ''] = what.split(' ');
  const response = await fetch(node.url + route, {
    method,
    headers: { authorization: `Bearer ${node.api_key}`, 'content-type': 'application/json' },
    ...(body && { body: JSON.stringify(body) }),
  });
  if (!response.ok) throw new Error(`${what} answered ${response.status}: ${await response.text()}`);
  return JSON.parse((await response.text()) || '{}') as Answer;
}

/** The blobs of snapshots, whole or in parts. */
function snapshots(world: World): string[] {
  return fs.globSync(path.join(world.directory, 'blobs', '{snapshots,.parts}', '*'));
}

/** The computers that have anything on disk. */
function directories(world: World): string[] {
  return fs
    .globSync(path.join(world.directory, 'computers', '*', '*cmp_*'))
    .map((found) => path.basename(found))
    .toSorted();
}
