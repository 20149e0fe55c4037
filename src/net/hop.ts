/**
 * What of an HTTP message is about one connection only, for those that pass messages on (RFC 9110 §7.6.1). Invariant: where a body ends
 * is said by this side alone.
 */
import type { IncomingMessage } from 'node:http';

type Field = [name: string, value: string];

const HOP_BY_HOP = [
  ...['connection', 'keep-alive', 'proxy-authenticate', 'proxy-authorization', 'proxy-connection'],
  ...['te', 'trailer', 'transfer-encoding', 'upgrade', 'http2-settings'],
];
/** Nobody expects a body of these. */
const BODILESS = new Set(['GET', 'HEAD', 'DELETE', 'OPTIONS', 'TRACE']);

/** The fields as they came, without those of the hop and those that `Connection` names. */
export function endToEnd({ rawHeaders, headers }: IncomingMessage): Field[] {
  const named = (headers.connection ?? '').toLowerCase().split(',');
  const dropped = new Set([...HOP_BY_HOP, ...named.map((name) => name.trim())]);
  return pairsOf(rawHeaders).filter(([name]) => !dropped.has(name.toLowerCase()));
}

/** The same of a request, with where its body ends; said also where there is none, as Node would announce one. */
export function requestFields(request: IncomingMessage): Field[] {
  const kept = endToEnd(request).filter(([name]) => name.toLowerCase() !== 'content-length');
  return [...kept, ...framing(request)];
}

function framing({ headers, method = 'GET' }: IncomingMessage): Field[] {
  if (headers['transfer-encoding'] !== undefined) return [['Transfer-Encoding', 'chunked']];
  if (headers['content-length'] !== undefined) return [['Content-Length', headers['content-length']]];
  return BODILESS.has(method) ? [] : [['Content-Length', '0']];
}

/** Names and values in turn, as Node takes and gives them, as pairs. */
export function pairsOf(raw: readonly string[]): Field[] {
  const names = raw.filter((_, index) => index % 2 === 0);
  return names.map((name, index) => [name, raw[2 * index + 1]!]);
}
