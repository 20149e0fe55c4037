/**
 * The connections outward of one computer. Invariant: there are never more than the bounds say, those being made included, and each ends
 * when no byte has passed for the idle time.
 */
import type { Socket } from 'node:net';
import type { Gate, Refusal, Target } from './egress-gate.ts';

export type Bounds = {
  /** Of one computer, inward and outward each; above it the answer is 503. */
  connections_max: number;
  /** Outward of all computers; above it the answer is 503. */
  connections_total_max: number;
  /** Resolving and TCP. */
  connect_ms: number;
  /** Without a byte in either direction a connection is ended; a request that waits for its response is answered 504. */
  idle_ms: number;
  /** The same for a tunnel of which one side has ended: a client that died looks like one that only stopped sending. */
  half_open_idle_ms: number;
  /** From the connection, or the last response, to the end of a request's headers; then the connection is ended with 408. */
  headers_ms: number;
  /** Of one request; above it the answer is 431. */
  header_bytes_max: number;
};

export type Dialler = { dial: Gate; close(): void };

/** @param total shared by all computers. */
export function createDialler(gate: Gate, bounds: Bounds, total: { under_way: number }): Dialler {
  const sockets = new Set<Socket>();
  let under_way = 0;
  let is_closed = false;
  const end = (socket?: Socket): void => {
    under_way--;
    total.under_way--;
    if (socket) sockets.delete(socket);
  };
  const dial = async (target: Target): Promise<Socket | Refusal> => {
    if (is_closed) return CLOSED;
    if (under_way >= bounds.connections_max) return TOO_MANY;
    if (total.under_way >= bounds.connections_total_max) return TOO_MANY_IN_ALL;
    under_way++;
    total.under_way++;
    const made = await gate(target);
    if ('status' in made) {
      end();
      return made;
    }
    sockets.add(made);
    made.once('close', () => end(made));
    settle(made, bounds.idle_ms);
    if (is_closed) made.destroy();
    return is_closed ? CLOSED : made;
  };
  return {
    dial,
    close: () => {
      is_closed = true;
      for (const socket of sockets) socket.destroy();
    },
  };
}

const CLOSED: Refusal = { status: 503, reason: 'The computer is stopping.' };
const TOO_MANY: Refusal = { status: 503, reason: 'Too many connections of this computer are open.' };
const TOO_MANY_IN_ALL: Refusal = { status: 503, reason: 'Too many connections of all computers are open.' };

/** Whoever uses it hears of its end as of an error. */
function settle(socket: Socket, idle_ms: number): void {
  socket.on('error', () => {});
  // The other side may stop sending and still listen.
  socket.allowHalfOpen = true;
  const idle = Object.assign(new Error('idle'), { code: 'ETIMEDOUT' });
  socket.setTimeout(idle_ms, () => socket.destroy(idle));
}
