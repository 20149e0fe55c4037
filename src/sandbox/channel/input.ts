/**
 * The standard input of one exec: a named pipe that the server fills.
 * Invariant: no chunk is taken from the source before the pipe has taken the one before it.
 */

import { constants, open } from 'node:fs';
import { Socket } from 'node:net';
import { promisify } from 'node:util';

export type Input = {
  /** The exec has ended: what was not read is dropped, and the source is closed. Idempotent. */
  close(): void;
};

export type Feed = {
  source: Uint8Array | AsyncIterable<Uint8Array>;
  /** Settles when the script has its end of the pipe; closed before that, the pipe would lose what it holds. */
  taken: Promise<void>;
  /** The source failed: the script has had an unknown part of its input. */
  failed: () => void;
};

/**
 * Opens the pipe for both directions, as a pipe that nobody reads cannot be opened for writing alone without waiting.
 * A script that closes its input early is noticed at its end, when the source is closed.
 */
export async function openInput(path: string, feed: Feed): Promise<Input> {
  const { O_RDWR, O_NONBLOCK, O_NOFOLLOW } = constants;
  const fd = await promisify(open)(path, O_RDWR | O_NONBLOCK | O_NOFOLLOW);
  const socket = new Socket({ fd, readable: false, writable: true });
  socket.on('error', () => socket.destroy());
  void fill(socket, feed);
  return { close: () => socket.destroy() };
}

async function fill(socket: Socket, { source, taken, failed }: Feed): Promise<void> {
  const chunks = (source instanceof Uint8Array ? one(source) : source)[Symbol.asyncIterator]();
  const closeSource = (): void => void Promise.resolve(chunks.return?.()).catch(() => {});
  socket.once('close', closeSource);
  await pour(socket, chunks).catch(failed);
  await taken;
  socket.destroy();
}

async function pour(socket: Socket, chunks: AsyncIterator<Uint8Array>): Promise<void> {
  for (;;) {
    const next = await chunks.next();
    if (next.done === true || !(await written(socket, next.value))) return;
  }
}

async function* one(bytes: Uint8Array): AsyncGenerator<Uint8Array, void> {
  yield bytes;
}

function written(socket: Socket, data: Uint8Array): Promise<boolean> {
  return new Promise((resolve) => {
    socket.write(data, (error) => resolve(error === null || error === undefined));
  });
}
