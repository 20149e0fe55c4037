/**
 * Control groups, version 1 or 2, as far as the server may write them.
 * Invariant: a computer's group exists with its limits before anything runs in it, and is gone after its last process.
 */

import { access, mkdir, readFile, readdir, rmdir, writeFile } from 'node:fs/promises';
import { constants } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { join } from 'node:path';
import type { ComputerLimits } from '../resource/computer/driver.ts';
import { kill } from './leftover.ts';

type CgroupLimits = Pick<ComputerLimits, 'memory_bytes' | 'processes_max' | 'cpu_percent'>;

export type Cgroups = {
  version: 'cgroup-v1' | 'cgroup-v2';
  /** Makes the group and sets its limits; returns the files that a process writes its pid to. Idempotent. */
  create(name: string, limits: CgroupLimits): Promise<string[]>;
  /** Removes every group whose name begins so, once its processes are gone. Rejects when one stays busy. */
  remove(prefix: string): Promise<void>;
};

const V1_CONTROLLERS = ['memory', 'pids', 'cpu'] as const;
const V2_CONTROLLERS = ['memory', 'pids', 'cpu'];
const CPU_PERIOD_US = 100_000;
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
  } catch {
    return null;
  }
  return {
    version: 'cgroup-v2',
    async create(name, limits) {
      const group = join(base, name);
      await mkdir(group, { recursive: true });
      await setAll(group, limitsOfV2(limits));
      return [join(group, 'cgroup.procs')];
    },
    remove: (prefix) => removeGroups(base, prefix),
  };
}

async function openV1(root: string, installation: string): Promise<Cgroups | null> {
  const base = (controller: string): string => join(root, controller, 'overwinter', installation);
  try {
    for (const controller of V1_CONTROLLERS) {
      await access(join(root, controller, 'tasks'), constants.W_OK);
      await mkdir(base(controller), { recursive: true });
    }
  } catch {
    return null;
  }
  return {
    version: 'cgroup-v1',
    async create(name, limits) {
      const files = limitsOfV1(limits);
      for (const controller of V1_CONTROLLERS) {
        await mkdir(join(base(controller), name), { recursive: true });
        await setAll(join(base(controller), name), files[controller]);
      }
      return V1_CONTROLLERS.map((controller) => join(base(controller), name, 'cgroup.procs'));
    },
    async remove(prefix) {
      for (const controller of V1_CONTROLLERS) await removeGroups(base(controller), prefix);
    },
  };
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

async function setAll(group: string, settings: Setting[]): Promise<void> {
  for (const { file, value, optional } of settings) {
    const written = writeFile(join(group, file), value);
    await (optional === true ? written.catch(() => {}) : written);
  }
}

/** Controllers must be switched on in a group before its children have their files. */
async function enable(group: string): Promise<void> {
  const control = join(group, 'cgroup.subtree_control');
  const enabled = (await readFile(control, 'utf8')).split(/\s+/);
  const missing = V2_CONTROLLERS.filter((controller) => !enabled.includes(controller));
  if (missing.length > 0) await writeFile(control, missing.map((controller) => `+${controller}`).join(' '));
}

async function removeGroups(base: string, prefix: string): Promise<void> {
  const names = await readdir(base);
  for (const name of names.filter((name) => name.startsWith(prefix))) await removeGroup(join(base, name));
}

/**
 * A group stays busy for a moment after its last process has died. Members that live are of an awakening that nobody
 * keeps: a server died between starting it and recording it.
 */
async function removeGroup(group: string): Promise<void> {
  for (let attempt = 1; ; attempt += 1) {
    const failure = await rmdir(group).then(
      () => null,
      (error: NodeJS.ErrnoException) => error,
    );
    if (failure === null || failure.code === 'ENOENT') return;
    if (attempt >= REMOVE_ATTEMPTS) throw failure;
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
