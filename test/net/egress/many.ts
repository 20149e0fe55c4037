/** More connections than the bounds let through. Invariant: each count is taken after every answer has come. */
import { connect, dial, get, listen, serve, until, type Line, type Proxy } from './world.ts';

/** Opened one after the other, so that it is known which of them are too many. */
export async function concurrent(): Promise<Record<string, unknown>> {
  const proxy = await serve({ mode: 'open' }, {});
  const lines = await tunnels(proxy, 300);
  const counts = count(lines.map(({ answer }) => answer));
  for (const { socket } of lines) socket.destroy();
  const tiny = await serve({ mode: 'open' }, { bounds: { connections_max: 4 } });
  const refused = count((await tunnels(tiny, 100)).map(({ answer }) => answer));
  await tiny.close();
  let after = '';
  await until(() => lines.every(({ socket }) => socket.destroyed));
  while (!after.startsWith('200')) after = await get(proxy, 'http://public.test/');
  await proxy.close();
  return { concurrent: counts, beyond: refused, after };
}

/** Many requests on one connection are many connections outward. */
export async function pipelined(): Promise<Record<string, unknown>> {
  let held = 0;
  const server = await listen(7100, (socket) => {
    held++;
    socket.resume();
    socket.on('end', () => socket.end());
  });
  const proxy = await serve({ mode: 'open' }, { bounds: { connections_max: 8 } });
  const line = dial(proxy);
  line.socket.write('GET http://public.test:7100/ HTTP/1.1\r\nHost: public.test:7100\r\n\r\n'.repeat(40));
  await until(() => held === 8);
  const meanwhile = await get(proxy, 'http://public.test/');
  // A tunnel on a connection that still waits for an answer.
  line.socket.write('CONNECT public.test:7100 HTTP/1.1\r\nHost: public.test:7100\r\n\r\n');
  const again = await get(proxy, 'http://public.test/');
  line.socket.destroy();
  await proxy.close();
  server.close();
  return { pipelined: held, meanwhile, again };
}

/** Two computers share what the machine has for all. */
export async function total(): Promise<Record<string, unknown>> {
  const proxy = await serve({ mode: 'open' }, { bounds: { connections_total_max: 3 } });
  const answers = count((await tunnels(proxy, 5)).map(({ answer }) => answer));
  await proxy.close();
  return { total: answers };
}

async function tunnels(proxy: Proxy, many: number): Promise<(Line & { answer: string })[]> {
  const lines: (Line & { answer: string })[] = [];
  for (let made = 0; made < many; made++) lines.push(await connect(proxy, 'public.test:7004'));
  return lines;
}

function count(answers: string[]): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const answer of answers) counts[answer] = (counts[answer] ?? 0) + 1;
  return counts;
}
