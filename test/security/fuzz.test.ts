/**
 * Malformed requests over every route, made from the document that the server gives of itself: no answer but a success or a refusal in
 * our envelope, within a second; and what belongs to another org is, afterwards, what it was before.
 * `OVERWINTER_FUZZ_SEED` and a case's number make a failure happen again.
 */
import fs from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { KINDS, ask, emptyPool, useAll, type Tenant } from '../helpers/fuzz/tenant.ts';
import { numberOf } from '../helpers/fuzz/random.ts';
import { makeCase, type Document, type Site } from '../helpers/fuzz/requests.ts';
import { brokenChains, rowsOf, withDatabase } from '../helpers/fuzz/rows.ts';
import { runCases, type Report } from '../helpers/fuzz/run.ts';
import { makeOperator, makeSession, startServer } from '../helpers/http.ts';
import { reply, text } from '../helpers/model/messages-api.ts';
import type { NodeSettings, TestNode } from '../helpers/node.ts';
import { startReceiver, type Receiver } from '../helpers/receiver.ts';
import { eventually, makeWorld, type World } from '../helpers/world.ts';

const SEED = numberOf('OVERWINTER_FUZZ_SEED', 1);
const REQUESTS = numberOf('OVERWINTER_FUZZ_REQUESTS', 8000);
/** Of one connection, after which it is seen whether everything still works. */
const CONTROL_EVERY = REQUESTS > 50_000 ? 500 : 100;
const RSS_MB_MAX = 1500;

/** Each node counts failures and requests for itself; here it is to look at every one of them. */
const UNLIMITED: NodeSettings = {
  OVERWINTER_FAILURES_PER_ADDRESS: '1000000',
  OVERWINTER_STREAMS_PER_ORG: '1000000',
  OVERWINTER_STREAMS: '1000000',
};
const BY_DEFAULT: NodeSettings = {
  OVERWINTER_REQUESTS_PER_KEY: '200',
  OVERWINTER_REQUESTS_PER_ORG: '1000',
  OVERWINTER_FAILURES_PER_ADDRESS: '50',
};

let receiver: Receiver;
beforeAll(async () => {
  receiver = await startReceiver();
});
afterAll(() => receiver.close());

describe(`malformed requests (seed ${SEED})`, () => {
  it(
    'meet a success or a refusal, and never touch another org',
    { timeout: 120_000 + REQUESTS * 6 },
    async () => {
      const world = await makeWorld(() => reply(text('Done.')), {
        ...UNLIMITED,
        OVERWINTER_WEBHOOK_ALLOW: '127.0.0.0/8',
        OVERWINTER_WEBHOOK_ATTEMPTS: '2',
        OVERWINTER_LOG_LEVEL: 'warn',
      });
      const database = path.join(world.directory, 'database');
      try {
        const first = await world.start();
        const bystander = await makeBystander(first, receiver.url);
        const pages = await bystander.pages(first);
        expect(await first.stop()).toBe(0);
        const rows = await withDatabase(database, (open) => rowsOf(open, bystander.org));
        expect(rows.length).toBeGreaterThan(20);

        await fuzz(world, REQUESTS, bystander.ids);
        await fuzzWithLimits(world, bystander.ids);

        const after = await withDatabase(database, async (open) => ({
          rows: await rowsOf(open, bystander.org),
          chains: await brokenChains(open),
        }));
        expect(after.rows).toEqual(rows);
        expect(after.chains.broken).toEqual([]);
        console.log(`${after.chains.events} events in the log, every chain verified`);
        const last = await world.start();
        expect(await bystander.pages(last)).toEqual(pages);
      } finally {
        await world.end();
      }
    },
  );

  it('leave no unhandled error in the server', { timeout: 60_000 }, async () => {
    const entries: string[] = [];
    const logger = {
      debug: () => undefined,
      warn: () => undefined,
      error: (fields: object, message: string) => void entries.push(`${message} ${describeError(fields)}`),
    };
    const server = await startServer({ logger });
    try {
      const operator = await makeOperator(server.runtime);
      const { id, agent, token } = await makeSession(server);
      const pool = emptyPool([server.stranger.id]);
      pool['session']!.fill(id);
      pool['agent']!.fill(agent);
      const document = (await server.ask('GET /openapi.json')).json as unknown as Document;
      const keys = [server.org.key, server.org.key, token];
      const site: Site = { document, pool, keys, operator_key: operator.key, url: receiver.url };
      const report = await runCases({
        port: Number(new URL(server.url).port),
        makeCase: (number) => makeCase(site, SEED + 1, number),
        ...{ count: Math.min(REQUESTS, 2000), at_once: 8, control_every: 100 },
        control: async () => expect((await server.ask('GET /healthz')).status).toBe(200),
      });
      expect(report.faults.join('\n\n')).toBe('');
      expect(entries).toEqual([]);
    } finally {
      await server.close();
    }
  });
});

async function fuzz(world: World, count: number, foreign: string[]): Promise<void> {
  const node = await world.start();
  const began = performance.now();
  const { report, rss_mb } = await run(world, node, { count, foreign, seed: SEED, at_once: 24 });
  const seconds = (performance.now() - began) / 1000;
  console.log(
    `${count} requests in ${seconds.toFixed(0)} s, slowest ${report.slowest_ms.toFixed(0)} ms, ${report.controls} controls, ` +
      `resident ${rss_mb.join(' → ')} MB: ${JSON.stringify(report.outcomes)}`,
  );
  expect(report.faults.join('\n\n')).toBe('');
  expect(report.outcomes['503'] ?? 0).toBe(0);
  expect(report.outcomes['429'] ?? 0).toBe(0);
  expect(Math.max(...rss_mb)).toBeLessThan(RSS_MB_MAX);
  await expectCalm(node);
}

async function fuzzWithLimits(world: World, foreign: string[]): Promise<void> {
  // So few that the slowest machine asks for more.
  const node = await world.start({ ...BY_DEFAULT, OVERWINTER_REQUESTS_PER_KEY: '40' });
  const { report } = await run(world, node, {
    count: 2000,
    foreign,
    seed: SEED + 2,
    at_once: 8,
    tired: true,
  });
  console.log(`with limits: ${JSON.stringify(report.outcomes)}`);
  expect(report.faults.join('\n\n')).toBe('');
  expect(report.outcomes['429']).toBeGreaterThan(0);
  await expectCalm(node);
}

/** Alive to the end, with nothing in its log that nobody expected. */
async function expectCalm(node: TestNode): Promise<void> {
  expect([node.process.exitCode, node.process.signalCode]).toEqual([null, null]);
  expect(await node.stop()).toBe(0);
  const entries = node.log().split('\n');
  expect(entries.filter((entry) => /unhandled|uncaught|"level":(50|60)/i.test(entry)).slice(0, 5)).toEqual(
    [],
  );
}

type Run = { count: number; foreign: string[]; seed: number; at_once: number; tired?: boolean };

async function run(
  world: World,
  node: TestNode,
  { count, foreign, seed, at_once, tired = false }: Run,
): Promise<{ report: Report; rss_mb: number[] }> {
  const org = await ask({ url: node.url, key: node.api_key }, 'POST /v3/orgs', 201, { name: 'fuzzed' });
  const { key } = org['api_key'] as { key: string };
  const tenant: Tenant = { url: node.url, key, webhook_url: receiver.url };
  const pool = emptyPool(foreign);
  const session = await useAll(tenant, pool, 0);
  for (const kind of KINDS) pool[kind]!.fill(pool[kind]![0]!);
  const reader = await ask(tenant, 'POST /v3/api-keys', 201, { name: 'reader', scopes: ['read'] });
  const token = await ask(tenant, `POST /v3/sessions/${session}/client-tokens`, 201, { ttl: 86_400 });
  const response = await fetch(`${node.url}/openapi.json`);
  const site: Site = {
    document: (await response.json()) as Document,
    pool,
    keys: [key, key, key, key, key, key, String(reader['key']), String(token['token'])],
    operator_key: node.api_key,
    url: receiver.url,
  };
  const rss_mb: number[] = [];
  const report = await runCases({
    port: Number(new URL(node.url).port),
    makeCase: (number) => makeCase(site, seed, number),
    ...{ count, at_once, control_every: CONTROL_EVERY },
    // Beyond its limits even a good request is refused.
    control: async (number) => void (tired ? undefined : await useAll(tenant, pool, number)),
    watch: (done, faults) => {
      world.api.requests.length = 0;
      receiver.received.length = 0;
      if (done > 0 && done % 50_000 === 0)
        console.log(`${done} requests, ${faults} faults, ${residentMb(node)} MB`);
      if (done % Math.max(2000, Math.floor(count / 10)) < 2000) rss_mb.push(residentMb(node));
    },
  });
  rss_mb.push(residentMb(node));
  return { report, rss_mb };
}

function residentMb({ process: { pid } }: TestNode): number {
  return Math.round(
    Number(/VmRSS:\s+(\d+)/.exec(fs.readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) / 1024,
  );
}

type Bystander = { org: string; ids: string[]; pages: (node: TestNode) => Promise<string[]> };

/** An org that nobody speaks for while others are fuzzed, with one of everything. */
async function makeBystander(node: TestNode, webhook_url: string): Promise<Bystander> {
  const made = await ask({ url: node.url, key: node.api_key }, 'POST /v3/orgs', 201, { name: 'bystander' });
  const tenant: Tenant = {
    url: node.url,
    key: (made['api_key'] as { key: string }).key,
    webhook_url: `${webhook_url}/bystander`,
  };
  const pool = emptyPool([]);
  for (let slot = 0; slot < 3; slot += 1) await useAll(tenant, pool, slot);
  const sessions = pool['session']!.filter((id) => id !== 'none');
  await eventually(async () => await isAtRest(tenant, sessions));
  const ids = [String(made['id']), ...Object.values(pool).flat()].filter((id) => id !== 'none');
  const pages = async ({ url }: TestNode): Promise<string[]> => {
    const paths = sessions.flatMap((id) => [
      `/v3/sessions/${id}`,
      `/v3/sessions/${id}/events?level=runtime&limit=500`,
    ]);
    const headers = { authorization: `Bearer ${tenant.key}` };
    return await Promise.all(
      ['/v3/agents', '/v3/sessions', '/v3/credentials', '/v3/destinations', ...paths].map(
        async (page) => await (await fetch(`${url}${page}`, { headers })).text(),
      ),
    );
  };
  return { org: String(made['id']), ids, pages };
}

/** Every turn over, every webhook delivered. */
async function isAtRest(tenant: Tenant, sessions: string[]): Promise<boolean> {
  const rest = await Promise.all(
    sessions.map(async (id) => {
      const session = await ask(tenant, `GET /v3/sessions/${id}`, 200);
      const { data } = await ask(tenant, `GET /v3/sessions/${id}/deliveries?limit=100`, 200);
      const settled = (data as { status: string }[]).every(({ status }) => status === 'delivered');
      return session['status'] === 'idle' && settled;
    }),
  );
  return rest.every(Boolean);
}

function describeError(fields: object): string {
  const error = (fields as { err?: unknown }).err;
  return error instanceof Error ? (error.stack ?? error.message) : JSON.stringify(fields);
}
