/**
 * One request of a visitor, passed on to a program in a computer over a connection of its own, and the answer passed back, both as
 * they flow. When either side goes, the other does too.
 */
import { request, type ClientRequest, type IncomingMessage, type ServerResponse } from 'node:http';
import type { Duplex } from 'node:stream';
import { isUpgrading, takeSocket } from '../socket/upgrade.ts';
import { endToEnd, pairsOf } from '../../net/hop.ts';
import { requestHeaders } from './headers.ts';
import { say } from './say.ts';

export type ExchangeOptions = {
  /** The scheme that visitors use. */
  proto: string;
  /** Of the token that was for us, and is none of the program's business. */
  hides: Uint8Array | null;
  /** From the end of the request to the first byte of the answer. */
  first_byte_ms: number;
  /** Aborted when the server stops. */
  signal: AbortSignal;
};

const HEADER_BYTES_MAX = 65_536;

/** Resolves when nothing of it is left. Never rejects. */
export async function exchange(
  connection: Duplex,
  incoming: IncomingMessage,
  outgoing: ServerResponse,
  options: ExchangeOptions,
): Promise<void> {
  const closed = new Promise<void>((resolve) => connection.once('close', () => resolve()));
  const cut = (): void => void connection.destroy();
  connection.on('error', cut);
  options.signal.addEventListener('abort', cut, { once: true });
  outgoing.once('close', cut);
  const asked = ask(connection, incoming, options);
  let is_answered = false;
  let timer: NodeJS.Timeout | undefined;
  // The program may answer once it has all of the request, however long that takes to come.
  incoming.once('end', () => {
    if (!is_answered) timer = setTimeout(() => late(asked, outgoing), options.first_byte_ms);
  });
  asked.on('response', (response) => {
    is_answered = true;
    clearTimeout(timer);
    passBack(response, outgoing, connection);
  });
  asked.on('upgrade', (response, stream, head) => {
    is_answered = true;
    clearTimeout(timer);
    outgoing.off('close', cut);
    join(response, stream, head, takeSocket(incoming, outgoing));
  });
  asked.on('error', () => {
    // It need not read the whole request to answer.
    if (is_answered) return;
    say(outgoing, 502, 'The program in the computer did not answer in HTTP.');
    cut();
  });
  incoming.on('error', cut);
  incoming.pipe(asked);
  await closed;
  clearTimeout(timer);
  options.signal.removeEventListener('abort', cut);
}

function ask(
  connection: Duplex,
  incoming: IncomingMessage,
  { proto, hides }: ExchangeOptions,
): ClientRequest {
  const { upgrade = '' } = incoming.headers;
  const connecting = isUpgrading(incoming)
    ? ['Connection', 'Upgrade', 'Upgrade', upgrade]
    : ['Connection', 'close'];
  return request({
    createConnection: () => connection,
    method: incoming.method ?? 'GET',
    path: targetOf(incoming.url),
    headers: [...requestHeaders(incoming, proto, hides), ...connecting],
    maxHeaderSize: HEADER_BYTES_MAX,
    setDefaultHeaders: false,
  });
}

/** Of `http://host/path`, which is usual for a proxy, the path. */
function targetOf(url = '/'): string {
  if (url.startsWith('/') || url === '*') return url;
  const parsed = URL.parse(url);
  return parsed ? parsed.pathname + parsed.search : '/';
}

function late(asked: ClientRequest, outgoing: ServerResponse): void {
  say(outgoing, 504, 'The program in the computer did not answer in time.');
  asked.destroy();
}

function passBack(response: IncomingMessage, outgoing: ServerResponse, connection: Duplex): void {
  // Said too late already; or the answer broke off before.
  if (outgoing.headersSent || outgoing.destroyed) return void connection.destroy();
  outgoing.sendDate = false;
  outgoing.writeHead(response.statusCode ?? 502, response.statusMessage ?? '', endToEnd(response).flat());
  outgoing.flushHeaders();
  // An answer that breaks off must not look whole.
  response.on('aborted', () => outgoing.destroy());
  response.on('error', () => outgoing.destroy());
  response.on('end', () => connection.destroy());
  response.pipe(outgoing);
}

/** From the switch of protocols on, bytes go both ways untouched. */
function join(response: IncomingMessage, stream: Duplex, head: Buffer, socket: Duplex | undefined): void {
  if (!socket) return void stream.destroy();
  const { statusCode, statusMessage, rawHeaders } = response;
  const lines = pairsOf(rawHeaders).map(([name, value]) => `${name}: ${value}\r\n`);
  socket.write(`HTTP/1.1 ${statusCode} ${statusMessage}\r\n${lines.join('')}\r\n`, 'latin1');
  if (head.length > 0) stream.unshift(head);
  for (const [one, other] of [
    [socket, stream],
    [stream, socket],
  ] as const) {
    one.on('error', () => one.destroy());
    one.once('close', () => other.destroy());
    one.pipe(other);
  }
}
