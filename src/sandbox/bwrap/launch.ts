/**
 * Starting bubblewrap: limits first, then the identity, then the view.
 * Invariant: the server's environment and descriptors reach none of it, and never does it run as plain root.
 */

import { closeSync, openSync, readFileSync, readdirSync } from 'node:fs';
import type { ChildProcess } from 'node:child_process';
import type { Readable, Writable } from 'node:stream';
import { ComputerLost } from '../../resource/computer/driver.ts';
import { identify } from '../leftover.ts';
import type { ProcessIdentity } from '../leftover.ts';
import { oneAtATime } from '../../resource/serial.ts';
import { collect, start } from '../run.ts';
import { openBlock } from './block.ts';
import { mountingFirst } from './mounts.ts';
import type { Mounts } from './mounts.ts';
import { viewArguments } from './view.ts';
import type { View } from './view.ts';

/**
 * `root`: a host uid of the computer's own, or with `block` the first of the uids that every computer with a root user
 * inside has. `user`: the server's own user, in a namespace of its own.
 */
export type Identity = { kind: 'root'; uid: number; block?: true } | { kind: 'user' };

type BlockIdentity = Extract<Identity, { kind: 'root' }> & { block: true };

/** Whether the computer has a root user inside. */
export function isBlock(identity: Identity): identity is BlockIdentity {
  return identity.kind === 'root' && identity.block === true;
}

type ResourceLimits = {
  file_bytes: number;
  /** Per process, where no control group bounds the computer as a whole. */
  data_bytes: number | null;
};

export type Launch = {
  identity: Identity;
  view: Omit<View, 'seccomp_fd' | 'info_fd' | 'userns_fd'>;
  mounts: Mounts;
  /** The `cgroup.procs` or `tasks` files to join before anything else. */
  cgroup_files: string[];
  limits: ResourceLimits;
  /** What runs inside. */
  command: string[];
};

export type Launched = {
  child: ChildProcess;
  /** Resolves when the sandbox and all its pipes have ended. */
  closed: Promise<unknown>;
  /** The computer's pid 1, as the host sees it. */
  process: ProcessIdentity;
  /** What the sandbox complained of so far. */
  complaint: () => string;
};

const CLOSE_ON_EXEC = 0o2000000;
const INFO_MS_MAX = 15_000;
const INFO_BYTES_MAX = 4096;
const OPEN_FILES_MAX = 4096;
const ARGUMENTS_FD = 3;
const SECCOMP_FD = 4;
const INFO_FD = 5;
const USERNS_FD = 6;

/** Descriptors above are not ours to hand in. */
const LAST_FD = USERNS_FD;

/** Joins every group named before `--`, then becomes the rest: moved later, its children would stay outside. */
const JOIN = 'while [ "$1" != -- ]; do echo $$ >"$1" || exit 125; shift; done; shift; exec "$@"';

/** Bubblewrap closes every descriptor that it was given but this one. */
const WITHOUT_USERNS = `exec "$@" ${USERNS_FD}<&-`;

const mounting = oneAtATime();

/**
 * Spawns the sandbox without waiting for it; its stdin, stdout and stderr are pipes. Two that mount the same disk come
 * one after the other: both would look for its device, find none, and make one each.
 */
export async function spawnSandbox(launch: Launch): Promise<ChildProcess> {
  const { disk } = launch.mounts;
  if (disk === null) return await spawnOne(launch);
  const { promise, resolve, reject } = Promise.withResolvers<ChildProcess>();
  const task = async (): Promise<void> => {
    const child = await spawnOne(launch);
    resolve(child);
    await new Promise((mounted) => {
      pipeAt(child, INFO_FD).once('data', mounted);
      child.once('close', mounted);
    });
  };
  mounting(disk.image, task).catch(reject);
  return await promise;
}

async function spawnOne(launch: Launch): Promise<ChildProcess> {
  const { view, identity } = launch;
  const block = isBlock(identity) ? await openBlock(identity.uid) : null;
  const seccomp = openSync(view.fixtures.seccomp_path, 'r');
  try {
    const userns = block === null ? [] : [block.fd];
    const child = start(hostCommand(launch), ['pipe', 'pipe', 'pipe', 'pipe', seccomp, 'pipe', ...userns]);
    const descriptors = { seccomp_fd: SECCOMP_FD, info_fd: INFO_FD, userns_fd: block && USERNS_FD };
    const channel = pipeAt(child, ARGUMENTS_FD) as Writable;
    channel.on('error', () => {});
    channel.end(
      viewArguments({ ...view, ...descriptors })
        .map((option) => `${option}\0`)
        .join(''),
    );
    pipeAt(child, INFO_FD).on('error', () => {});
    return child;
  } finally {
    closeSync(seccomp);
    block?.close();
  }
}

/**
 * Descriptors that this process itself inherited without close-on-exec, from the shell or service that started it: they
 * would pass into every sandbox. What Node opens is not among them.
 */
export function inheritedDescriptors(): number[] {
  const all = readdirSync('/proc/self/fdinfo').map(Number);
  return all.filter((fd) => fd > LAST_FD && !closesOnExec(fd));
}

/** Spawns and waits until the sandbox has a pid 1. Rejects with `ComputerLost` and what bubblewrap said. */
export async function launch(request: Launch): Promise<Launched> {
  const child = await spawnSandbox(request);
  const closed = new Promise((resolve) => child.once('close', resolve));
  const complaint = collect(child, 'stderr');
  const timer = setTimeout(() => child.kill('SIGKILL'), INFO_MS_MAX);
  try {
    const process = await identify(await childPid(child, complaint));
    if (process === null) throw new ComputerLost('the sandbox ended while it started');
    return { child, closed, complaint, process };
  } finally {
    clearTimeout(timer);
  }
}

function hostCommand({ identity, cgroup_files, limits, mounts, command, view }: Launch): string[] {
  const closing = view.fixtures.inherited_fds.map((fd) => `${fd}>&-`).join(' ');
  return [
    ...(closing === '' ? [] : ['bash', '--norc', '--noprofile', '-c', `exec ${closing}; exec "$@"`, 'bash']),
    ...(cgroup_files.length === 0 ? [] : ['/bin/sh', '-c', JOIN, 'sh', ...cgroup_files, '--']),
    ...resourceLimits(limits),
    ...mountingFirst(mounts),
    ...ownIdentity(identity),
    'bwrap',
    '--args',
    String(ARGUMENTS_FD),
    '--',
    ...(isBlock(identity) ? ['/bin/sh', '-c', WITHOUT_USERNS, 'sh'] : []),
    ...command,
  ];
}

/** The types of Node know five descriptors. */
function pipeAt(child: ChildProcess, index: number): Readable | Writable {
  return (child.stdio as (Readable | Writable)[])[index] as Readable | Writable;
}

function closesOnExec(fd: number): boolean {
  try {
    const flags = /^flags:\s*([0-7]+)/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8'))?.[1] ?? '0';
    return (Number.parseInt(flags, 8) & CLOSE_ON_EXEC) !== 0;
  } catch {
    return true;
  }
}

function resourceLimits({ file_bytes, data_bytes }: ResourceLimits): string[] {
  const data = data_bytes === null ? [] : [`--data=${data_bytes}`];
  return ['prlimit', `--fsize=${file_bytes}`, '--core=0', `--nofile=${OPEN_FILES_MAX}`, ...data, '--'];
}

function ownIdentity(identity: Identity): string[] {
  if (identity.kind === 'user') return [];
  const uid = String(identity.uid);
  return ['setpriv', '--reuid', uid, '--regid', uid, '--clear-groups', '--no-new-privs', '--'];
}

function childPid(child: ChildProcess, complaint: () => string): Promise<number> {
  const { promise, resolve, reject } = Promise.withResolvers<number>();
  const info = pipeAt(child, INFO_FD);
  let text = '';
  info.on('data', (data: Buffer) => {
    text = (text + data.toString()).slice(0, INFO_BYTES_MAX);
    const pid = /"child-pid": (\d+)/.exec(text)?.[1];
    if (pid !== undefined) resolve(Number(pid));
  });
  child.once('error', (error) => reject(new ComputerLost(`the sandbox did not start: ${error.message}`)));
  child.once('close', () => reject(new ComputerLost(`the sandbox did not start: ${complaint().trim()}`)));
  return promise;
}
