/** What every driver promises of connections to ports of its computers. */

import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { Agent, request } from 'node:http';
import type { IncomingMessage } from 'node:http';
import type { Duplex } from 'node:stream';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { ConnectionRefused } from '../../src/resource/computer/driver.ts';
import type { Computer } from '../../src/resource/computer/driver.ts';
import { bytesOf, runScript, until } from './computers.ts';
import type { WakeNew } from './driver.ts';

/** Serves each connection with a child: `echo` gives back what comes, `web` answers HTTP/1.1 with keep-alive. */
const SERVER = String.raw`use strict; use Socket;
my ($kind) = @ARGV;
socket(my $listener, PF_INET, SOCK_STREAM, 0) or die; bind($listener, pack_sockaddr_in(0, INADDR_LOOPBACK)) or die;
listen($listener, 16); my ($port) = unpack_sockaddr_in(getsockname $listener);
open(my $file, '>', "$kind.part"); print $file $port; close $file; rename "$kind.part", $kind;
$SIG{CHLD} = 'IGNORE';
while (1) {
  accept(my $client, $listener) or next;
  if (fork == 0) { $kind eq 'echo' ? give_back($client) : answer($client); exit }
}
sub give_back { my $c = shift; while (sysread($c, my $data, 65536)) { for (my $at = 0; $at < length $data;) { $at += syswrite($c, $data, 65536, $at) } } }
sub answer {
  my $c = shift; my $count = 0; my $head = '';
  while (sysread($c, $head, 4096, length $head)) {
    while ($head =~ s/\A(.*?)\r\n\r\n//s) {
      $count += 1;
      if ($1 =~ /^Upgrade:/mi) { syswrite($c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"); return give_back($c) }
      my $body = "answer $count"; syswrite($c, "HTTP/1.1 200 OK\r\nContent-Length: " . length($body) . "\r\n\r\n$body");
    }
  }
}
`;

export function portsConform(wakeNew: WakeNew): void {
  let computer: Computer;
  beforeAll(async () => {
    ({ computer } = await wakeNew());
    await runScript(
      computer,
      'cat > server.pl; for kind in echo web; do perl server.pl $kind >/dev/null 2>&1 & done',
      {
        stdin: Buffer.from(SERVER),
      },
    );
    await until(async () => (await runScript(computer, 'cat echo web')).exit_code === 0);
  });
  afterAll(() => computer.hibernate());
  const portOf = async (kind: 'echo' | 'web'): Promise<number> =>
    Number((await runScript(computer, `cat ${kind}`)).stdout);
  const relays = async (port: number): Promise<string> =>
    (await runScript(computer, `pgrep -fc "relay.pl.? connect ${port}\\$"`)).stdout.trim();

  test('carry bytes both ways, and its end to the other side', async () => {
    const connection = await computer.connect(await portOf('echo'));
    const sent = randomBytes(5_000_000);
    const back = bytesOf(connection);
    connection.end(sent);
    expect((await back).equals(sent)).toBe(true);
  });

  test('many at a time', async () => {
    const port = await portOf('echo');
    const echoes = Array.from({ length: 8 }, async (_, index) => {
      const connection = await computer.connect(port);
      connection.end(`hello ${index}`);
      return (await bytesOf(connection)).toString();
    });
    expect(await Promise.all(echoes)).toEqual(echoes.map((_, index) => `hello ${index}`));
  });

  test('carry HTTP with keep-alive', async () => {
    const connection = await computer.connect(await portOf('web'));
    const agent = new Agent({ keepAlive: true, maxSockets: 1 });
    agent.createConnection = () => connection;
    expect(await get(agent)).toBe('answer 1');
    expect(await get(agent)).toBe('answer 2');
    agent.destroy();
    connection.destroy();
  });

  test('carry a connection that is upgraded', async () => {
    const connection = await computer.connect(await portOf('web'));
    const asked = request({
      createConnection: () => connection,
      headers: { connection: 'Upgrade', upgrade: 'echo' },
    });
    asked.end();
    const [, socket] = (await once(asked, 'upgrade')) as [IncomingMessage, Duplex];
    socket.write('ping');
    expect(String((await once(socket, 'data'))[0])).toBe('ping');
    socket.destroy();
  });

  test('are refused where nothing listens, and for what is no port', async () => {
    await expect(computer.connect(1)).rejects.toThrow(ConnectionRefused);
    for (const port of [0, -1, 65_536, 1.5, Number.NaN]) {
      await expect(computer.connect(port)).rejects.toThrow(RangeError);
    }
  });

  test('leave nothing behind when they are destroyed', async () => {
    const port = await portOf('echo');
    const connection = await computer.connect(port);
    expect(await relays(port)).toBe('1');
    connection.destroy();
    await until(async () => (await relays(port)) === '0');
  });
}

async function get(agent: Agent): Promise<string> {
  const asked = request({ agent, host: 'computer.invalid' });
  asked.end();
  const [answer] = (await once(asked, 'response')) as [IncomingMessage];
  return (await bytesOf(answer)).toString();
}
