/**
 * The output of one exec: two named pipes, read as their consumer asks.
 * Invariant: what nobody reads stays in the kernel's pipe, so the writer waits and the server's memory does not grow.
 */

import { constants, open, readSync } from 'node:fs';
import { Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import type { OutputChunk } from '../../resource/computer/driver.ts';

const CHUNK_BYTES = 65_536;
/** A pipe can be enlarged to this by its writer; so much may wait in it when the script has ended. */
const PIPE_BYTES_MAX = 1_048_576;
const DRIP_INTERVAL_MS = 250;
/** So much is read at once, and then nothing for a while: a flood of 10 GB must not cost the others a core. 128 MiB/s at most. */
const GULP_BYTES = 1_048_576;
const GULP_INTERVAL_MS = 8;

type Source = { stream: 'stdout' | 'stderr'; socket: Socket; fd: number };

export type Output = {
  chunks(): AsyncGenerator<OutputChunk, void>;
  /** The script has ended: what its pipes hold is the rest. Returns those that someone inside still holds open. */
  finish(): Socket[];
};

/** Opens both pipes for reading. They must exist, and their directory must not be writable from inside. */
export async function openOutput(stdout_path: string, stderr_path: string): Promise<Output> {
  const sources = [await openSource('stdout', stdout_path), await openSource('stderr', stderr_path)];
  const rest: OutputChunk[] = [];
  let finished = false;
  let abandoned = false;
  let wake: () => void = nothing;
  for (const { socket } of sources) for (const event of ['readable', 'close']) socket.on(event, () => wake());

  async function* chunks(): AsyncGenerator<OutputChunk, void> {
    let gulped = 0;
    try {
      for (;;) {
        const readable = new Promise<void>((resolve) => (wake = resolve));
        const chunk = rest.shift() ?? (finished ? undefined : takeOne(sources));
        if (chunk !== undefined) yield chunk;
        else if (finished) return;
        else await readable;
        gulped += chunk?.data.length ?? 0;
        if (gulped < GULP_BYTES) continue;
        gulped = 0;
        await delay(GULP_INTERVAL_MS);
      }
    } finally {
      abandoned = true;
      rest.length = 0;
      if (!finished) for (const { socket } of sources) discard(socket);
    }
  }

  return {
    chunks,
    finish() {
      for (const source of sources) {
        if (abandoned) source.socket.pause();
        else rest.push(...remainder(source));
      }
      finished = true;
      wake();
      return sources.map(({ socket }) => socket).filter((socket) => !socket.destroyed);
    },
  };
}

export type Lingering = { add(sockets: Socket[]): void; close(): void };

/**
 * Pipes that a background process still writes to after its exec ended. They are read slowly and thrown away: closed,
 * they would kill the process with SIGPIPE; read fast, a flood would cost the server a core.
 */
export function lingeringPipes(sockets_max: number): Lingering {
  const held = new Set<Socket>();
  let closed = false;
  const drip = setInterval(() => {
    for (const socket of held) socket.read();
  }, DRIP_INTERVAL_MS);
  drip.unref();
  return {
    add(sockets) {
      for (const socket of sockets) {
        held.add(socket);
        socket.once('close', () => held.delete(socket));
        socket.read();
      }
      const too_many = closed ? held.size : Math.max(0, held.size - sockets_max);
      for (const socket of [...held].slice(0, too_many)) socket.destroy();
    },
    close() {
      closed = true;
      clearInterval(drip);
      for (const socket of held) socket.destroy();
    },
  };
}

function nothing(): void {}

async function openSource(stream: Source['stream'], path: string): Promise<Source> {
  const { O_RDONLY, O_NONBLOCK, O_NOFOLLOW } = constants;
  const fd = await promisify(open)(path, O_RDONLY | O_NONBLOCK | O_NOFOLLOW);
  const socket = new Socket({ fd, readable: true, writable: false });
  socket.on('error', () => socket.destroy());
  return { stream, socket, fd };
}

function takeOne(sources: Source[]): OutputChunk | undefined {
  for (const source of sources) {
    const data = source.socket.read() as Buffer | null;
    if (data === null) continue;
    sources.reverse();
    return { stream: source.stream, data };
  }
  return undefined;
}

function remainder({ stream, socket, fd }: Source): OutputChunk[] {
  const found: OutputChunk[] = [];
  const buffered = socket.read() as Buffer | null;
  if (buffered !== null) found.push({ stream, data: buffered });
  for (let total = 0; !socket.destroyed && total < PIPE_BYTES_MAX;) {
    const data = readNow(fd);
    if (data === null) break;
    total += data.length;
    found.push({ stream, data });
  }
  return found;
}

/** What the pipe holds now; null when it is empty or at its end. */
function readNow(fd: number): Buffer | null {
  const data = Buffer.allocUnsafe(CHUNK_BYTES);
  try {
    const length = readSync(fd, data);
    return length === 0 ? null : Buffer.from(data.subarray(0, length));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EAGAIN') return null;
    throw error;
  }
}

function discard(socket: Socket): void {
  socket.removeAllListeners('readable');
  socket.resume();
}
