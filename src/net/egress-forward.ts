/**
 * One request in absolute form, sent on over a connection of its own. Invariant: what goes out is framed by this side alone and names the
 * host that was checked; headers that are meant for one hop stay on it.
 */
import http, { type IncomingMessage, type ServerResponse } from 'node:http';
import { pipeline, type Readable } from 'node:stream';
import type { Gate, Refusal, Target } from './egress-gate.ts';
import { codeOf, describeFailure } from './failure.ts';
import { endToEnd, pairsOf, requestFields } from './hop.ts';

export type Way = { dial: Gate; told: (refusal: Refusal, to: string) => void };

type Absolute = Target & { host: string; path: string };

/** Never rejects. */
export async function forward(
  request: IncomingMessage,
  response: ServerResponse,
  { dial, told }: Way,
): Promise<void> {
  const target = parseAbsolute(request);
  if ('status' in target) return refuse(response, target);
  const socket = await dial(target);
  if ('status' in socket) {
    told(socket, target.host);
    return refuse(response, socket);
  }
  if (response.destroyed || request.socket.destroyed) return void socket.destroy();
  const sent = {
    method: request.method ?? 'GET',
    path: target.path,
    headers: headersOut(request, target.host),
  };
  try {
    const outgoing = http.request({ ...sent, createConnection: () => socket });
    exchange(request, response, outgoing);
  } catch {
    socket.destroy();
    refuse(response, malformed('the request holds a character that cannot be sent on.'));
  }
}

export function refuse(response: ServerResponse, { status, reason }: Refusal): void {
  const text = `${reason}\n`;
  const headers = { 'content-type': 'text/plain; charset=utf-8', 'content-length': Buffer.byteLength(text) };
  // A surplus connection must not stay.
  response.writeHead(status, http.STATUS_CODES[status], {
    ...headers,
    ...(status === 503 && { connection: 'close' }),
  });
  response.end(text);
}

export function malformed(why: string): Refusal {
  return { status: 400, reason: `This is a proxy for HTTP and CONNECT: ${why}` };
}

/** Of DNS, without the dot at the end. */
export const NAME_CHARACTERS_MAX = 253;

/** The target of the URL, to which `Host` must not say anything else; the path as it was written. */
function parseAbsolute(request: IncomingMessage): Absolute | Refusal {
  const [, authority = '', path = ''] = /^http:\/\/([^/?#\\]+)([^#]*)/i.exec(request.url ?? '') ?? [];
  const url = parseAuthority(authority);
  if (url === null) return malformed('an http:// URL without a user name is needed; https goes by CONNECT.');
  if (hostLies(request, url.host)) return malformed('the Host header differs from the URL.');
  if (/[^\s,]/.test((request.headers['transfer-encoding'] ?? '').replace(/^chunked$/i, ''))) {
    return malformed('no transfer coding but chunked is known.');
  }
  const hostname = url.hostname.replace(/^\[|\]$/g, '');
  if (hostname.replace(/\.$/, '').length > NAME_CHARACTERS_MAX)
    return malformed("the host's name is too long.");
  const port = Number(url.port || 80);
  return { hostname, port, host: url.host, path: path.startsWith('/') ? path : `/${path}` };
}

function parseAuthority(authority: string): URL | null {
  if (!/^[^/?#@\\\s]+$/.test(authority)) return null;
  const url = URL.parse(`http://${authority}/`);
  return url === null || url.port === '0' ? null : url;
}

function hostLies({ rawHeaders }: IncomingMessage, host: string): boolean {
  const given = pairsOf(rawHeaders).filter(([name]) => name.toLowerCase() === 'host');
  return given.length > 1 || given.some(([, value]) => parseAuthority(value)?.host !== host);
}

function headersOut(request: IncomingMessage, host: string): string[] {
  const kept = requestFields(request).filter(([name]) => !/^(?:host|expect|proxy-.*)$/i.test(name));
  return ['Host', host, ...kept.flat(), 'Connection', 'close'];
}

function exchange(request: IncomingMessage, response: ServerResponse, outgoing: http.ClientRequest): void {
  outgoing.on('response', (incoming) => relay(incoming, response));
  outgoing.on('error', (error) => fail(response, failureOf(error)));
  // Also after a switch of protocols that nobody asked for, which is no error.
  outgoing.on('close', () => fail(response, NO_RESPONSE));
  response.on('close', () => outgoing.destroy());
  request.on('error', () => outgoing.destroy());
  const { headers } = request;
  const has_body = headers['transfer-encoding'] !== undefined || headers['content-length'] !== undefined;
  if (has_body) request.pipe(outgoing);
  else outgoing.end();
}

const NO_RESPONSE: Refusal = { status: 502, reason: 'The host sent no response.' };

/** A response that breaks off breaks off here too, by its connection: an end would make it look whole. */
function relay(incoming: IncomingMessage, response: ServerResponse): void {
  try {
    response.sendDate = false;
    response.writeHead(
      incoming.statusCode ?? 0,
      endToEnd(incoming)
        .filter(([name]) => !/^proxy-/i.test(name))
        .flat(),
    );
  } catch {
    incoming.destroy();
    return fail(response, { status: 502, reason: "The host's response is not HTTP." });
  }
  pipeline(incoming as Readable, response, () => {});
}

function fail(response: ServerResponse, refusal: Refusal): void {
  if (response.headersSent || response.destroyed) return;
  refuse(response, refusal);
}

function failureOf(error: Error): Refusal {
  const is_idle = codeOf(error) === 'ETIMEDOUT';
  return is_idle
    ? { status: 504, reason: 'The host did not answer in time.' }
    : { status: 502, reason: describeFailure(error) };
}
