import { mkdir, mkdtemp, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { openCgroups } from '../../../src/sandbox/bwrap/cgroup.ts';

const LIMITS = { memory_bytes: 1_048_576, processes_max: 64, cpu_percent: 150 };
let root: string;
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'ow-cgroup-'));
});
afterEach(() => rm(root, { recursive: true, force: true }));

test('version 2: controllers are switched on down to the group, and its limits are set', async () => {
  await writeFile(join(root, 'cgroup.controllers'), 'cpuset cpu io memory pids\n');
  for (const group of ['', 'overwinter', 'overwinter/one']) {
    await mkdir(join(root, group), { recursive: true });
    await writeFile(join(root, group, 'cgroup.subtree_control'), group === '' ? 'memory pids\n' : '');
  }
  const cgroups = await openCgroups(root, 'one');
  expect(cgroups?.version).toBe('cgroup-v2');
  expect(await readFile(join(root, 'cgroup.subtree_control'), 'utf8')).toBe('+cpu');
  expect(await readFile(join(root, 'overwinter/one/cgroup.subtree_control'), 'utf8')).toBe(
    '+memory +pids +cpu',
  );
  expect(await readFile(join(root, 'overwinter/cpu.weight'), 'utf8')).toBe('10');
  const group = join(root, 'overwinter/one/cmp_1.x');
  expect(await cgroups?.create('cmp_1.x', LIMITS)).toEqual([join(group, 'cgroup.procs')]);
  const read = (name: string): Promise<string> => readFile(join(group, name), 'utf8');
  expect(await Promise.all(['memory.max', 'memory.swap.max', 'pids.max', 'cpu.max'].map(read))).toEqual([
    '1048576',
    '0',
    '64',
    '150000 100000',
  ]);
});

test('version 1: each controller has the group', async () => {
  for (const controller of ['memory', 'pids', 'cpu']) {
    await mkdir(join(root, controller));
    await writeFile(join(root, controller, 'tasks'), '');
  }
  const cgroups = await openCgroups(root, 'one');
  expect(cgroups?.version).toBe('cgroup-v1');
  const files = await cgroups?.create('cmp_1.x', LIMITS);
  expect(files).toEqual(
    ['memory', 'pids', 'cpu'].map((controller) => join(root, controller, 'overwinter/one/cmp_1.x/tasks')),
  );
  expect(await readFile(join(root, 'cpu/overwinter/one/cmp_1.x/cpu.cfs_quota_us'), 'utf8')).toBe('150000');
  expect(await readFile(join(root, 'cpu/overwinter/cpu.shares'), 'utf8')).toBe('102');
});

test('a host without control groups has none', async () => {
  expect(await openCgroups(root, 'one')).toBeNull();
  expect(await openCgroups(join(root, 'missing'), 'one')).toBeNull();
});

test('removal takes the groups of one computer only', async () => {
  for (const controller of ['memory', 'pids', 'cpu']) {
    for (const name of ['cmp_1.a', 'cmp_1.b', 'cmp_12.a']) {
      await mkdir(join(root, controller, 'overwinter/one', name), { recursive: true });
    }
    await writeFile(join(root, controller, 'tasks'), '');
  }
  await (await openCgroups(root, 'one'))?.remove('cmp_1.');
  expect(await readdir(join(root, 'memory/overwinter/one'))).toEqual(['cmp_12.a']);
});
