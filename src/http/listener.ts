/**
 * The HTTP server below the app: what a request may cost before any of our code sees it, and our envelope (contract §4) for what
 * Node's parser refuses by itself. A client that sends slowly is dropped; nothing is written into an answer that has begun.
 */
import {
  createServer,
  STATUS_CODES,
  type IncomingMessage,
  type Server,
  type ServerResponse,
} from 'node:http';
import type { Socket } from 'node:net';
import { getRequestListener } from '@hono/node-server';
import type { NewId } from '../resource/id.ts';
import type { Api } from './api.ts';
import { NO_PORTS, type PublishedPorts } from './published/published.ts';
import { asksForOurs, asksForSocket, responseOf } from './socket/upgrade.ts';

export type Bounds = {
  /** Request line and headers together. */
  header_bytes_max: number;
  headers_max: number;
  /** From the first byte of a request to the end of its headers. */
  headers_timeout_ms: number;
  /** From a request's headers to the end of its body; of what is streamed, without a byte. */
  request_timeout_ms: number;
};

export const BOUNDS: Bounds = {
  header_bytes_max: 16 * 1024,
  headers_max: 100,
  headers_timeout_ms: 15_000,
  request_timeout_ms: 60_000,
};

type Refusal = { status: number; type: string; message: string };

const MALFORMED: Refusal = { status: 400, type: 'invalid', message: 'the request is not valid HTTP' };
const NO_HOST: Refusal = { status: 400, type: 'invalid', message: 'the request names no valid host' };
const TOO_SLOW: Refusal = { status: 408, type: 'timeout', message: 'the request took too long to arrive' };
const BIG_CHUNKS: Refusal = { status: 413, type: 'too_large', message: 'the chunk extensions are too long' };
const EXPECTATION: Refusal = { status: 417, type: 'invalid', message: 'only 100-continue may be expected' };
const BIG_HEADERS: Refusal = { status: 431, type: 'too_large', message: 'the headers are too large' };
const NO_TUNNEL: Refusal = { status: 404, type: 'not_found', message: 'there is nothing to connect to' };

/** Time for the client to read the refusal while it still sends: a reset would take it away. */
const LINGER_MS = 500;

/**
 * A server that does not listen yet. @param newId names the requests that the app never sees. @param ports take the requests that are
 * for the programs in computers; the app never sees those either.
 */
export function createListener(
  app: Pick<Api, 'fetch'>,
  newId: NewId,
  bounds: Bounds = BOUNDS,
  ports: PublishedPorts = NO_PORTS,
): Server {
  const answer = getRequestListener(app.fetch, {
    errorHandler: () => new Response(...asResponse(NO_HOST, newId('request'))),
  });
  const server = createServer({
    maxHeaderSize: bounds.header_bytes_max,
    headersTimeout: bounds.headers_timeout_ms,
    // Ours too: an upload may take longer, as long as it goes on.
    requestTimeout: 0,
    connectionsCheckingInterval: Math.min(1000, bounds.headers_timeout_ms),
    // Ours to refuse: Node's own answer would be bare.
    requireHostHeader: false,
    // Whatever else asks for an upgrade is answered as if it did not.
    shouldUpgradeCallback: (incoming) =>
      asksForSocket(incoming) && (ports.wants(incoming) || asksForOurs(incoming)),
  });
  // Node drops what is above without a word, so one more is let in and refused below.
  server.maxHeadersCount = bounds.headers_max + 1;
  const unanswered = new WeakMap<Socket, Set<ServerResponse>>();
  server.on('request', (incoming: IncomingMessage, outgoing: ServerResponse) => {
    track(unanswered, incoming.socket, outgoing);
    const refusal = refusalOf(incoming, bounds);
    if (refusal) return refuse(outgoing, refusal, newId('request'));
    const visits = ports.wants(incoming);
    boundArrival(outgoing, bounds.request_timeout_ms, visits || isUpload(incoming), newId);
    if (visits) ports.visit(incoming, outgoing);
    else void answer(incoming, outgoing);
  });
  server.on('upgrade', (incoming: IncomingMessage, socket: Socket, head: Buffer) => {
    // Behind an answer that is still owed there is no telling whose the next bytes are.
    if (isOwed(unanswered, socket)) {
      socket.destroy();
      return;
    }
    const outgoing = responseOf(incoming, socket, head);
    const refusal = refusalOf(incoming, bounds);
    if (refusal) refuse(outgoing, refusal, newId('request'));
    else if (ports.wants(incoming)) ports.visit(incoming, outgoing);
    else void answer(incoming, outgoing);
  });
  server.on('checkExpectation', (_incoming: IncomingMessage, outgoing: ServerResponse) =>
    refuse(outgoing, EXPECTATION, newId('request')),
  );
  server.on('clientError', (error: NodeJS.ErrnoException, socket: Socket) => {
    if (isOwed(unanswered, socket) || !socket.writable || error.code === 'ECONNRESET') socket.destroy();
    else hangUp(socket, refusalOfParser(error.code), newId('request'));
  });
  // Node would hang up without a word.
  server.on('connect', (_incoming: IncomingMessage, socket: Socket) => {
    if (isOwed(unanswered, socket)) socket.destroy();
    else hangUp(socket, NO_TUNNEL, newId('request'));
  });
  return server;
}

function track(
  unanswered: WeakMap<Socket, Set<ServerResponse>>,
  socket: Socket,
  outgoing: ServerResponse,
): void {
  const responses = unanswered.get(socket) ?? new Set();
  unanswered.set(socket, responses.add(outgoing));
  outgoing.once('close', () => responses.delete(outgoing));
}

/** An answer to an earlier request, or one already under way: what is written now would be read as a part of it. */
function isOwed(unanswered: WeakMap<Socket, Set<ServerResponse>>, socket: Socket): boolean {
  return [...(unanswered.get(socket) ?? [])].some(({ headersSent, req }) => headersSent || req.complete);
}

/** Refuses a request whose body does not come: all of it in time or, where it is `streamed`, the next of it. */
function boundArrival(outgoing: ServerResponse, within_ms: number, streamed: boolean, newId: NewId): void {
  const { req: incoming } = outgoing;
  let bytes = -1;
  const look = (): void => {
    if (incoming.complete) return;
    const { bytesRead } = incoming.socket;
    // What waits to be read is late by our doing.
    const goes_on = streamed && (bytesRead > bytes || incoming.readableLength > 0);
    bytes = bytesRead;
    if (goes_on) timer = setTimeout(look, within_ms);
    else if (outgoing.headersSent) incoming.destroy();
    else {
      refuse(outgoing, TOO_SLOW, newId('request'));
      setTimeout(() => incoming.destroy(), LINGER_MS).unref();
    }
  };
  let timer = setTimeout(look, within_ms);
  outgoing.once('close', () => clearTimeout(timer));
}

/** Its body is read from the socket as it comes. */
function isUpload({ method, url = '' }: IncomingMessage): boolean {
  return method === 'PUT' && /^\/+(v1|api)\//.test(url);
}

function refusalOf(incoming: IncomingMessage, bounds: Bounds): Refusal | undefined {
  if (incoming.rawHeaders.length / 2 > bounds.headers_max) return BIG_HEADERS;
  if (hostsOf(incoming) !== 1 || namesUser(incoming.url)) return NO_HOST;
  return undefined;
}

/** A request has one (RFC 9112 §3.2). */
function hostsOf({ rawHeaders }: IncomingMessage): number {
  return rawHeaders.filter((name, index) => index % 2 === 0 && name.toLowerCase() === 'host').length;
}

/** `http://user@host/`, where a path is usual: no request can be made of it (RFC 9110 §4.2.4). */
function namesUser(target = '/'): boolean {
  return !target.startsWith('/') && Boolean(URL.parse(target)?.username || URL.parse(target)?.password);
}

function refusalOfParser(code: string | undefined): Refusal {
  switch (code) {
    case 'ERR_HTTP_REQUEST_TIMEOUT':
      return TOO_SLOW;
    case 'HPE_CHUNK_EXTENSIONS_OVERFLOW':
      return BIG_CHUNKS;
    case 'HPE_HEADER_OVERFLOW':
      return BIG_HEADERS;
    default:
      return MALFORMED;
  }
}

function refuse(outgoing: ServerResponse, refusal: Refusal, request_id: string): void {
  const [body, { status, headers }] = asResponse(refusal, request_id, outgoing.req.url);
  outgoing.writeHead(status, headers).end(body);
}

/** For a socket whose request never became one. */
function hangUp(socket: Socket, refusal: Refusal, request_id: string): void {
  const [body, { status, headers }] = asResponse(refusal, request_id);
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
  socket.end(`HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\n${lines.join('')}\r\n${body}`);
  setTimeout(() => socket.destroy(), LINGER_MS).unref();
}

function asResponse(
  { status, type, message }: Refusal,
  request_id: string,
  target = '',
): [string, { status: number; headers: Record<string, string> }] {
  const mount = /^\/+(v1|api)(?=\/|$|\?)/.exec(target)?.[1];
  const envelopes = { v1: { detail: message }, api: { error: message, code: type } };
  const ours = { error: { type, message, request_id } };
  const body = JSON.stringify(mount === undefined ? ours : envelopes[mount as keyof typeof envelopes]);
  return [
    body,
    {
      status,
      headers: {
        'content-type': 'application/json',
        'content-length': String(Buffer.byteLength(body)),
        'x-request-id': request_id,
        connection: 'close',
      },
    },
  ];
}
