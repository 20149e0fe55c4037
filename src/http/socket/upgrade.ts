/**
 * WebSockets as routes: an upgrade passes through the app like any request, and whatever refuses it answers in plain HTTP. A request
 * is upgraded only by the route that calls `acceptSocket`.
 */
import { ServerResponse, type IncomingMessage } from 'node:http';
import type { Socket } from 'node:net';
import type { HttpBindings } from '@hono/node-server';
import { WebSocketServer, type WebSocket } from 'ws';
import { OverwinterError } from '../../resource/error.ts';

/** What the clients of the contract take and send at most. */
const MESSAGE_BYTES_MAX = 1024 * 1024;
const SOCKET_PATHS = [
  /^\/+v1\/+(?:computers\/+[^/?]+\/+terminal|terminals\/+[^/?]+\/+connect)(?:\?|$)/,
  /^\/api\/sandboxes\/[^/?]+\/(?:exec|pty)\/[^/?]+(?:\?|$)/,
];

const server = new WebSocketServer({
  ...{ noServer: true, clientTracking: false, perMessageDeflate: false },
  maxPayload: MESSAGE_BYTES_MAX,
});
/** Requests whose connection HTTP has let go of. */
const upgrading = new WeakSet<IncomingMessage>();

/** Whether the request asks for a WebSocket. */
export function asksForSocket({ method, headers }: IncomingMessage): boolean {
  return method === 'GET' && headers.upgrade?.toLowerCase() === 'websocket';
}

/** Whether the request asks for a WebSocket where a route opens one. */
export function asksForOurs(incoming: IncomingMessage): boolean {
  return asksForSocket(incoming) && SOCKET_PATHS.some((path) => path.test(incoming.url ?? ''));
}

/** The response of an upgrade that is not accepted yet: what is written to it closes the connection. */
export function responseOf(incoming: IncomingMessage, socket: Socket, head: Buffer): ServerResponse {
  upgrading.add(incoming);
  if (head.length > 0) socket.unshift(head);
  socket.on('error', () => socket.destroy());
  const outgoing = new ServerResponse(incoming);
  outgoing.shouldKeepAlive = false;
  outgoing.assignSocket(socket);
  outgoing.once('finish', () => socket.end());
  return outgoing;
}

/** Whether HTTP has let go of the request's connection, and nobody has taken it yet. */
export function isUpgrading(incoming: IncomingMessage): boolean {
  return upgrading.has(incoming);
}

/** The connection of an upgrade, which its response has nothing to do with from now on; undefined where the request is none. */
export function takeSocket(incoming: IncomingMessage, outgoing: ServerResponse): Socket | undefined {
  if (!upgrading.delete(incoming)) return undefined;
  outgoing.detachSocket(incoming.socket);
  return incoming.socket;
}

/** @throws OverwinterError `invalid` */
export function expectUpgrade({ incoming }: HttpBindings): void {
  if (!isUpgrading(incoming))
    throw new OverwinterError('invalid', 'a WebSocket is opened here: GET with Upgrade: websocket');
}

/** @throws OverwinterError `invalid` where the request is no upgrade, or no valid one. */
export function acceptSocket({ incoming, outgoing }: HttpBindings): WebSocket {
  const socket = takeSocket(incoming, outgoing);
  let accepted: WebSocket | undefined;
  if (socket) server.handleUpgrade(incoming, socket, Buffer.alloc(0), (opened) => (accepted = opened));
  if (!accepted) throw new OverwinterError('invalid', 'the handshake of the WebSocket is not valid');
  return accepted;
}
