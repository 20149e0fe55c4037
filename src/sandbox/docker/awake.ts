/**
 * An awake computer of the docker driver: a running container, and the connection that keeps it running.
 * Invariant: once `ended` has resolved no process of this awakening is left, and its way out is closed.
 */

import type { Socket } from 'node:net';
import { ComputerLost, Unsupported } from '../../resource/computer/driver.ts';
import type { Computer, ComputerUsage, Fail } from '../../resource/computer/driver.ts';
import { openConnection } from '../channel/connect.ts';
import { openTerminal } from './terminal.ts';
import { endContainer } from './daemon.ts';
import type { Container } from './daemon.ts';
import { watchDisk } from './disk.ts';
import { execIn } from './exec.ts';
import type { Body } from './exec.ts';
import { frames } from './frames.ts';
import { CONTROL_DIR, NO_PERL, READY } from './scripts.ts';
import { stillness } from './stillness.ts';
import type { Stillness } from './stillness.ts';

export type Log = {
  warn(fields: Record<string, unknown>, message: string): void;
  debug(fields: Record<string, unknown>, message: string): void;
};

export type Awakening = {
  id: string;
  container: Container;
  generation: number;
  disk_bytes: number;
  /** What its main process runs. */
  program: string;
  /** Closed when the computer has ended. */
  outward: { close(): Promise<void> } | null;
  fail: Fail;
  log: Log;
  now: () => number;
};

export type Awake = { computer: Computer; ended: Promise<void>; hold: Stillness['hold'] };

const READY_MS_MAX = 60_000;
const COMPLAINT_BYTES_MAX = 4096;
const NANOSECONDS = 1e9;
/** Names of execs are numbers; the first is above any limit that a program would set itself. */
const NAME_MIN = 1_000_000;

/** Starts the container. Rejects with `ComputerLost`, with nothing running. */
export async function awaken(awakening: Awakening): Promise<Awake> {
  const { container, outward, program, fail } = awakening;
  try {
    const socket = (await container.attach({
      ...{ stream: true, stdin: true, stdout: true, stderr: true, hijack: true },
    })) as Socket;
    const began = untilReady(socket);
    began.catch(() => {});
    await container.start();
    await fail('sandbox.spawned');
    socket.write(`${Buffer.byteLength(program)}\n${program}`);
    await began;
    return attached(awakening, socket);
  } catch (error) {
    await outward?.close().catch(() => {});
    await endContainer(container);
    throw startFailure(error as Error);
  }
}

function startFailure(error: Error): Error {
  if (error instanceof Unsupported || error instanceof ComputerLost) return error;
  return new ComputerLost(`the container did not start: ${error.message.trim()}`);
}

async function untilReady(socket: Socket): Promise<void> {
  const result = Promise.withResolvers<void>();
  let [said, complaint] = ['', ''];
  const cut = frames((stream, data) => {
    if (stream === 'stderr') complaint = (complaint + data.toString()).slice(-COMPLAINT_BYTES_MAX);
    else said = (said + data.toString()).slice(-COMPLAINT_BYTES_MAX);
    if (said === READY) result.resolve();
    if (said === NO_PERL) result.reject(new Unsupported('a computer with a network needs perl in its image'));
  });
  const over = (): void => {
    result.reject(new ComputerLost(`the container ended before it was ready: ${complaint.trim()}`));
  };
  const timer = setTimeout(over, READY_MS_MAX);
  socket.on('data', cut);
  for (const event of ['end', 'close', 'error']) socket.on(event, over);
  await result.promise.finally(() => {
    clearTimeout(timer);
    socket.off('data', cut);
    socket.resume();
  });
}

function attached(awakening: Awakening, socket: Socket): Awake {
  const { container, generation, now } = awakening;
  const began_ms = now();
  let names = NAME_MIN;
  const lives = lifeOf(awakening, socket);
  const body: Body = {
    ...{ container, alive: lives.alive, kill: lives.kill, ended: lives.ended, onEnded: lives.onEnded },
    ...{ held: lives.still.held, going: lives.still.going, fail: awakening.fail },
    name: () => String((names += 1)),
  };
  const disk = watchDisk({ ...awakening, ended: lives.ended, kill: lives.kill });
  const computer: Computer = {
    generation,
    exec: (spec) => execIn(body, spec),
    pty: (spec) => openTerminal(body, spec),
    connect: (port) => openConnection((spec) => execIn(body, spec), CONTROL_DIR, port),
    alive: lives.alive,
    async usage() {
      return { ...(await usageOf(container)), disk_bytes: await disk.used(), uptime_ms: now() - began_ms };
    },
    async hibernate() {
      lives.kill();
      await lives.ended;
    },
  };
  return { computer, ended: lives.ended, hold: lives.still.hold };
}

type Life = Pick<Body, 'alive' | 'kill' | 'ended' | 'onEnded'> & { still: Stillness };

function lifeOf({ id, container, outward, fail, log }: Awakening, socket: Socket): Life {
  let alive = true;
  const cut = Promise.withResolvers<void>();
  const still = stillness(container);
  const kill = (): void => {
    alive = false;
    still.end();
    // Without the connection the main process ends by itself; the daemon is told all the same, as it may stand still.
    socket.destroy();
    cut.resolve();
  };
  for (const event of ['end', 'close', 'error']) socket.on(event, kill);
  const finish = async (): Promise<void> => {
    await cut.promise;
    try {
      await endContainer(container);
      await fail('sandbox.processes_ended');
    } finally {
      await outward?.close().catch(() => {});
    }
    await fail('sandbox.hibernated');
  };
  const waiting = new Set<() => void>();
  const tell = (): void => {
    for (const call of waiting) call();
  };
  const onEnded = (call: () => void): (() => void) => {
    waiting.add(call);
    return () => waiting.delete(call);
  };
  const ended = finish();
  ended.then(tell, tell);
  ended.catch((error: unknown) => log.warn({ computer: id, error }, 'a computer left traces'));
  return { alive: () => alive, kill, ended, onEnded, still };
}

/** What the daemon counts, as its own `stats` shows it: without the cache of files. */
async function usageOf(container: Container): Promise<Omit<ComputerUsage, 'disk_bytes' | 'uptime_ms'>> {
  const stats = await container.stats({ stream: false, 'one-shot': true }).catch(() => null);
  const { usage, stats: parts } = stats?.memory_stats ?? {};
  const cached = parts?.total_inactive_file ?? parts?.inactive_file ?? 0;
  const cpu = stats?.cpu_stats?.cpu_usage?.total_usage;
  return {
    cpu_seconds: cpu === undefined ? null : cpu / NANOSECONDS,
    memory_bytes: usage === undefined ? null : Math.max(0, usage - cached),
    processes: stats?.pids_stats?.current ?? null,
  };
}
