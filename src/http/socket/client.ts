/**
 * One client of a terminal, from its first message to its last. Nothing piles up: what it types is read no faster than the shell takes
 * it, and what it is shown waits in the shell's bounds (engine/computers/shell.ts).
 */
import { on } from 'node:events';
import type { WebSocket } from 'ws';
import type { Holder } from '../../engine/computers/connect-tokens.ts';
import type { TerminalEnd, Viewer } from '../../engine/computers/audience.ts';
import type { Attached, Shell } from '../../engine/computers/shell.ts';
import type { Logger } from '../../engine/runtime.ts';
import { OverwinterError, type ErrorCode } from '../../resource/error.ts';
import type { Revocations } from '../revocations.ts';
import { tokenOf, type Frame, type TerminalMessage } from './message.ts';

export type Client = {
  socket: WebSocket;
  frames: AsyncIterator<Frame>;
  /** What it looks at. */
  shell: Pick<Shell, 'attach' | 'end'>;
  /** What a frame of its protocol means. */
  parse: (frame: Frame) => TerminalMessage;
  holder: Holder;
  /** The key of the handshake: a first message that is a token must be the same. */
  key: string | null;
  /** Whether the shell ends with the connection. */
  ends_shell: boolean;
  revocations: Revocations;
  warn: Logger['warn'];
};

type Close = [code: number, reason: string];

const CLOSES: Record<TerminalEnd, Close> = {
  exited: [1000, ''],
  closed: [1000, ''],
  stopping: [1001, 'the server is stopping'],
  slow: [1013, 'the client did not take what the terminal showed'],
  idle: [4408, 'nobody was attached to the terminal'],
  lost: [4410, 'the computer has stopped'],
};
const UNAUTHORIZED: Close = [4401, 'the API key is not valid'];
const FAILED: Close = [1011, 'the server failed'];
const REFUSALS: Partial<Record<ErrorCode, number>> = {
  ...{ invalid: 4400, unauthorized: 4401, forbidden: 4403, not_found: 4404, conflict: 4409, fenced: 4409 },
  ...{ rate_limited: 4429, unavailable: 4503, contended: 4503 },
};

/** Frames that wait while one is worked on; then the connection is read no further. */
const FRAMES_WAITING_MAX = 2;
/** What may wait for the shell; each frame counts a little more than its bytes. */
const INPUT_BYTES_MAX = 262_144;
const FRAME_BYTES = 64;
const PING_MS = 30_000;
/** For the client to take the end; then the connection is cut. */
const LINGER_MS = 5000;
const REASON_BYTES_MAX = 120;

/** Those who must not be heard any more, while the end of their connection is under way. */
const hung_up = new WeakSet<WebSocket>();

/** Every frame from now on. */
export function framesOf(socket: WebSocket): AsyncIterator<Frame> {
  // Its message is in what the iterator throws, or nobody listens any more.
  socket.on('error', () => undefined);
  const bounds = { highWaterMark: FRAMES_WAITING_MAX, lowWaterMark: 1 };
  return on(socket, 'message', { close: ['close'], ...bounds }) as AsyncIterator<Frame>;
}

/** Serves the client until it leaves or must. Never rejects. */
export async function serveClient(client: Client): Promise<void> {
  const { socket, shell, holder } = client;
  const stops = [
    client.revocations.watch(holder.id, () => hangUp(socket, UNAUTHORIZED)),
    keepAlive(socket),
    () => client.ends_shell && shell.end('closed'),
  ];
  try {
    const attached = shell.attach(viewerOf(socket));
    stops.push(attached.leave);
    await readAll(client, attached);
  } catch (error) {
    refuseClient(socket, error, client.warn);
  } finally {
    for (const stop of stops.toReversed()) stop();
  }
}

/** Says over an open WebSocket what a handshake would have been refused with. */
export function refuseClient(socket: WebSocket, error: unknown, warn: Logger['warn']): void {
  const code = error instanceof OverwinterError ? REFUSALS[error.code] : undefined;
  if (code === undefined) {
    if (socket.readyState === socket.OPEN) warn({ err: error }, 'the connection of a terminal failed');
    hangUp(socket, FAILED);
  } else {
    hangUp(socket, [code, (error as Error).message]);
  }
}

function hangUp(socket: WebSocket, [code, reason]: Close): void {
  hung_up.add(socket);
  const bytes = Buffer.from(reason).subarray(0, REASON_BYTES_MAX);
  socket.close(code, new TextDecoder().decode(bytes).replace(/\uFFFD$/, ''));
  setTimeout(() => socket.terminate(), LINGER_MS).unref();
}

export function hangUpStopping(socket: WebSocket): void {
  hangUp(socket, CLOSES.stopping);
}

function viewerOf(socket: WebSocket): Viewer {
  return {
    show: (data) =>
      new Promise((resolve, reject) => {
        socket.send(data, { binary: true }, (error) => (error ? reject(error) : resolve()));
      }),
    end: (why) => hangUp(socket, CLOSES[why]),
  };
}

async function readAll(client: Client, attached: Attached): Promise<void> {
  const { frames, socket, shell } = client;
  const gone = new Promise<void>((resolve) => socket.once('close', () => resolve()));
  const typed = createTyping(attached.input, gone);
  let is_first = client.key !== null;
  for (let next = await frames.next(); !next.done; next = await frames.next()) {
    if (hung_up.has(socket)) return;
    const token = is_first ? tokenOf(next.value) : undefined;
    is_first = false;
    if (token !== undefined) {
      if (token === client.key) continue;
      return hangUp(socket, UNAUTHORIZED);
    }
    const message = client.parse(next.value);
    switch (message.type) {
      case 'input':
        await typed(message.data);
        break;
      case 'resize':
        attached.resize(message.rows, message.cols);
        break;
      case 'close':
        shell.end('closed');
        break;
      case 'token':
      case 'nothing':
        break;
      default:
        message satisfies never;
    }
  }
}

/** Hands input on at once, and resolves when more may come, or the client has `gone` from a program that reads nothing. */
function createTyping(input: Attached['input'], gone: Promise<void>): (data: Uint8Array) => Promise<void> {
  let waiting_bytes = 0;
  return async (data) => {
    const bytes = data.length + FRAME_BYTES;
    waiting_bytes += bytes;
    const taken = input(data).then(() => (waiting_bytes -= bytes));
    if (waiting_bytes > INPUT_BYTES_MAX) await Promise.race([taken, gone]);
  };
}

/** Ends a connection whose client has answered nothing since the last ping, be it that it is gone or that its input is stuck. */
function keepAlive(socket: WebSocket): () => void {
  let is_answered = true;
  socket.on('pong', () => (is_answered = true));
  const timer = setInterval(() => {
    if (!is_answered) return socket.terminate();
    is_answered = false;
    socket.ping();
  }, PING_MS);
  timer.unref();
  return () => clearInterval(timer);
}
