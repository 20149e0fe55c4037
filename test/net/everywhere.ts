/** Listeners on every address of a network namespace of one's own. Invariant: a connection is reported before a byte of it is read. */
import { once } from 'node:events';
import http from 'node:http';
import https from 'node:https';
import net, { type Socket } from 'node:net';
import type { Certificate } from './certificate.ts';

export type Reached = { address: string; port: number };

/** Port 9443 listens at one address only, so that a name can have one that is dead. */
const ONE_ADDRESS = { port: 9443, host: '93.184.216.35' };
const TLS_PORTS = [443, 8443, ONE_ADDRESS.port];
const HTTP_PORTS = [80, 8080];
const OTHER_PORTS = [21, 22, 25, 389, 2375, 3000, 4680, 5432, 6379, 9200, 11211, 27017];

/** `/redirect` leads to the metadata service, `/close` ends its connection. */
export async function listenEverywhere(
  certificate: Certificate,
  report: (reached: Reached) => void,
): Promise<void> {
  const secure = https.createServer(certificate, answer);
  const plain = http.createServer(answer);
  const accept = (port: number) => (socket: Socket) => {
    socket.on('error', () => {});
    report({ address: socket.localAddress?.replace(/^::ffff:/, '') ?? '', port });
    if (TLS_PORTS.includes(port)) secure.emit('connection', socket);
    else if (HTTP_PORTS.includes(port)) plain.emit('connection', socket);
    else socket.end();
  };
  for (const port of [...TLS_PORTS, ...HTTP_PORTS, ...OTHER_PORTS]) {
    const server = net.createServer(accept(port));
    server.listen(port === ONE_ADDRESS.port ? ONE_ADDRESS : { port, host: '::' });
    await once(server, 'listening');
  }
}

/** Connects with nothing in between, and waits until the other side has accepted and closed. */
export async function reach(address: string, port: number): Promise<void> {
  const socket = net.connect(port, address);
  socket.resume();
  await once(socket, 'close');
}

const answer: http.RequestListener = (request, response) => {
  request.resume();
  if (request.url === '/close') response.setHeader('connection', 'close');
  if (request.url === '/redirect') {
    response.writeHead(307, { location: 'http://169.254.169.254/latest/meta-data/' });
  }
  response.end('here');
};
