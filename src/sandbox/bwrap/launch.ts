/**
 * Starting bubblewrap: limits first, then the mounts, which take root, then the identity, then the view.
 * Invariant: the server's environment and descriptors reach none of it, and never does it run as plain root.
 */

import { ComputerLost } from '../../resource/computer/driver.ts';
import { identify } from '../leftover.ts';
import type { ProcessIdentity } from '../leftover.ts';
import { oneAtATime } from '../../resource/serial.ts';
import { start, type Descriptor, type Program } from '../launcher.ts';
import { become, limitTo, type Step } from '../prepare.ts';
import { collect } from '../run.ts';
import { openBlock } from './block.ts';
import { mounting } from './mounts.ts';
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
  /** The `cgroup.procs` or `tasks` files of the groups that have it before anything else. */
  cgroup_files: string[];
  limits: ResourceLimits;
  /** What runs inside. */
  command: string[];
};

export type Launched = {
  /** The sandbox from outside; it ends with its pid 1. */
  program: Program;
  /** The computer's pid 1, as the host sees it. */
  process: ProcessIdentity;
  /** What the sandbox complained of so far. */
  complaint: () => string;
};

const INFO_MS_MAX = 15_000;
const INFO_BYTES_MAX = 4096;
const OPEN_FILES_MAX = 4096;
const ARGUMENTS_FD = 3;
const SECCOMP_FD = 4;
const INFO_FD = 5;
const USERNS_FD = 6;

/** Bubblewrap closes every descriptor that it was given but this one. */
const WITHOUT_USERNS = `exec "$@" ${USERNS_FD}<&-`;

const oneMount = oneAtATime();

/**
 * Starts the sandbox without waiting for its pid 1; its standard input, output and error are pipes. Two that mount the same disk come
 * one after the other: both would look for its device, find none, and make one each.
 */
export async function startSandbox(launch: Launch): Promise<Program> {
  const { disk } = launch.mounts;
  if (disk === null) return await startOne(launch);
  const { promise, resolve, reject } = Promise.withResolvers<Program>();
  const task = async (): Promise<void> => {
    const program = await startOne(launch);
    resolve(program);
    const mounted = new Promise((told) => program.pipes[INFO_FD]?.once('data', told));
    await Promise.race([mounted, program.closed]);
  };
  oneMount(disk.image, task).catch(reject);
  return await promise;
}

async function startOne(launch: Launch): Promise<Program> {
  const { view, identity, cgroup_files } = launch;
  const block = isBlock(identity) ? await openBlock(identity.uid) : null;
  const seccomp = { file: view.fixtures.seccomp_path };
  const userns = block === null ? [] : [{ file: block.file }];
  try {
    const descriptors: Descriptor[] = ['pipe', 'pipe', 'pipe', 'pipe', seccomp, 'pipe', ...userns];
    const prepare = [...limitsOf(launch.limits), ...mounting(launch.mounts), ...identityOf(identity)];
    const program = await start(commandOf(launch), descriptors, { join: cgroup_files, prepare });
    const numbers = { seccomp_fd: SECCOMP_FD, info_fd: INFO_FD, userns_fd: block && USERNS_FD };
    program.pipes[ARGUMENTS_FD]?.end(
      viewArguments({ ...view, ...numbers })
        .map((option) => `${option}\0`)
        .join(''),
    );
    return program;
  } finally {
    block?.close();
  }
}

/** Starts and waits until the sandbox has a pid 1. Rejects with `ComputerLost` and what bubblewrap said. */
export async function launch(request: Launch): Promise<Launched> {
  const program = await startSandbox(request).catch((error: Error) => {
    throw new ComputerLost(`the sandbox did not start: ${error.message}`);
  });
  const complaint = collect(program, 2);
  const timer = setTimeout(program.kill, INFO_MS_MAX);
  try {
    const process = identify(await childPid(program, complaint));
    if (process === null) throw new ComputerLost('the sandbox ended while it started');
    return { program, complaint, process };
  } finally {
    clearTimeout(timer);
  }
}

function commandOf({ identity, command }: Launch): string[] {
  const inside = isBlock(identity) ? ['/bin/sh', '-c', WITHOUT_USERNS, 'sh', ...command] : command;
  return ['bwrap', '--args', String(ARGUMENTS_FD), '--', ...inside];
}

function limitsOf({ file_bytes, data_bytes }: ResourceLimits): Step[] {
  return [
    limitTo('fsize', file_bytes),
    limitTo('core', 0),
    limitTo('nofile', OPEN_FILES_MAX),
    ...(data_bytes === null ? [] : [limitTo('data', data_bytes)]),
  ];
}

function identityOf(identity: Identity): Step[] {
  return identity.kind === 'user' ? [] : [become(identity.uid)];
}

async function childPid({ pipes, closed }: Program, complaint: () => string): Promise<number> {
  const { promise, resolve } = Promise.withResolvers<number>();
  let text = '';
  pipes[INFO_FD]?.on('data', (data: Buffer) => {
    text = (text + data.toString()).slice(0, INFO_BYTES_MAX);
    const pid = /"child-pid": (\d+)/.exec(text)?.[1];
    if (pid !== undefined) resolve(Number(pid));
  });
  const ended = closed.then(() => {
    throw new ComputerLost(`the sandbox did not start: ${complaint().trim()}`);
  });
  ended.catch(() => {});
  return await Promise.race([promise, ended]);
}
