/** Receivers of webhooks on loopback, good and bad. Invariant: each closes with its test and counts the connections it accepted. */
import { once } from 'node:events';
import http from 'node:http';
import https from 'node:https';
import net, { type AddressInfo, type Server, type Socket } from 'node:net';
import { gzipSync } from 'node:zlib';
import { onTestFinished } from 'vitest';
import { parseNetworks } from '../../src/net/address.ts';
import { createPoster, type Poster, type PosterOptions } from '../../src/net/post.ts';
import type { Certificate } from './certificate.ts';

export type Receiver = { url: string; port: number; connections: number; requests: Received[] };
type Received = { url: string; headers: http.IncomingHttpHeaders; body: string };

export function makePoster(overrides: Partial<PosterOptions> = {}): Poster {
  const poster = createPoster({
    allowed: parseNetworks('127.0.0.0/8 ::1'),
    ...{ connect_ms: 5000, response_ms: 5000, connections_per_origin_max: 4, now: Date.now },
    ...overrides,
  });
  onTestFinished(() => poster.close());
  return poster;
}

/** Speaks HTTP; keeps what it was sent. */
export async function receive(
  answer: (response: http.ServerResponse) => void,
  certificate?: Certificate & Pick<https.ServerOptions, 'maxVersion'>,
): Promise<Receiver> {
  const requests: Received[] = [];
  const listener: http.RequestListener = (request, response) => {
    let body = '';
    request.setEncoding('utf8').on('data', (chunk: string) => (body += chunk));
    request.on('end', () => {
      const { url = '', headers } = request;
      requests.push({ url, headers, body });
      answer(response);
    });
  };
  const server = certificate ? https.createServer(certificate, listener) : http.createServer(listener);
  onTestFinished(() => server.closeAllConnections());
  return listen(server, certificate ? 'https' : 'http', requests);
}

/** Speaks whatever `converse` writes, once a request has begun to arrive. */
export async function receiveRaw(converse: (socket: Socket) => void): Promise<Receiver> {
  const server = net.createServer((socket) => {
    socket.on('error', () => {});
    socket.once('data', () => converse(socket));
    onTestFinished(() => void socket.destroy());
  });
  return listen(server, 'http', []);
}

/** Writes `chunk` as long as the other side reads. */
export function pourInto(socket: Socket, chunk: string): void {
  const pour = (): void => {
    while (!socket.destroyed && socket.write(chunk));
  };
  socket.on('drain', pour);
  pour();
}

/** A megabyte of zeros, packed. */
export const GZIP_BOMB = gzipSync(Buffer.alloc(1024 * 1024));

async function listen(server: Server, protocol: string, requests: Received[]): Promise<Receiver> {
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  onTestFinished(() => void server.close());
  const { port } = server.address() as AddressInfo;
  const receiver = { url: `${protocol}://127.0.0.1:${port}/hook`, port, connections: 0, requests };
  server.on('connection', () => receiver.connections++);
  return receiver;
}
