/**
 * An awake computer of the bwrap driver: one sandbox, its channel and its limits.
 * Invariant: once `ended` has resolved no process, control group or control file of this awakening is left.
 */

import { basename, dirname } from 'node:path';
import { ComputerLost, Unsupported } from '../resource/computer/driver.ts';
import type { Computer, ComputerLimits } from '../resource/computer/driver.ts';
import { measure } from './archive.ts';
import type { Cgroups } from './cgroup.ts';
import { openChannel } from './channel.ts';
import type { Channel } from './channel.ts';
import { watchDisk } from './disk.ts';
import { launch } from './launch.ts';
import type { Identity, Launch, Launched } from './launch.ts';
import { endProcess } from './leftover.ts';
import type { ProcessIdentity } from './leftover.ts';
import { loopScript } from './loop.ts';
import { makeControl, removeControl, writeRecord } from './place.ts';
import type { Place } from './place.ts';
import type { Fixtures, View } from './view.ts';

const CONTROL_INSIDE = '/run/computer';
const READY_MS_MAX = 15_000;
const SCRATCH_BYTES_MAX = 268_435_456;

export type Log = {
  warn(fields: Record<string, unknown>, message: string): void;
  debug(fields: Record<string, unknown>, message: string): void;
};

export type Ground = {
  fixtures: Fixtures;
  cgroups: Cgroups | null;
  fail: (failpoint: string) => void | Promise<void>;
  log: Log;
  now: () => number;
};

export type Awakening = {
  place: Place;
  identity: Identity;
  generation: number;
  limits: ComputerLimits;
};

export type Awake = { computer: Computer; ended: Promise<void> };

/** Starts the computer's processes on files that are in place. Rejects with `ComputerLost`, with nothing left. */
export async function awaken(ground: Ground, awakening: Awakening): Promise<Awake> {
  const { place, identity, limits } = awakening;
  const control = await makeControl(place, identity);
  const cgroup_files = (await ground.cgroups?.create(groupOf(control), limits)) ?? [];
  await ground.fail('sandbox.limits_set');
  let launched: Launched | null = null;
  try {
    launched = await launch(launchOf(ground, awakening, control, cgroup_files));
    await ground.fail('sandbox.spawned');
    return await attach({ ground, awakening, control, launched });
  } catch (error) {
    if (launched !== null) await endProcess(launched.process);
    await clear(ground, control);
    throw error;
  }
}

function launchOf(ground: Ground, awakening: Awakening, control: string, cgroup_files: string[]): Launch {
  const { identity, limits } = awakening;
  const bounded = ground.cgroups !== null;
  return {
    identity,
    cgroup_files,
    limits: { file_bytes: limits.disk_bytes, data_bytes: bounded ? null : limits.memory_bytes },
    command: ['/bin/sh', '-c', loopScript(CONTROL_INSIDE, bounded ? null : limits.processes_max)],
    view: viewOf(ground, awakening, control),
  };
}

function viewOf(
  { fixtures }: Ground,
  { place, limits }: Awakening,
  control: string,
): Omit<View, 'seccomp_fd' | 'info_fd'> {
  return {
    fixtures,
    cwd: '/workspace',
    scratch_bytes: Math.min(SCRATCH_BYTES_MAX, Math.floor(limits.memory_bytes / 4)),
    override_modes: false,
    binds: [
      { from: place.workspace, to: '/workspace', writable: true },
      { from: place.home, to: '/home/agent', writable: true },
      { from: control, to: CONTROL_INSIDE, writable: false },
    ],
  };
}

type Attachment = { ground: Ground; awakening: Awakening; control: string; launched: Launched };

async function attach({ ground, awakening, control, launched }: Attachment): Promise<Awake> {
  const { place, generation } = awakening;
  const { child, closed, process } = launched;
  let ending = false;
  const kill = (): void => {
    ending = true;
    child.kill('SIGKILL');
  };
  const channel = openChannel({
    child,
    closed,
    kill,
    directory: { outside: control, inside: CONTROL_INSIDE },
    translate: (text) => text,
    fail: ground.fail,
  });
  await writeRecord(place, { generation, process });
  await ground.fail('sandbox.recorded');
  const deadline = setTimeout(kill, READY_MS_MAX);
  await channel.ready
    .catch(() => {
      throw new ComputerLost(`the sandbox ended before it was ready: ${launched.complaint().trim()}`);
    })
    .finally(() => clearTimeout(deadline));
  const alive = (): boolean => !ending && child.exitCode === null && child.signalCode === null;
  const watching = new AbortController();
  const ended = closed.then(() => {
    watching.abort();
    return finish(ground, control, process, channel);
  });
  ended.catch((error: unknown) => ground.log.warn({ computer: place.id, error }, 'a computer left traces'));
  void watch({ ground, awakening, pid: process.pid, kill, signal: watching.signal });
  return { ended, computer: handle({ channel, generation, alive, kill, ended }) };
}

function handle(parts: {
  channel: Channel;
  generation: number;
  alive: () => boolean;
  kill: () => void;
  ended: Promise<void>;
}): Computer {
  const { channel, generation, alive, kill, ended } = parts;
  return {
    generation,
    alive,
    exec: (spec) => channel.exec(spec),
    pty: () => Promise.reject(new Unsupported('this driver has no terminals')),
    connect: () => Promise.reject(new Unsupported('this driver opens no connections')),
    usage: () => Promise.reject(new Unsupported('this driver counts nothing')),
    async hibernate() {
      kill();
      await ended;
    },
  };
}

async function watch(parts: {
  ground: Ground;
  awakening: Awakening;
  pid: number;
  kill: () => void;
  signal: AbortSignal;
}): Promise<void> {
  const { ground, awakening, pid, kill, signal } = parts;
  const { place, identity, limits } = awakening;
  await watchDisk({
    disk_bytes: limits.disk_bytes,
    pid,
    workspace: place.workspace,
    measure: () => measure({ place, identity, fixtures: ground.fixtures }),
    over(used_bytes) {
      ground.log.warn(
        { computer: place.id, used_bytes, disk_bytes: limits.disk_bytes },
        'disk limit exceeded',
      );
      kill();
    },
    failed: (error) => ground.log.warn({ computer: place.id, error }, 'disk use not counted'),
    now: ground.now,
    signal,
  });
}

async function finish(
  ground: Ground,
  control: string,
  process: ProcessIdentity,
  channel: Channel,
): Promise<void> {
  channel.close();
  await endProcess(process);
  await ground.fail('sandbox.processes_ended');
  await clear(ground, control);
  await ground.fail('sandbox.hibernated');
}

/** A group is named after its computer and awakening. */
function groupOf(control: string): string {
  return `${basename(dirname(control))}.${basename(control)}`;
}

async function clear(ground: Ground, control: string): Promise<void> {
  await ground.cgroups?.remove(groupOf(control));
  await removeControl(control);
}
