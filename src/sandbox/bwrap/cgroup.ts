/**
 * Control groups, version 1 or 2, as far as the server may write them.
 * Invariant: a computer's group exists with its limits before anything runs in it, and is gone after its last process.
 */

import { constants, writeFileSync } from 'node:fs';
import { access, mkdir, readFile, readdir, rmdir, writeFile } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { join } from 'node:path';
import type { ComputerLimits, ComputerUsage } from '../../resource/computer/driver.ts';
import { kill, readAtOnce } from '../leftover.ts';

type CgroupLimits = Pick<ComputerLimits, 'memory_bytes' | 'processes_max' | 'cpu_percent'>;

export type Cgroups = {
  version: 'cgroup-v1' | 'cgroup-v2';
  /** Makes the group and sets its limits; returns the files by which the launcher puts a process into it. Idempotent. */
  create(name: string, limits: CgroupLimits): Promise<string[]>;
  /** Removes every group whose name begins so, once its processes are gone. Rejects when one stays busy. */
  remove(prefix: string): Promise<void>;
  /** What the group uses; a field that its controllers do not count is null. */
  usage(name: string): CgroupUsage;
  /** How often the kernel killed something of the group for want of memory; null = not counted. */
  memoryKills(name: string): number | null;
  /** Makes all of the group stand still, or go on. Rejects where it cannot; then it goes on. */
  hold(name: string, still: boolean): Promise<void>;
  /** Lets every group whose name begins so go on: a held one of version 1 does not even die. */
  thaw(prefix: string): Promise<void>;
};

type CgroupUsage = Pick<ComputerUsage, 'cpu_seconds' | 'memory_bytes' | 'processes'>;

const V1_CONTROLLERS = ['memory', 'pids', 'cpu'] as const;
/** Joined where they can be written: they bound nothing. */
const V1_EXTRA = ['cpuacct', 'freezer'];
const V2_CONTROLLERS = ['memory', 'pids', 'cpu'];
const HOLD_ATTEMPTS = 500;
const HOLD_INTERVAL_MS = 2;
const CPU_PERIOD_US = 100_000;
/** Where all want the processor at once, computers together have this part of what another group has: the server's turns go first. */
const YIELDING = 0.1;
const V1_SHARES = 1024;
const V2_WEIGHT = 100;
const REMOVE_ATTEMPTS = 100;
const REMOVE_INTERVAL_MS = 10;

/** The host's usable control groups under `root` (usually /sys/fs/cgroup), or null when there are none. */
export async function openCgroups(root: string, installation: string): Promise<Cgroups | null> {
  return (await openV2(root, installation)) ?? (await openV1(root, installation));
}

async function openV2(root: string, installation: string): Promise<Cgroups | null> {
  const offered = await readFile(join(root, 'cgroup.controllers'), 'utf8').catch(() => '');
  if (!V2_CONTROLLERS.every((controller) => offered.split(/\s+/).includes(controller))) return null;
  const parent = join(root, 'overwinter');
  const base = join(parent, installation);
  try {
    await mkdir(base, { recursive: true });
    for (const group of [root, parent, base]) await enable(group);
    const weight = { file: 'cpu.weight', value: String(YIELDING * V2_WEIGHT), optional: true };
    setAll(parent, [weight]);
  } catch {
    return null;
  }
  return {
    version: 'cgroup-v2',
    async create(name, limits) {
      const group = join(base, name);
      await mkdir(group, { recursive: true });
      setAll(group, limitsOfV2(limits));
      return [join(group, 'cgroup.procs')];
    },
    remove: (prefix) => removeGroups(base, prefix, thawV2),
    usage: (name) => usageOfV2(join(base, name)),
    memoryKills: (name) => readKey(join(base, name, 'memory.events'), 'oom_kill'),
    async hold(name, still) {
      const group = join(base, name);
      await writeFile(join(group, 'cgroup.freeze'), still ? '1' : '0');
      if (!still) return;
      const frozen = (): boolean => readKey(join(group, 'cgroup.events'), 'frozen') === 1;
      await untilHeld(frozen, () => thawV2(group));
    },
    thaw: (prefix) => forEachGroup(base, prefix, thawV2),
  };
}

async function openV1(root: string, installation: string): Promise<Cgroups | null> {
  const base = (controller: string): string => join(root, controller, 'overwinter', installation);
  const open = async (controller: string): Promise<boolean> => {
    try {
      await access(join(root, controller, 'tasks'), constants.W_OK);
      await mkdir(base(controller), { recursive: true });
      return true;
    } catch {
      return false;
    }
  };
  const groups: string[] = [];
  for (const controller of [...V1_CONTROLLERS, ...V1_EXTRA]) {
    if (await open(controller)) groups.push(controller);
  }
  if (!V1_CONTROLLERS.every((controller) => groups.includes(controller))) return null;
  const shares = { file: 'cpu.shares', value: String(Math.round(YIELDING * V1_SHARES)), optional: true };
  setAll(join(root, 'cpu', 'overwinter'), [shares]);
  const of = (controller: string, name: string): string => join(base(controller), name);
  return {
    version: 'cgroup-v1',
    async create(name, limits) {
      const settings: Record<string, Setting[]> = limitsOfV1(limits);
      const make = async (controller: string): Promise<void> => {
        await mkdir(of(controller, name), { recursive: true });
        setAll(of(controller, name), settings[controller] ?? []);
      };
      await Promise.all(groups.map(make));
      return groups.map((controller) => join(of(controller, name), 'tasks'));
    },
    async remove(prefix) {
      await forEachGroup(base('freezer'), prefix, thawV1);
      await Promise.all(groups.map((controller) => removeGroups(base(controller), prefix, thawV1)));
    },
    usage: (name) => usageOfV1((controller) => of(controller, name)),
    memoryKills: (name) => readKey(join(of('memory', name), 'memory.oom_control'), 'oom_kill'),
    async hold(name, still) {
      const group = of('freezer', name);
      const path = join(group, 'freezer.state');
      await writeFile(path, still ? 'FROZEN' : 'THAWED');
      if (!still) return;
      const frozen = (): boolean => readAtOnce(path).trim() === 'FROZEN';
      await untilHeld(frozen, () => thawV1(group));
    },
    thaw: (prefix) => forEachGroup(base('freezer'), prefix, thawV1),
  };
}

async function untilHeld(frozen: () => boolean, thaw: () => Promise<void>): Promise<void> {
  for (let attempt = 0; attempt < HOLD_ATTEMPTS; attempt += 1) {
    if (frozen()) return;
    await delay(HOLD_INTERVAL_MS);
  }
  await thaw();
  throw new Error('the group does not stand still');
}

async function thawV1(group: string): Promise<void> {
  await writeFile(join(group, 'freezer.state'), 'THAWED').catch(() => {});
}

async function thawV2(group: string): Promise<void> {
  await writeFile(join(group, 'cgroup.freeze'), '0').catch(() => {});
}

function usageOfV2(group: string): CgroupUsage {
  const microseconds = readKey(join(group, 'cpu.stat'), 'usage_usec');
  const current = readNumber(join(group, 'memory.current'));
  const inactive = readKey(join(group, 'memory.stat'), 'inactive_file');
  const processes = readNumber(join(group, 'pids.current'));
  return { cpu_seconds: scaled(microseconds, 1e-6), memory_bytes: without(current, inactive), processes };
}

function usageOfV1(of: (controller: string) => string): CgroupUsage {
  const nanoseconds = readNumber(join(of('cpuacct'), 'cpuacct.usage'));
  const current = readNumber(join(of('memory'), 'memory.usage_in_bytes'));
  const inactive = readKey(join(of('memory'), 'memory.stat'), 'total_inactive_file');
  const processes = readNumber(join(of('pids'), 'pids.current'));
  return { cpu_seconds: scaled(nanoseconds, 1e-9), memory_bytes: without(current, inactive), processes };
}

/** File pages that the kernel would give up at once are nobody's use. */
function without(current: number | null, inactive: number | null): number | null {
  return current === null ? null : Math.max(0, current - (inactive ?? 0));
}

function scaled(count: number | null, unit: number): number | null {
  return count === null ? null : count * unit;
}

function readNumber(path: string): number | null {
  const text = readAtOnce(path);
  return /^\d+$/.test(text.trim()) ? Number(text) : null;
}

/** A number of a file of lines `key number`. */
function readKey(path: string, key: string): number | null {
  const text = readAtOnce(path);
  const line = text.split('\n').find((each) => each.startsWith(`${key} `));
  return line === undefined ? null : Number(line.slice(key.length + 1));
}

type Setting = { file: string; value: string; optional?: boolean };

function limitsOfV2({ memory_bytes, processes_max, cpu_percent }: CgroupLimits): Setting[] {
  return [
    { file: 'memory.max', value: String(memory_bytes) },
    { file: 'memory.swap.max', value: '0', optional: true },
    { file: 'pids.max', value: String(processes_max) },
    { file: 'cpu.max', value: `${(cpu_percent * CPU_PERIOD_US) / 100} ${CPU_PERIOD_US}` },
  ];
}

function limitsOfV1(limits: CgroupLimits): Record<(typeof V1_CONTROLLERS)[number], Setting[]> {
  const memory = String(limits.memory_bytes);
  return {
    memory: [
      { file: 'memory.limit_in_bytes', value: memory },
      { file: 'memory.memsw.limit_in_bytes', value: memory, optional: true },
    ],
    pids: [{ file: 'pids.max', value: String(limits.processes_max) }],
    cpu: [
      { file: 'cpu.cfs_period_us', value: String(CPU_PERIOD_US) },
      { file: 'cpu.cfs_quota_us', value: String((limits.cpu_percent * CPU_PERIOD_US) / 100) },
    ],
  };
}

function setAll(group: string, settings: Setting[]): void {
  for (const { file, value, optional } of settings) {
    try {
      writeFileSync(join(group, file), value);
    } catch (error) {
      if (optional !== true) throw error;
    }
  }
}

/** Controllers must be switched on in a group before its children have their files. */
async function enable(group: string): Promise<void> {
  const control = join(group, 'cgroup.subtree_control');
  const enabled = (await readFile(control, 'utf8')).split(/\s+/);
  const missing = V2_CONTROLLERS.filter((controller) => !enabled.includes(controller));
  if (missing.length > 0) await writeFile(control, missing.map((controller) => `+${controller}`).join(' '));
}

type Thaw = (group: string) => Promise<void>;

async function removeGroups(base: string, prefix: string, thaw: Thaw): Promise<void> {
  await forEachGroup(base, prefix, (group) => removeGroup(group, thaw));
}

async function forEachGroup(
  base: string,
  prefix: string,
  act: (group: string) => Promise<void>,
): Promise<void> {
  const names = await readdir(base).catch(() => []);
  for (const name of names.filter((name) => name.startsWith(prefix))) await act(join(base, name));
}

/**
 * A group stays busy for a moment after its last process has died. Members that live are of an awakening that nobody
 * keeps: a server died between starting it and recording it.
 */
async function removeGroup(group: string, thaw: Thaw): Promise<void> {
  for (let attempt = 1; ; attempt += 1) {
    const failure = await rmdir(group).then(
      () => null,
      (error: NodeJS.ErrnoException) => error,
    );
    if (failure === null || failure.code === 'ENOENT') return;
    if (attempt >= REMOVE_ATTEMPTS) throw failure;
    await thaw(group);
    await killMembers(group);
    await delay(REMOVE_INTERVAL_MS);
  }
}

async function killMembers(group: string): Promise<void> {
  const members = await readFile(join(group, 'cgroup.procs'), 'utf8').catch(() => '');
  for (const pid of members
    .split('\n')
    .map(Number)
    .filter((pid) => pid > 1))
    kill(pid);
}
