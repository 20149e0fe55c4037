import { once } from 'node:events';
import net, { type AddressInfo } from 'node:net';
import { expect, it, onTestFinished } from 'vitest';
import { parseNetworks } from '../../src/net/address.ts';
import { createConnect } from '../../src/net/connect.ts';
import { exchange } from '../../src/net/exchange.ts';
import { createPools, type Pools } from '../../src/net/pools.ts';
import { startReceiver } from '../helpers/receiver.ts';
import { gate } from '../helpers/world.ts';
import { createResolve } from '../../src/net/resolve.ts';

const LIMITS = { connect_ms: 2000, response_ms: 2000, now: Date.now };

function makePools(): Pools {
  const connect = createConnect(createResolve(parseNetworks('127.0.0.1')), LIMITS.connect_ms);
  const pools = createPools({ connections: 4, pipelining: 1, allowH2: false }, () => connect);
  onTestFinished(() => pools.close());
  return pools;
}

function post(pools: Pools, origin: string, tenant = 'org_1') {
  return pools.use(tenant, origin, (pool) =>
    exchange(pool, { path: '/', method: 'POST', body: '{}' }, LIMITS),
  );
}

it('origins that nothing was sent to are not held, however many requests failed at once', async () => {
  const pools = makePools();
  const origins = Array.from({ length: 100 }, (_, index) => `https://10.0.0.${index}`);
  const outcomes = await Promise.all(
    origins.flatMap((origin) => Array.from({ length: 10 }, () => post(pools, origin))),
  );
  expect(new Set(outcomes.map(({ kind }) => kind))).toEqual(new Set(['refused']));
  expect(pools.origins()).toBe(0);
});

it('an origin is held while its connection is open, and let go when that closes', async () => {
  const closing = Promise.withResolvers<() => void>();
  const server = net.createServer((socket) => {
    socket.once('data', () => socket.write('HTTP/1.1 204 No Content\r\n\r\n'));
    closing.resolve(() => socket.end());
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  onTestFinished(() => void server.close());
  const pools = makePools();
  const origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  expect(await post(pools, origin)).toMatchObject({ kind: 'responded', status: 204 });
  expect(pools.origins()).toBe(1);
  (await closing.promise)();
  await expect.poll(() => pools.origins()).toBe(0);
});

it('tenants share no connection: one that has all of its own under way leaves the others theirs', async () => {
  const pools = makePools();
  const hanging = gate();
  const receiver = await startReceiver(async ({ path }) => {
    if (path === '/hang') await hanging.opened;
    return 204;
  });
  const at = (path: string, tenant: string) =>
    pools.use(tenant, receiver.url, (pool) => exchange(pool, { path, method: 'POST', body: '{}' }, LIMITS));
  const held = Array.from({ length: 20 }, () => at('/hang', 'org_1'));
  expect(await at('/', 'org_2')).toMatchObject({ kind: 'responded', status: 204 });
  hanging.open();
  await Promise.all(held);
  await receiver.close();
});
