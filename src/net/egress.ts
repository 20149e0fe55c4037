/**
 * The way out of computers: per computer a proxy for HTTP and CONNECT on a unix socket. Invariant: a connection goes out only to an
 * address that the gate let pass for it, and after `close` nothing of the computer's is open.
 */
import { once } from 'node:events';
import { chmod } from 'node:fs/promises';
import http from 'node:http';
import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import type { Egress } from '../resource/computer/driver.ts';
import type { NetworkPolicy } from '../resource/computer/spec.ts';
import type { Networks } from './address.ts';
import { createDialler, type Bounds, type Dialler } from './egress-dial.ts';
import { forward, refuse } from './egress-forward.ts';
import { createGate, type Refusal } from './egress-gate.ts';
import { refuseTunnel, tunnel } from './egress-tunnel.ts';

export type EgressOptions = {
  /** Networks that are not public and may be reached all the same. */
  allowed: Networks;
  /** Hears of refusals; never of a path, a header or a body. */
  log: { debug(fields: Record<string, unknown>, message: string): void };
  bounds?: Partial<Bounds>;
};

export function createEgress({ allowed, log, bounds: changed }: EgressOptions): Egress {
  const bounds = { ...BOUNDS, ...changed };
  const total = { under_way: 0 };
  return {
    serve: async (path, policy, computer) => {
      const gate = createGate(reaching(policy), allowed, bounds.connect_ms);
      const dialler = createDialler(gate, bounds, total);
      const told = (refusal: Refusal, to: string): void => {
        const fields = { computer, policy: policy.mode, to, status: refusal.status, reason: refusal.reason };
        log.debug(fields, 'egress refused');
      };
      const server = createServer(dialler, bounds, told);
      const clients = keepClients(server);
      server.listen(path);
      await once(server, 'listening');
      // The directory around it says who may come.
      await chmod(path, 0o666);
      return {
        close: async () => {
          const closed = server.listening ? once(server, 'close') : undefined;
          server.close();
          dialler.close();
          for (const client of clients) client.destroy();
          await closed;
        },
      };
    },
  };
}

const BOUNDS: Bounds = {
  connections_max: 256,
  connections_total_max: 4096,
  connect_ms: 10_000,
  idle_ms: 300_000,
  half_open_idle_ms: 30_000,
  headers_ms: 30_000,
  header_bytes_max: 32 * 1024,
};

/** Above the bound so many more are heard, to be told so; what comes then is closed unheard. */
const SURPLUS_MAX = 64;

type Told = (refusal: Refusal, to: string) => void;

const BUSY: Refusal = { status: 503, reason: 'Too many connections of this computer are open.' };

function reaching(policy: NetworkPolicy): Exclude<NetworkPolicy, { mode: 'off' }> {
  if (policy.mode === 'off') throw new Error('a computer whose network is off has no egress');
  return policy;
}

function createServer(dialler: Dialler, bounds: Bounds, told: Told): http.Server {
  const { half_open_idle_ms } = bounds;
  const surplus = new WeakSet<Duplex>();
  const server = http.createServer({
    maxHeaderSize: bounds.header_bytes_max,
    insecureHTTPParser: false,
    headersTimeout: bounds.headers_ms,
    // A large upload may take its time: what stands still is ended as idle.
    requestTimeout: 0,
    connectionsCheckingInterval: Math.min(bounds.headers_ms, CHECK_MS),
  });
  // Node would drop the headers past its default of 2000 unseen; their bytes are bounded anyway.
  server.maxHeadersCount = 0;
  // Requests end with the idle time of their connection outward; this is for what has none.
  server.setTimeout(2 * bounds.idle_ms);
  server.maxConnections = bounds.connections_max + SURPLUS_MAX;
  let open = 0;
  server.on('connection', (socket: Socket) => {
    if (++open > bounds.connections_max) surplus.add(socket);
    socket.once('close', () => open--);
  });
  server.on('request', (request, response) => {
    if (surplus.has(request.socket)) return refuse(response, BUSY);
    void forward(request, response, { dial: dialler.dial, told });
  });
  server.on('connect', (request: http.IncomingMessage, client: Duplex, head: Buffer) => {
    if (surplus.has(client)) return refuseTunnel(client as Socket, BUSY);
    void tunnel(request.url ?? '', client as Socket, { head, dial: dialler.dial, told, half_open_idle_ms });
  });
  return server;
}

const CHECK_MS = 10_000;

/** Those of tunnels too, which the server itself forgets. */
function keepClients(server: http.Server): Set<Socket> {
  const clients = new Set<Socket>();
  server.on('connection', (socket: Socket) => {
    clients.add(socket);
    socket.once('close', () => clients.delete(socket));
  });
  return clients;
}
