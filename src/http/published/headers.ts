/** Header fields of a message that is passed on: as they came, without those that are about one connection only (RFC 9110 §7.6.1). */
import type { IncomingMessage } from 'node:http';

/** Names and values in turn, as Node takes and gives them. */
export type RawHeaders = string[];

const HOP_BY_HOP = new Set([
  ...['connection', 'keep-alive', 'proxy-authenticate', 'proxy-authorization', 'proxy-connection'],
  ...['te', 'trailer', 'transfer-encoding', 'upgrade', 'http2-settings'],
]);
/** Ours to say; `expect` has been answered by then. */
const OURS = /^(?:forwarded|x-forwarded-.*|x-real-ip|expect)$/;

/** Nobody expects a body of these. */
const BODILESS = new Set(['GET', 'HEAD', 'DELETE', 'OPTIONS', 'TRACE']);

/** @param proto the scheme that visitors use. */
export function requestHeaders(incoming: IncomingMessage, proto: string): RawHeaders {
  const { headers, socket } = incoming;
  const kept = endToEnd(incoming).filter(([name]) => !OURS.test(name.toLowerCase()));
  const forwarded = [
    ['X-Forwarded-For', socket.remoteAddress ?? ''],
    ['X-Forwarded-Host', headers.host ?? ''],
    ['X-Forwarded-Proto', proto],
  ];
  return [...kept, ...framing(incoming), ...forwarded].flat();
}

/** Where the body ends; said also where there is none, as Node would announce one. */
function framing({ method, headers }: IncomingMessage): [name: string, value: string][] {
  if (headers['transfer-encoding'] !== undefined) return [['Transfer-Encoding', 'chunked']];
  const bare = headers['content-length'] === undefined && !BODILESS.has(method ?? 'GET');
  return bare ? [['Content-Length', '0']] : [];
}

export function responseHeaders(response: IncomingMessage): RawHeaders {
  return endToEnd(response).flat();
}

function endToEnd({ rawHeaders, headers }: IncomingMessage): [name: string, value: string][] {
  const named = (headers.connection ?? '').toLowerCase().split(',');
  const dropped = new Set([...HOP_BY_HOP, ...named.map((name) => name.trim())]);
  return pairsOf(rawHeaders).filter(([name]) => !dropped.has(name.toLowerCase()));
}

export function pairsOf(raw: RawHeaders): [name: string, value: string][] {
  const names = raw.filter((_, index) => index % 2 === 0);
  return names.map((name, index) => [name, raw[2 * index + 1]!]);
}
