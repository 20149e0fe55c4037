/**
 * An awake computer of the bwrap driver: one sandbox, its channel and its limits.
 * Invariant: once `ended` has resolved no process, control group or control file of this awakening is left.
 */

import { basename, dirname } from 'node:path';
import { ComputerLost } from '../../resource/computer/driver.ts';
import type {
  Computer,
  ComputerLimits,
  ComputerUsage,
  Egress,
  Fail,
} from '../../resource/computer/driver.ts';
import type { NetworkPolicy } from '../../resource/computer/spec.ts';
import { measure } from './archive.ts';
import type { Cgroups } from './cgroup.ts';
import { diskUsed, trimDisk } from './disk.ts';
import type { Disks } from './disk-templates.ts';
import { openChannel } from '../channel/channel.ts';
import type { Channel } from '../channel/channel.ts';
import { watchDisk } from './disk-watch.ts';
import { launch } from './launch.ts';
import type { Identity, Launch, Launched } from './launch.ts';
import { ROOT_CAPABILITIES } from './root.ts';
import type { Root } from './root.ts';
import { endProcess } from '../leftover.ts';
import { loopCommand } from '../channel/loop.ts';
import { writeRelay } from '../channel/relay.ts';
import { processesLike, uptimeOf, usageOf } from '../members.ts';
import { makeControl, removeControl, writeRecord } from '../place.ts';
import type { Place } from '../place.ts';
import { OUTWARD_ENVIRONMENT, outwardCommand, serveOutward } from '../channel/outward.ts';
import type { Outward } from '../channel/outward.ts';
import type { Disk } from './mounts.ts';
import { stillness } from './stillness.ts';
import type { Fixtures } from './view.ts';

const CONTROL_INSIDE = '/run/computer';
/** An agent that took its own directory's mode away could never be woken again. */
const ENTER = `for each in /workspace /home/agent; do
  [ -r $each ] && [ -w $each ] && [ -x $each ] || chmod u+rwx $each
done
cd /workspace || exit 125
`;
const READY_MS_MAX = 15_000;
const SCRATCH_BYTES_MAX = 268_435_456;

export type Log = {
  warn(fields: Record<string, unknown>, message: string): void;
  debug(fields: Record<string, unknown>, message: string): void;
};

export type Ground = {
  fixtures: Fixtures;
  cgroups: Cgroups | null;
  /** null = new computers have none, and what they write is counted. */
  disks: Disks | null;
  /** Why there are none. */
  counted_because: string | null;
  /** null = nothing leads out. */
  egress: Egress | null;
  fail: Fail;
  log: Log;
  now: () => number;
};

export type Awakening = {
  place: Place;
  identity: Identity;
  generation: number;
  limits: ComputerLimits;
  network: NetworkPolicy;
  /** A root file system of the computer's own; null = the host's `/usr`. */
  root: Root | null;
  /** null = what the computer writes is counted. */
  disk: Disk | null;
};

export type Awake = {
  computer: Computer;
  ended: Promise<void>;
  /** Makes the computer stand still until the returned function is called, or its time is over, or it is ended. */
  hold: () => Promise<() => Promise<void>>;
};

/** Of one awakening: its control directory, which also names its control group, and its way out. */
type Means = { control: string; group: string; outward: Outward | null };

/** Starts the computer's processes on files that are in place. Rejects with `ComputerLost`, with nothing left. */
export async function awaken(ground: Ground, awakening: Awakening): Promise<Awake> {
  const { place, identity, limits } = awakening;
  const control = await makeControl(place, identity);
  const means: Means = { control, group: groupOf(control), outward: null };
  let launched: Launched | null = null;
  try {
    const cgroup_files = (await ground.cgroups?.create(means.group, limits)) ?? [];
    await ground.fail('sandbox.limits_set');
    await writeRelay(control);
    means.outward = await openOutward(ground, awakening, control);
    launched = await launch(launchOf(ground, awakening, means, cgroup_files));
    await ground.fail('sandbox.spawned');
    return await attach({ ground, awakening, means, launched });
  } catch (error) {
    if (launched !== null) await endProcess(launched.process);
    await clear(ground, means);
    throw error;
  }
}

async function openOutward(
  { egress, fail }: Ground,
  { place, identity, network: policy }: Awakening,
  control: string,
): Promise<Outward | null> {
  if (egress === null || policy.mode === 'off') return null;
  const outward = await serveOutward(egress, control, { policy, computer: place.id, identity });
  await fail('sandbox.egress_served');
  return outward;
}

function launchOf(ground: Ground, awakening: Awakening, means: Means, cgroup_files: string[]): Launch {
  const { identity, limits, root, disk } = awakening;
  const bounded = ground.cgroups !== null;
  const loop = {
    directory: CONTROL_INSIDE,
    processes_max: bounded ? null : limits.processes_max,
    before: means.outward === null ? null : outwardCommand(CONTROL_INSIDE),
  };
  return {
    identity,
    cgroup_files,
    mounts: { disk, overlay: root?.overlay ?? null },
    limits: { file_bytes: limits.disk_bytes, data_bytes: bounded ? null : limits.memory_bytes },
    command: loopCommand(loop, ENTER),
    view: viewOf(ground, awakening, means),
  };
}

function viewOf(
  { fixtures }: Ground,
  { place, limits, root }: Awakening,
  { control, outward }: Means,
): Launch['view'] {
  const apt = outward === null ? null : (root?.apt_proxy ?? null);
  return {
    fixtures,
    root: root === null ? null : place.merged,
    cwd: '/',
    environment: outward === null ? {} : OUTWARD_ENVIRONMENT,
    scratch_bytes: Math.min(SCRATCH_BYTES_MAX, Math.floor(limits.memory_bytes / 4)),
    capabilities: root === null ? [] : ROOT_CAPABILITIES,
    binds: [
      { from: place.workspace, to: '/workspace', writable: true },
      { from: place.home, to: '/home/agent', writable: true },
      { from: control, to: CONTROL_INSIDE, writable: false },
      ...(apt === null ? [] : [{ from: fixtures.apt_proxy_path, to: apt, writable: false }]),
    ],
  };
}

type Attachment = { ground: Ground; awakening: Awakening; means: Means; launched: Launched };

async function attach(attachment: Attachment): Promise<Awake> {
  const { ground, awakening, means, launched } = attachment;
  const { place, generation } = awakening;
  const { program, process } = launched;
  let ending = false;
  const still = stillness(ground.cgroups, means.group);
  const kill = (): void => {
    ending = true;
    program.kill();
    // By itself pid 1 dies with bubblewrap only once it has said so, a moment after it has started the loop.
    void endProcess(process).catch((error: unknown) =>
      ground.log.warn({ computer: place.id, error }, 'not ended'),
    );
    void still.end();
  };
  const channel = openChannel({
    ...{ program, kill },
    held: still.held,
    directory: { outside: means.control, inside: CONTROL_INSIDE },
    memory_kills: () => ground.cgroups?.memoryKills(means.group) ?? null,
    translate: (text) => text,
    fail: ground.fail,
  });
  const image = awakening.root === null ? {} : { image: awakening.root.image };
  const ready = untilReady(channel, launched, kill);
  ready.catch(() => {});
  await writeRecord(place, { generation, process, ...image });
  await ground.fail('sandbox.recorded');
  await ready;
  const alive = (): boolean => !ending && program.end() === null;
  const watching = new AbortController();
  const ended = program.closed.then(() => {
    watching.abort();
    return finish(attachment, channel);
  });
  ended.catch((error: unknown) => ground.log.warn({ computer: place.id, error }, 'a computer left traces'));
  const used =
    held(attachment) ?? watch({ ground, awakening, pid: process.pid, kill, signal: watching.signal });
  const usage = (): Promise<ComputerUsage> => usageNow(attachment, used);
  return { ended, hold: still.hold, computer: handle({ channel, generation, usage, alive, kill, ended }) };
}

async function untilReady(channel: Channel, launched: Launched, kill: () => void): Promise<void> {
  const deadline = setTimeout(kill, READY_MS_MAX);
  await channel.ready
    .catch(() => {
      throw new ComputerLost(`the sandbox ended before it was ready: ${launched.complaint().trim()}`);
    })
    .finally(() => clearTimeout(deadline));
}

function handle(parts: {
  channel: Channel;
  generation: number;
  usage: () => Promise<ComputerUsage>;
  alive: () => boolean;
  kill: () => void;
  ended: Promise<void>;
}): Computer {
  const { channel, generation, usage, alive, kill, ended } = parts;
  return {
    ...{ generation, alive, usage },
    exec: channel.exec,
    pty: channel.pty,
    connect: channel.connect,
    async hibernate() {
      kill();
      await ended;
    },
  };
}

async function usageNow({ ground, means, launched }: Attachment, used: Used): Promise<ComputerUsage> {
  const { pid } = launched.process;
  const counted = ground.cgroups?.usage(means.group) ?? (await usageOf(await processesLike(pid)));
  return { ...counted, disk_bytes: await used(), uptime_ms: await uptimeOf(pid) };
}

/** The bytes on disk. */
type Used = () => Promise<number | null>;

/** What the file system of a disk says, seen from the sandbox's outer process: its path has no part of the agent's. */
function held({ ground, awakening, launched }: Attachment): Used | null {
  const { place, disk } = awakening;
  if (disk === null) return null;
  const pid = launched.program.pid;
  void trimDisk(pid, disk).catch((error: unknown) =>
    ground.log.debug({ computer: place.id, error }, 'disk not trimmed'),
  );
  return () => diskUsed(pid, disk);
}

/** The last count; before the first, one of its own. */
function watch(parts: {
  ground: Ground;
  awakening: Awakening;
  pid: number;
  kill: () => void;
  signal: AbortSignal;
}): Used {
  const { ground, awakening, pid, kill, signal } = parts;
  const { place, identity, limits } = awakening;
  const count = (): Promise<number> => measure({ place, identity, fixtures: ground.fixtures, disk: null });
  let last: number | null = null;
  void watchDisk({
    disk_bytes: limits.disk_bytes,
    pid,
    workspace: place.workspace,
    measure: count,
    counted: (used_bytes) => (last = used_bytes),
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
  return async () => last ?? (await count().catch(() => null));
}

async function finish({ ground, means, launched }: Attachment, channel: Channel): Promise<void> {
  channel.close();
  await endProcess(launched.process);
  await ground.fail('sandbox.processes_ended');
  await clear(ground, means);
  await ground.fail('sandbox.hibernated');
}

/** A group is named after its computer and awakening. */
function groupOf(control: string): string {
  return `${basename(dirname(control))}.${basename(control)}`;
}

async function clear(ground: Ground, { control, group, outward }: Means): Promise<void> {
  await outward?.close().catch(() => {});
  await ground.cgroups?.remove(group);
  await removeControl(control);
}
