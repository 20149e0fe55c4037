/** CONNECT: bytes both ways, whatever they are. Invariant: neither side is read faster than the other takes it, and one's end is the other's. */
import http from 'node:http';
import type { Socket } from 'node:net';
import { malformed, NAME_CHARACTERS_MAX, type Way } from './egress-forward.ts';
import type { Refusal, Target } from './egress-gate.ts';

/**
 * Never rejects.
 * @param authority host and port, as CONNECT was given it.
 * @param head what came with it.
 */
export async function tunnel(
  authority: string,
  client: Socket,
  { head, dial, told, half_open_idle_ms }: Way & { head: Buffer; half_open_idle_ms: number },
): Promise<void> {
  client.on('error', () => {});
  const target = parseTarget(authority);
  if ('status' in target) return refuseTunnel(client, target);
  const socket = await dial(target);
  if ('status' in socket) {
    told(socket, `${target.hostname}:${target.port}`);
    return refuseTunnel(client, socket);
  }
  if (client.destroyed) return void socket.destroy();
  client.write('HTTP/1.1 200 Connection established\r\n\r\n');
  if (head.length > 0) socket.write(head);
  join(client, socket, half_open_idle_ms);
  join(socket, client, half_open_idle_ms);
}

export function refuseTunnel(client: Socket, { status, reason }: Refusal): void {
  client.on('error', () => {});
  const text = `${reason}\n`;
  const headers = [
    `HTTP/1.1 ${status} ${http.STATUS_CODES[status]}`,
    'content-type: text/plain; charset=utf-8',
    `content-length: ${Buffer.byteLength(text)}`,
    'connection: close',
  ];
  client.end(`${headers.join('\r\n')}\r\n\r\n${text}`);
  // What was sent into the tunnel meanwhile is read, or the answer could be lost to a reset.
  client.resume();
  client.setTimeout(LINGER_MS, () => client.destroy());
}

const LINGER_MS = 5000;

function parseTarget(authority: string): Target | Refusal {
  const [, host = '', digits = ''] =
    /^(\[[0-9A-Fa-f:.]+\]|[^/?#@\\\s:[\]]+):(\d{1,5})$/.exec(authority) ?? [];
  const url = URL.parse(`http://${host}/`);
  const port = Number(digits);
  if (url === null || port < 1 || port > 65_535) return malformed('CONNECT needs a host and a port.');
  const hostname = url.hostname.replace(/^\[|\]$/g, '');
  if (hostname.replace(/\.$/, '').length > NAME_CHARACTERS_MAX)
    return malformed("the host's name is too long.");
  return { hostname, port };
}

/** The end of what `from` sends passes on; the end of `from` itself ends `to`, once it has what it was sent. */
function join(from: Socket, to: Socket, half_open_idle_ms: number): void {
  from.pipe(to);
  from.on('end', () => {
    to.setTimeout(half_open_idle_ms, () => to.destroy());
  });
  from.on('close', (had_error) => {
    if (had_error) to.destroy();
    else to.destroySoon();
  });
}
