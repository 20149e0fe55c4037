/**
 * The way out of a computer, as tests over both identities of the server: through a small proxy that notes what it is
 * asked. Nothing leaves this machine.
 */

import { once } from 'node:events';
import { createServer, request } from 'node:http';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { connect, createServer as createTcpServer } from 'node:net';
import type { AddressInfo, Server, Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Unsupported } from '../../src/resource/computer/driver.ts';
import type { Computer, Driver, Egress } from '../../src/resource/computer/driver.ts';
import type { NetworkPolicy } from '../../src/resource/computer/spec.ts';
import { bwrapDriver } from '../../src/sandbox/bwrap.ts';
import { bytesOf, freshId, runScript, until } from '../conformance/computers.ts';
import { LIMITS } from '../conformance/driver.ts';
import { removeGround } from './grounds.ts';
import type { Ground } from './grounds.ts';

const OPEN: NetworkPolicy = { mode: 'open' };

export function waysOut(title: string, ground: Ground, prepare: () => void): void {
  describe(title, () => {
    let [origin, echo]: [Server | null, Server | null] = [null, null];
    let driver: Driver;
    const proxy = noting(() => portOf(origin));
    beforeAll(async () => {
      prepare();
      driver = bwrapDriver({ ...ground.options, egress: proxy.egress });
      origin = createServer((asked, reply) => void answer(asked, reply)).listen(0, '127.0.0.1');
      echo = createTcpServer((socket) => socket.pipe(socket)).listen(0, '127.0.0.1');
      await Promise.all([once(origin, 'listening'), once(echo, 'listening')]);
    });
    afterAll(async () => {
      await driver.close();
      for (const server of [origin, echo]) server?.close();
      removeGround(ground);
    });
    const wake = async (network: NetworkPolicy, id = freshId(), generation = 1): Promise<Computer> => {
      const request = { id, reference: null, from_generation: generation - 1, generation, snapshot: null };
      return (await driver.wake({ ...request, limits: LIMITS, network, image: null })).computer;
    };

    test('is said in the capabilities', async () => {
      expect(await driver.probe()).toMatchObject({
        usable: true,
        capabilities: { egress: true, terminals: true },
      });
    });

    test('is open at the first exec, for what programs ask by HTTP', async () => {
      const computer = await wake(OPEN);
      const result = await runScript(
        computer,
        'curl -sS http://site.test/a; curl -sS --data-binary @- http://site.test/b',
        {
          stdin: Buffer.alloc(300_000, 'x'),
        },
      );
      expect(result).toMatchObject({ stdout: 'GET /a 0\nPOST /b 300000\n', stderr: '' });
      expect(proxy.asked.slice(-2)).toEqual(['GET http://site.test/a', 'POST http://site.test/b']);
    });

    test('carries tunnels, many at a time and large ones', async () => {
      const port = portOf(echo);
      proxy.tunnels.set('site.test:443', port);
      const computer = await wake(OPEN);
      await runScript(computer, 'cat > tunnel.pl', { stdin: Buffer.from(TUNNEL) });
      const script = 'for i in 1 2 3 4; do perl tunnel.pl & done; wait';
      expect((await runScript(computer, script)).stdout).toBe('4194304\n'.repeat(4));
    });

    test('is not there for a computer without a network', async () => {
      const computer = await wake({ mode: 'off' });
      const script = 'env | grep -i proxy; ls /run/computer; curl -sS --max-time 5 http://site.test/';
      const { stdout, exit_code } = await runScript(computer, script);
      expect(stdout).not.toMatch(/proxy|egress/i);
      expect(exit_code).not.toBe(0);
    });

    test('is told the policy and the computer, and closed when it ends', async () => {
      const id = freshId();
      const policy: NetworkPolicy = { mode: 'allow', hosts: ['site.test'] };
      const computer = await wake(policy, id);
      expect(proxy.open.get(id)).toEqual(policy);
      await computer.hibernate();
      expect(proxy.open.has(id)).toBe(false);
      const again = await wake(policy, id, 2);
      expect((await runScript(again, 'curl -sS http://site.test/again')).stdout).toBe('GET /again 0\n');
      await driver.destroy(id, null);
      expect(proxy.open.has(id)).toBe(false);
    });

    test('is the only one', async () => {
      const computer = await wake(OPEN);
      const port = portOf(origin);
      const script = `curl -sS --noproxy '*' --max-time 5 http://127.0.0.1:${port}/; ip -o link 2>/dev/null | grep -vc ' lo:'`;
      expect((await runScript(computer, script)).stdout).not.toContain('GET');
    });

    test('survives clients that go away', async () => {
      const computer = await wake(OPEN);
      await runScript(
        computer,
        'for i in $(seq 40); do (exec 3<>/dev/tcp/127.0.0.1/3128; printf "GET http" >&3) & done; wait',
      );
      expect((await runScript(computer, 'curl -sS http://site.test/well')).stdout).toBe('GET /well 0\n');
      await until(async () => proxy.connections() <= 1);
    });

    test('cannot be had from a server that has none', async () => {
      const without = bwrapDriver({ ...ground.options, installation: 'other', egress: null });
      const request = { id: freshId(), reference: null, from_generation: 0, generation: 1, snapshot: null };
      await expect(without.wake({ ...request, limits: LIMITS, network: OPEN, image: null })).rejects.toThrow(
        Unsupported,
      );
      await without.close();
    });
  });
}

const TUNNEL = String.raw`use Socket; $| = 1;
socket(my $s, PF_INET, SOCK_STREAM, 0); connect($s, pack_sockaddr_in(3128, INADDR_LOOPBACK)) or die $!;
syswrite($s, "CONNECT site.test:443 HTTP/1.1\r\nHost: site.test\r\n\r\n");
my $head = ''; sysread($s, $head, 1, length $head) until $head =~ /\r\n\r\n/;
if (!fork) { for (1 .. 64) { my $d = 'x' x 65536; while (length $d) { substr($d, 0, syswrite($s, $d)) = '' } } shutdown($s, 1); exit }
my $count = 0; while (my $n = sysread($s, my $d, 65536)) { $count += $n } print "$count\n";
`;

async function answer(asked: IncomingMessage, reply: ServerResponse): Promise<void> {
  const body = await bytesOf(asked);
  reply.end(`${asked.method} ${new URL(asked.url ?? '', 'http://site.test').pathname} ${body.length}\n`);
}

function portOf(server: Server | null): number {
  if (server === null) throw new Error('the server is not there yet');
  return (server.address() as AddressInfo).port;
}

type Noting = {
  egress: Egress;
  asked: string[];
  open: Map<string, NetworkPolicy>;
  tunnels: Map<string, number>;
  connections: () => number;
};

/** A proxy that sends every request to one origin of the test. */
function noting(originPort: () => number): Noting {
  const asked: string[] = [];
  const open = new Map<string, NetworkPolicy>();
  const tunnels = new Map<string, number>();
  const sockets = new Set<Socket>();
  const forward = (from: IncomingMessage, reply: ServerResponse): void => {
    asked.push(`${from.method} ${from.url}`);
    const path = new URL(from.url ?? '').pathname;
    const on = request({
      port: originPort(),
      path,
      method: from.method,
      headers: from.headers,
      agent: false,
    });
    on.on('response', (response) => response.pipe(reply));
    from.pipe(on);
  };
  const tunnel = (from: IncomingMessage, client: Duplex): void => {
    const on = connect(tunnels.get(from.url ?? '') ?? 0, '127.0.0.1');
    client.write('HTTP/1.1 200 Connected\r\n\r\n');
    client.pipe(on).pipe(client);
    for (const each of [on, client]) each.on('error', () => {});
  };
  const egress: Egress = {
    async serve(path, policy, computer) {
      const server = createServer({ allowHalfOpen: true } as object, forward)
        .on('connect', tunnel)
        .listen(path);
      server.on('connection', (socket) => {
        sockets.add(socket);
        socket.on('error', () => {}).on('close', () => sockets.delete(socket));
      });
      await once(server, 'listening');
      open.set(computer, policy);
      return {
        async close() {
          open.delete(computer);
          server.closeAllConnections();
          server.close();
        },
      };
    },
  };
  return { egress, asked, open, tunnels, connections: () => sockets.size };
}
