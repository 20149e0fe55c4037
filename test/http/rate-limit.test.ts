/** What one caller may ask of a node: requests of a key and of an org, guesses of an address, open streams. The rest is told to wait. */
import net from 'node:net';
import type { KyselyPlugin } from 'kysely';
import { afterEach, describe, expect, it } from 'vitest';
import { createRateLimit, NO_LIMITS, type Limits, type RateLimit } from '../../src/http/rate-limit.ts';
import { makeKey, makeSession, startServer, type Answer, type TestServer } from '../helpers/http.ts';
import { play } from '../helpers/runtime.ts';
import { openStream, seqs, type Stream } from '../helpers/stream.ts';
import { eventually, gate } from '../helpers/world.ts';

let server: TestServer;
const started: TestServer[] = [];
afterEach(async () => {
  for (const one of started.splice(0)) await one.close();
});

const start = async (
  limits: Partial<Limits>,
  on: 'embedded' | 'postgres' = 'embedded',
): Promise<TestServer> => {
  server = await startServer({}, { limits: { ...NO_LIMITS, ...limits } }, on);
  started.push(server);
  return server;
};

/** All at once, and ten times what a second allows: a slow machine needs several seconds for them. */
const askMany = (count: number, key: string, what = 'GET /v3/agents'): Promise<Answer[]> =>
  Promise.all(Array.from({ length: count }, () => server.ask(what, { key })));
const countOf = (answers: Answer[], status: number): number =>
  answers.filter((answer) => answer.status === status).length;

function expectRefusal({ status, json, headers }: Answer): void {
  expect([status, json['error']!['type'], headers.get('retry-after')]).toEqual([429, 'rate_limited', '1']);
  expect(json['error']!['request_id']).toBe(headers.get('x-request-id'));
}

describe('requests', () => {
  it('of a key above its limit are 429 with Retry-After; other keys go on, and it does too in a second', async () => {
    const { org, runtime, ask } = await start({ requests_per_key_max: 2 });
    const other = await makeKey(runtime, org.id);
    const answers = await askMany(30, org.key);
    expect(countOf(answers, 200)).toBeGreaterThanOrEqual(2);
    expect(countOf(answers, 429)).toBe(30 - countOf(answers, 200));
    expectRefusal(answers.find(({ status }) => status === 429)!);
    expect((await ask('GET /v3/agents', { key: other.key })).status).toBe(200);
    await eventually(async () => (await ask('GET /v3/agents')).status === 200, 5000);
  });

  it('of an org above its limit are 429, whichever key or token asks; other orgs go on', async () => {
    const { org, stranger, runtime, ask } = await start({ requests_per_org_max: 3 });
    const { id, token } = await makeSession(server);
    const keys = [org.key, (await makeKey(runtime, org.id)).key];
    await eventually(async () => (await ask('GET /v3/agents')).status === 200, 5000);
    const events = `GET /v3/sessions/${id}/events`;
    const answers = (
      await Promise.all([...keys.map((key) => askMany(20, key)), askMany(20, token, events)])
    ).flat();
    expect(countOf(answers, 429)).toBeGreaterThan(0);
    expect(countOf(answers, 429)).toBe(60 - countOf(answers, 200));
    expect((await ask('GET /v3/agents', { key: stranger.key })).status).toBe(200);
  });

  it('are refused before their body is read', async () => {
    const { org, url } = await start({ requests_per_key_max: 1 });
    const socket = net.connect(Number(new URL(url).port), '127.0.0.1');
    const head = `POST /v3/agents HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${org.key}\r\n`;
    const json = 'content-type: application/json\r\ncontent-length:';
    socket.write(`${head}${json} 2\r\n\r\n{}${head}${json} 1000000\r\n\r\n{"name"`);
    let text = '';
    for await (const chunk of socket) text += String(chunk);
    expect(text).toMatch(/^HTTP\/1.1 400 /);
    expect(text).toContain('HTTP/1.1 429 ');
  });
});

describe('the count of requests', () => {
  const ask = async (rate: RateLimit, id: string, times: number): Promise<number> => {
    const asked = Array.from({ length: times }, () => rate.countRequest({ id, org: 'org_1' }));
    return (await Promise.allSettled(asked)).filter(({ status }) => status === 'fulfilled').length;
  };

  it('is one for each key and token and one for their org', async () => {
    const rate = createRateLimit({ ...NO_LIMITS, requests_per_key_max: 4, requests_per_org_max: 10 });
    const admitted = [await ask(rate, 'key_1', 4), await ask(rate, 'ctk_1', 4), await ask(rate, 'ctk_2', 4)];
    expect(admitted).toEqual([4, 4, 2]);
  });

  it('of a key above its limit leaves what remains of its org to the others', async () => {
    const rate = createRateLimit({ ...NO_LIMITS, requests_per_key_max: 4, requests_per_org_max: 10 });
    expect([await ask(rate, 'key_1', 1000), await ask(rate, 'key_2', 4)]).toEqual([4, 4]);
  });

  it('of failures takes the addresses of one IPv6 network for one', async () => {
    const rate = createRateLimit({ ...NO_LIMITS, failures_per_address_max: 1 });
    const fail = (address: string) => rate.authenticate(address, () => Promise.resolve(undefined));
    await fail('2001:db8:1:2::3');
    await expect(fail('2001:db8:1:2:ffff::9')).rejects.toMatchObject({ code: 'rate_limited' });
    await fail('2001:db8:1:3::3');
    await fail('::ffff:127.0.0.1');
    await expect(fail('127.0.0.1')).rejects.toMatchObject({ code: 'rate_limited' });
  });

  it('of failures has those that are being looked up, so that guesses at once gain nothing', async () => {
    const rate = createRateLimit({ ...NO_LIMITS, failures_per_address_max: 2 });
    const looking = gate();
    let looked = 0;
    const guess = () =>
      rate.authenticate('127.0.0.1', async () => {
        looked += 1;
        await looking.opened;
        return undefined;
      });
    const guesses = Array.from({ length: 500 }, guess);
    looking.open();
    const ends = await Promise.allSettled(guesses);
    expect(looked).toBe(2);
    expect(ends.filter(({ status }) => status === 'rejected').length).toBe(498);
  });

  it('of failures neither has what succeeds nor what could not be looked up', async () => {
    const rate = createRateLimit({ ...NO_LIMITS, failures_per_address_max: 1 });
    const authenticate = (look: () => Promise<string>) => rate.authenticate('127.0.0.1', look);
    const broken = authenticate(() => Promise.reject(new Error('no database')));
    const good = Array.from({ length: 100 }, () => authenticate(() => Promise.resolve('caller')));
    await expect(broken).rejects.toThrow('no database');
    expect(new Set(await Promise.all(good))).toEqual(new Set(['caller']));
  });
});

describe('failed authentications', () => {
  it('of an address above the limit are 429 before the database is asked, for a second', async () => {
    let statements = 0;
    const counting: KyselyPlugin = {
      transformQuery: ({ node }) => {
        statements += 1;
        return node;
      },
      transformResult: ({ result }) => Promise.resolve(result),
    };
    const { ask, runtime } = await start({ failures_per_address_max: 2 });
    runtime.database.db = runtime.database.db.withPlugin(counting);
    const guess = () => ask('GET /v3/agents', { key: `ow_00000000_${'a'.repeat(43)}` });
    let asked = 0;
    const refused = await eventually(async () => {
      const answer = await guess();
      if (answer.status === 401) asked += 1;
      expect(statements).toBe(asked);
      return answer.status === 429 ? answer : undefined;
    });
    expect(asked).toBeGreaterThanOrEqual(2);
    expectRefusal(refused);
    await eventually(async () => (await ask('GET /v3/agents')).status === 200, 5000);
  });

  it('at once reach the database no more often than one after the other', async () => {
    let statements = 0;
    const counting: KyselyPlugin = {
      transformQuery: ({ node }) => {
        statements += 1;
        return node;
      },
      transformResult: ({ result }) => Promise.resolve(result),
    };
    const { runtime } = await start({ failures_per_address_max: 2 }, 'postgres');
    runtime.database.db = runtime.database.db.withPlugin(counting);
    const began = performance.now();
    const answers = await askMany(500, `ow_00000000_${'a'.repeat(43)}`);
    const seconds = Math.ceil((performance.now() - began) / 1000);
    expect(statements).toBeLessThanOrEqual(2 * seconds);
    expect([countOf(answers, 401), countOf(answers, 429)]).toEqual([statements, 500 - statements]);
  });

  it('do not count against an address that succeeds', async () => {
    const { org } = await start({ failures_per_address_max: 1 });
    expect(countOf(await askMany(20, org.key), 200)).toBe(20);
  });
});

describe('open streams', () => {
  const open = async (id: string, key: string): Promise<Stream> =>
    await openStream(`${server.url}/v3/sessions/${id}/events?stream=sse`, { authorization: `Bearer ${key}` });
  const isRefused = async (id: string, key: string): Promise<void> =>
    expectRefusal(await server.ask(`GET /v3/sessions/${id}/events?stream=sse`, { key }));

  it('of an org have a bound: a new one is 429, those that are open go on, and one that ends makes room', async () => {
    const { org, runtime } = await start({ streams_per_org_max: 2 });
    const { id, token } = await makeSession(server);
    const streams = [await open(id, org.key), await open(id, token)];
    await isRefused(id, org.key);
    await isRefused(id, token);
    await play(runtime, id, { type: 'message', text: 'x', actor: { type: 'human' } });
    for (const stream of streams) await stream.until((frames) => seqs(frames).includes(3));
    streams[0]!.close();
    const third = await eventually(async () => {
      const stream = await open(id, org.key);
      return stream.status === 200 ? stream : undefined;
    });
    for (const stream of [streams[1]!, third]) stream.close();
  });

  it('of a key have a bound, and its org has places left for others', async () => {
    const { org, runtime } = await start({ streams_per_key_max: 1 });
    const { id, token } = await makeSession(server);
    const streams = [await open(id, org.key), await open(id, token)];
    await isRefused(id, org.key);
    await isRefused(id, token);
    streams.push(await open(id, (await makeKey(runtime, org.id)).key));
    expect(streams.map(({ status }) => status)).toEqual([200, 200, 200]);
    streams[0]!.close();
    const again = await eventually(async () => {
      const stream = await open(id, org.key);
      return stream.status === 200 ? stream : undefined;
    });
    for (const stream of [...streams.slice(1), again]) stream.close();
  });

  it('of a node have a bound, across orgs', async () => {
    const { org, stranger } = await start({ streams_max: 1 });
    const { id } = await makeSession(server);
    const foreign = await makeSession({
      ask: (what, ask) => server.ask(what, { key: stranger.key, ...ask }),
    });
    const stream = await open(id, org.key);
    await isRefused(foreign.id, stranger.key);
    stream.close();
  });
});
