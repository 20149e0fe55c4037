/**
 * What a durable outbox costs: signed webhooks to 100 receivers, from a backlog in PostgreSQL to the recorded answer, against a bare
 * loop that signs and posts the same requests with undici, in alternating rounds (reference, ours, ours, reference). Then how long a
 * receiver waits for a single event; what one receiver of the 100 that hangs costs the others; and how a backlog of one receiver
 * that was away drains. `--short` for a quick look.
 */
import { fork, type ChildProcess } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import os from 'node:os';
import { Agent, request } from 'undici';
import { startDeliverer, type Deliverer } from '../src/engine/deliver.ts';
import { parseNetworks } from '../src/net/address.ts';
import { createPoster } from '../src/net/post.ts';
import { sealer } from '../src/secret/seal.ts';
import { signWebhook } from '../src/secret/webhook.ts';
import type { Command } from '../src/session/command.ts';
import { decide } from '../src/session/decide.ts';
import type { Rules } from '../src/session/rules.ts';
import { emptyState } from '../src/session/state.ts';
import type { NewDestination } from '../src/store/webhook/destinations.ts';
import { openDatabase, type Database } from '../src/store/ground/database.ts';
import { heartbeat } from '../src/store/leases.ts';
import { sessionKind } from '../src/store/kind.ts';
import { createLog, type Log } from '../src/store/log.ts';
import { createSession } from '../src/store/sessions.ts';
import { startPostgres } from './postgres.ts';

const short = process.argv.includes('--short');
const ROUNDS = short ? 2 : 7;
const RECEIVERS = 100;
const EVENTS = short ? 20 : 100;
const LATENCIES = short ? 50 : 500;
const BACKLOG = short ? 5000 : 100_000;
const BACKLOG_PER_SECOND = short ? 1000 : 2000;
const CONNECTIONS = 64;
const ORG = 'org_000000000000000000000001';
const NODE = 'nod_000000000000000000000001';
const SECRET = `whsec_${randomBytes(32).toString('base64')}`;
const TEXT = 'The agent was asked to go on, and goes on. '.repeat(11);
const RULES: Rules = {
  ...{ hibernate_after_ms: 30_000, bound_ms: 1500, response_tokens_max: 16_384 },
  ...{ model_failures_max: 8, interruptions_max: 3, continuations_max: 3 },
};
const UNLIMITED = 1_000_000;

type Receivers = { process: ChildProcess; ports: number[] };
/** What the receivers' process tells. */
type Report = { counts: number[]; arrived_at: number };
type Bench = { database: Database; log: Log; receivers: Receivers; master_key: Buffer; sessions: string[] };

if (process.argv.includes('--receivers')) await serveReceivers();
else await main();

async function main(): Promise<void> {
  const receivers = await startReceivers();
  const postgres = await startPostgres();
  const database = await openDatabase({ kind: 'postgres', url: postgres.url, migration_url: postgres.url });
  await database.db.insertInto('org').values({ id: ORG, name: 'bench' }).execute();
  const fail = (): Promise<void> => Promise.resolve();
  const log = createLog(sessionKind(RULES), { database, now: Date.now, held_streams_max: 10_000, fail });
  const bench: Bench = { database, log, receivers, master_key: randomBytes(32), sessions: [] };
  for (let index = 0; index < RECEIVERS; index += 1) bench.sessions.push(await makeSession(bench, index));
  const load = os.loadavg()[0]!.toFixed(2);
  console.log(`${os.availableParallelism()} cores, load ${load}; ${RECEIVERS} receivers, ${ROUNDS} rounds`);
  try {
    await measureThroughput(bench);
    await measureLatency(bench);
    await measureHanging(bench);
    await measureBacklog(bench);
  } finally {
    receivers.process.kill();
    await database.close();
    postgres.stop();
  }
}

async function measureThroughput(bench: Bench): Promise<void> {
  await drain(bench, EVENTS);
  const rounds: { reference: number; ours: number }[] = [];
  for (let round = 0; round < ROUNDS; round += 1) {
    const before = await reference(bench.receivers);
    const ours = [await drain(bench, EVENTS), await drain(bench, EVENTS)];
    const after = await reference(bench.receivers);
    rounds.push({ reference: (before + after) / 2, ours: mean(ours) });
  }
  const ratios = rounds.map(({ reference, ours }) => ours / reference);
  console.log(
    `throughput: ${perSecond(median(rounds.map(({ ours }) => ours)))} deliveries, ` +
      `reference ${perSecond(median(rounds.map(({ reference }) => reference)))}, ` +
      `ratio ${median(ratios).toFixed(2)} (${Math.min(...ratios).toFixed(2)} to ${Math.max(...ratios).toFixed(2)}); goal 0.40`,
  );
}

async function measureLatency(bench: Bench): Promise<void> {
  const deliverer = await startSending(bench);
  const latencies: number[] = [];
  for (let index = 0; index < LATENCIES; index += 1) {
    const stream = bench.sessions[index % RECEIVERS]!;
    const arrived = nextArrival(bench.receivers);
    await say(bench, stream);
    const committed_at = performance.timeOrigin + performance.now();
    deliverer.wake();
    latencies.push((await arrived) - committed_at);
  }
  await deliverer.stop();
  latencies.sort((a, b) => a - b);
  const at = (share: number): string => latencies[Math.floor(latencies.length * share)]!.toFixed(1);
  console.log(`commit to receiver: p50 ${at(0.5)} ms, p99 ${at(0.99)} ms; goal 20`);
}

/** The others' time for their share, with and without one that hangs. */
async function measureHanging(bench: Bench): Promise<void> {
  const ratios: number[] = [];
  for (let round = 0; round < ROUNDS; round += 1) {
    const alone = await drain(bench, EVENTS, [0]);
    bench.receivers.process.send({ hang: 0 });
    const beside = [await drain(bench, EVENTS, [0], true), await drain(bench, EVENTS, [0], true)];
    bench.receivers.process.send({ hang: null });
    await drain(bench, 1);
    const after = await drain(bench, EVENTS, [0]);
    ratios.push(mean(beside) / ((alone + after) / 2));
  }
  console.log(
    `beside one that hangs: the other ${RECEIVERS - 1} get ${(100 * median(ratios)).toFixed(0)} % of their rate ` +
      `(${ratios.map((ratio) => ratio.toFixed(2)).join(' ')}); goal 95`,
  );
}

/** One receiver answers 503 until it is well again; then its backlog comes no faster than it may. */
async function measureBacklog(bench: Bench): Promise<void> {
  const [stream] = bench.sessions as [string, ...string[]];
  bench.receivers.process.send({ refuse: 0 });
  const writes = Array.from({ length: BACKLOG }, (_, index) => index);
  for (let from = 0; from < BACKLOG; from += 500)
    await Promise.all(writes.slice(from, from + 500).map(() => say(bench, stream)));
  const deliverer = await startSending(bench, BACKLOG_PER_SECOND);
  await reports(bench.receivers, ({ counts }) => counts[0]! >= 5);
  bench.receivers.process.send({ refuse: null });
  await bench.database.db
    .updateTable('endpoint')
    .set({ open_until: new Date(0) })
    .execute();
  await reset(bench.receivers);
  await reports(bench.receivers, ({ counts }) => counts[0]! > BACKLOG / 100);
  const started_at = performance.now();
  const from = (await report(bench.receivers)).counts[0]!;
  await reports(bench.receivers, ({ counts }) => counts[0]! >= BACKLOG * 0.95);
  const rate = ((BACKLOG * 0.95 - from) / (performance.now() - started_at)) * 1000;
  await deliverer.stop();
  console.log(
    `a backlog of ${BACKLOG}: ${perSecond(rate)} after recovery, bound ${perSecond(BACKLOG_PER_SECOND)}`,
  );
}

/**
 * Every session's events are owed first; then they are sent. Returns how many a second.
 * @param without receivers that get nothing, or, with `beside`, that are not waited for.
 */
async function drain(bench: Bench, events: number, without: number[] = [], beside = false): Promise<number> {
  const chosen = bench.sessions.filter((_, index) => beside || !without.includes(index));
  await Promise.all(chosen.map((stream) => sayAll(bench, stream, events)));
  await reset(bench.receivers);
  const wanted = events * (RECEIVERS - without.length);
  const started_at = performance.now();
  const deliverer = await startSending(bench);
  await reports(bench.receivers, ({ counts }) => {
    const came = counts.filter((_, index) => !without.includes(index));
    return came.reduce((sum, count) => sum + count, 0) >= wanted;
  });
  const seconds = (performance.now() - started_at) / 1000;
  await deliverer.stop();
  return wanted / seconds;
}

/** The bare loop: sign, post, next. */
async function reference({ ports }: Receivers): Promise<number> {
  const agent = new Agent({ connections: CONNECTIONS, pipelining: 1 });
  const wanted = EVENTS * RECEIVERS;
  let left = wanted;
  const body = JSON.stringify({ type: 'user.message', event: { body: { text: TEXT } } });
  const loop = async (): Promise<void> => {
    while (left > 0) {
      left -= 1;
      const id = `evt_${left}`;
      const timestamp_s = Math.floor(Date.now() / 1000);
      const headers = {
        ...{ 'content-type': 'application/json', 'webhook-id': id, 'webhook-timestamp': String(timestamp_s) },
        'webhook-signature': signWebhook([SECRET], id, timestamp_s, body),
      };
      const origin = `http://127.0.0.1:${ports[left % RECEIVERS]!}`;
      const response = await request(`${origin}/hook`, { method: 'POST', headers, body, dispatcher: agent });
      await response.body.dump();
    }
  };
  const started_at = performance.now();
  await Promise.all(Array.from({ length: CONNECTIONS }, () => loop()));
  const seconds = (performance.now() - started_at) / 1000;
  await agent.close();
  return wanted / seconds;
}

async function startSending(bench: Bench, per_second_max = UNLIMITED): Promise<Deliverer> {
  const { database, master_key } = bench;
  await heartbeat(database.db, NODE, 3_600_000);
  const poster = createPoster({
    ...{ allowed: parseNetworks('127.0.0.0/8'), connect_ms: 1000, response_ms: 15_000 },
    ...{ connections_per_origin_max: 16, now: Date.now },
  });
  const deliverer = startDeliverer(
    {
      ...{ node: NODE, database, poster, now: Date.now, random: Math.random },
      fail: () => Promise.resolve(),
      logger: { debug: console.debug, warn: console.warn, error: console.error },
      sealer: sealer(master_key),
      settings: {
        ...{ lease_ttl_ms: 10_000, poll_ms: 20, turns_at_once_max: 1, drain_ms: 0 },
        ...{ command_timeout_ms: 0, output_bytes_max: 0 },
        computers: { exec_output_bytes_max: 1, processes_max: 1, org_max: 1 },
        deployments: { bundle_bytes_max: 1_048_576 },
        session_computer: {
          ...{ vcpus: 1, ram_mb: 1, disk_size_mb: 1, processes_max: 1, image: '', base_image: null },
          ...{ template_id: 'scratch', template_version: '1', network_policy: { mode: 'off' } },
        },
        webhooks: {
          attempts_max: 100,
          age_ms_max: 86_400_000,
          delays_ms: [10],
          at_once_max: 512,
          window_max: 16,
          per_second_max,
        },
      },
    },
    () => performance.now(),
  );
  return {
    wake: deliverer.wake,
    stop: async () => {
      await deliverer.stop();
      await poster.close();
    },
  };
}

async function makeSession({ database, log, master_key, receivers }: Bench, index: number): Promise<string> {
  const id = `ses_${index.toString(16).padStart(24, '0')}`;
  const place = { org: ORG, table: 'destination_secret', id: `dsc_${index}`, column: 'sealed' };
  const origin = `http://127.0.0.1:${receivers.ports[index]!}`;
  const destination: NewDestination = {
    ...{ id: `dst_${index.toString(16).padStart(24, '0')}`, url: `${origin}/hook`, origin, level: 'user' },
    ...{ types: ['user.message'], include_raw: false, enabled: true },
    secret: { id: place.id, sealed: sealer(master_key).seal(SECRET, place) },
  };
  const snapshot = {
    ...{ agent_id: 'agt_1', name: 'a', prompt: 'p', prompt_hash: 'h', model: 'm', runtime: 'claude' },
    ...{ revision: 1, limits: null },
  };
  const command: Command = {
    ...{ type: 'create', agent: snapshot, limits: {}, credential_id: null, metadata: null, key: null },
    input: { text: 'begin', actor: { type: 'human' } },
  };
  const drafts = decide(emptyState(id), command, Date.now(), RULES);
  if (drafts instanceof Error) throw drafts;
  const created = await createSession(
    database,
    RULES,
    {
      ...{ id, org: ORG, agent_id: 'agt_1', key: null, credential_id: null, snapshot, limits: {} },
      ...{ metadata: null, create_key: null, destinations: [destination], drafts },
    },
    Date.now(),
  );
  if (!created.created) throw new Error(`${id} exists`);
  log.adopt(ORG, { stream: id, ...created });
  return id;
}

async function sayAll(bench: Bench, stream: string, events: number): Promise<void> {
  for (let count = 0; count < events; count += 1) await say(bench, stream);
}

async function say({ log }: Bench, stream: string): Promise<void> {
  const message = { type: 'message', text: TEXT, actor: { type: 'human' } } as const;
  await log.append(stream, {}, (state) => decide(state, message, Date.now(), RULES));
}

async function startReceivers(): Promise<Receivers> {
  const child = fork(import.meta.filename, ['--receivers'], { stdio: 'inherit' });
  const [ports] = (await once(child, 'message')) as [number[]];
  return { process: child, ports };
}

async function report(receivers: Receivers): Promise<Report> {
  receivers.process.send({ report: true });
  const [answer] = (await once(receivers.process, 'message')) as [Report];
  return answer;
}

async function reports(receivers: Receivers, enough: (report: Report) => boolean): Promise<void> {
  while (!enough(await report(receivers))) await new Promise((resolve) => setTimeout(resolve, 2));
}

async function reset(receivers: Receivers): Promise<void> {
  receivers.process.send({ reset: true });
  await report(receivers);
}

async function nextArrival(receivers: Receivers): Promise<number> {
  receivers.process.send({ next: true });
  const [{ arrived_at }] = (await once(receivers.process, 'message')) as [Report];
  return arrived_at;
}

/** A process of its own: 100 servers that answer 204 at once, hang, or refuse, as they are told. */
async function serveReceivers(): Promise<void> {
  const counts = Array.from({ length: RECEIVERS }, () => 0);
  let hanging: number | null = null;
  let refusing: number | null = null;
  let tells_next = false;
  const held: (() => void)[] = [];
  const tell = (report: Report): void => void process.send!(report);
  const servers = counts.map((_, index) =>
    createServer((incoming, response) => {
      const arrived_at = performance.timeOrigin + performance.now();
      counts[index]! += 1;
      if (tells_next) tell({ counts, arrived_at });
      tells_next = false;
      incoming.resume().once('end', () => {
        const answer = (): void => void response.writeHead(refusing === index ? 503 : 204).end();
        if (hanging === index) held.push(answer);
        else answer();
      });
    }).listen(0, '127.0.0.1'),
  );
  await Promise.all(servers.map((server) => once(server, 'listening')));
  process.on('message', (told: Record<string, unknown>) => {
    if (told['report']) tell({ counts, arrived_at: 0 });
    if (told['reset']) counts.fill(0);
    if (told['next']) tells_next = true;
    if ('refuse' in told) refusing = told['refuse'] as number | null;
    if (!('hang' in told)) return;
    hanging = told['hang'] as number | null;
    if (hanging === null) for (const answer of held.splice(0)) answer();
  });
  process.send!(servers.map((server) => (server.address() as AddressInfo).port));
}

function mean(values: number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

function median(values: number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)]!;
}

function perSecond(rate: number): string {
  return `${Math.round(rate).toLocaleString('en')}/s`;
}
