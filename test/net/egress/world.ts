/** What the programs inside a namespace share: proxies to ask, raw connections to them, servers to reach. Invariant: what a proxy answers is kept byte for byte. */
import { once } from 'node:events';
import fs from 'node:fs';
import http from 'node:http';
import net, { type Server, type Socket } from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { parseNetworks } from '../../../src/net/address.ts';
import type { Bounds } from '../../../src/net/egress-dial.ts';
import { createEgress } from '../../../src/net/egress.ts';
import type { NetworkPolicy } from '../../../src/resource/computer/spec.ts';

export const PUBLIC = '93.184.216.34';
const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'overwinter-egress-'));
process.on('exit', () => fs.rmSync(directory, { recursive: true, force: true }));

export const logged: Record<string, unknown>[] = [];

export type Proxy = { path: string; close: () => Promise<void> };

let served = 0;
export async function serve(
  policy: NetworkPolicy = { mode: 'open' },
  { networks = '', bounds = {} }: { networks?: string; bounds?: Partial<Bounds> } = {},
): Promise<Proxy> {
  const log = { debug: (fields: Record<string, unknown>) => void logged.push(fields) };
  const at = path.join(directory, `${served++}.sock`);
  const egress = createEgress({ allowed: parseNetworks(networks), log, bounds });
  const opened = await egress.serve(at, policy, 'cmp_test');
  return { path: at, close: () => opened.close() };
}

/** An open connection to the proxy, and what it answered so far. */
export type Line = { socket: Socket; said: () => string; ended: Promise<unknown> };

export function dial({ path: at }: Proxy): Line {
  const socket = net.connect({ path: at, allowHalfOpen: true });
  let text = '';
  socket.on('error', () => {});
  socket.on('data', (chunk: Buffer) => (text += chunk.toString('latin1')));
  const { promise: ended, resolve } = Promise.withResolvers<void>();
  socket.on('end', resolve);
  socket.on('close', () => resolve());
  return { socket, said: () => text, ended };
}

/** All that the proxy answers until it closes. */
export async function send(proxy: Proxy, bytes: string): Promise<string> {
  const line = dial(proxy);
  line.socket.write(bytes, 'latin1');
  await line.ended;
  line.socket.destroy();
  return line.said();
}

/** Status and the first line of the body. */
export async function get(proxy: Proxy, url: string, host = hostOf(url)): Promise<string> {
  return shorten(await send(proxy, `GET ${url} HTTP/1.1\r\nHost: ${host}\r\nConnection: close\r\n\r\n`));
}

export function shorten(answer: string): string {
  const [head = '', ...body] = answer.split('\r\n\r\n');
  const status = /^HTTP\/1\.1 (\d+)/.exec(head)?.[1] ?? 'nothing';
  const text = body.join('').replace(/^[0-9a-f]+\r\n/i, '');
  return `${status} ${text.split(/[\r\n]/)[0]}`.trim();
}

/** The answer to CONNECT: its status, and the body of a refusal. An open tunnel stays with the caller. */
export async function connect(proxy: Proxy, authority: string): Promise<Line & { answer: string }> {
  const line = dial(proxy);
  line.socket.write(`CONNECT ${authority} HTTP/1.1\r\nHost: ${authority}\r\n\r\n`, 'latin1');
  const is_answered = () => line.said().startsWith('HTTP/1.1 200') && line.said().includes('\r\n\r\n');
  const { promise: answered, resolve } = Promise.withResolvers<void>();
  const look = (): void => void (is_answered() && resolve());
  line.socket.on('data', look);
  await Promise.race([answered, line.ended]);
  line.socket.off('data', look);
  if (!line.said().startsWith('HTTP/1.1 200')) line.socket.destroy();
  return { ...line, answer: shorten(line.said()) };
}

/** As `connect`, and hangs up. */
export async function tryConnect(proxy: Proxy, authority: string): Promise<string> {
  const { socket, answer } = await connect(proxy, authority);
  socket.destroy();
  return answer;
}

/** A server for raw sockets on a port of every address, until the program ends. */
export async function listen(port: number, converse: (socket: Socket) => void): Promise<Server> {
  const server = net.createServer({ allowHalfOpen: true }, (socket) => {
    socket.on('error', () => {});
    converse(socket);
  });
  server.listen({ port, host: '::' });
  await once(server, 'listening');
  return server;
}

/** Answers with what it was sent, headers as they came. */
export async function listenEcho(port: number): Promise<void> {
  const server = http.createServer((request, response) => {
    let body = '';
    request.on('data', (chunk: Buffer) => (body += chunk.toString('latin1')));
    request.on('end', () => {
      const { method, url, rawHeaders } = request;
      response.writeHead(200, { 'proxy-authenticate': 'x', 'keep-alive': 'timeout=99', 'x-kept': 'yes' });
      response.end(JSON.stringify({ method, url, rawHeaders, body }));
    });
  });
  server.listen(port, '::');
  await once(server, 'listening');
}

/** Turns of the loop, with its input and output, until `is` holds; its bound is the namespace's. */
export async function until(is: () => boolean): Promise<void> {
  while (!is()) await new Promise((resolve) => setTimeout(resolve, 5));
}

/** `ActiveOpens` of this namespace: counts every SYN for a new connection, answered or not. */
export function connectionsOpened(): number {
  const [names, values] = fs
    .readFileSync('/proc/net/snmp', 'utf8')
    .split('\n')
    .filter((line) => line.startsWith('Tcp:'))
    .map((line) => line.split(' '));
  return Number(values?.[names?.indexOf('ActiveOpens') ?? -1]);
}

function hostOf(url: string): string {
  return /^\w+:\/\/([^/?#]*)/.exec(url)?.[1] ?? '';
}
