/**
 * How many durable events per second the append path takes, against one-row inserts by `pgbench` on the same server, in alternating
 * rounds (reference, ours, ours, reference). After each round every acknowledged event must be there and every hash chain verify.
 * `--short` for a quick look.
 */
import os from 'node:os';
import { sql } from 'kysely';
import pg from 'pg';
import type { Command } from '../src/session/command.ts';
import { decide } from '../src/session/decide.ts';
import type { Rules } from '../src/session/rules.ts';
import { emptyState } from '../src/session/state.ts';
import { openDatabase, type Database } from '../src/store/ground/database.ts';
import { sessionKind } from '../src/store/kind.ts';
import { createLog, type Log } from '../src/store/log.ts';
import { chainHash } from '../src/store/rows.ts';
import { createSession } from '../src/store/sessions.ts';
import { startPostgres, type BenchPostgres, type Pgbench } from './postgres.ts';

const short = process.argv.includes('--short');
const ROUNDS = short ? 2 : 7;
const SECONDS = short ? 1 : 3;
const WARM_UP_SECONDS = short ? 0.5 : 2;
const ONLY = Number(process.argv.find((argument) => argument.startsWith('--sessions='))?.slice(11));
const SCALES = [
  { sessions: 1, clients: 1 },
  { sessions: 64, clients: 32 },
  { sessions: 1024, clients: 32 },
].filter(({ sessions }) => !ONLY || sessions === ONLY);
/** Makes a body of 470 bytes. */
const TEXT = 'The agent was asked to go on, and goes on. '.repeat(11).slice(0, 470 - '{"text":""}'.length);
const ORG = 'org_000000000000000000000001';
const RULES: Rules = {
  hibernate_after_ms: 30_000,
  bound_ms: 1500,
  response_tokens_max: 16_384,
  model_failures_max: 8,
  interruptions_max: 3,
  continuations_max: 3,
};
const MESSAGE: Command = { type: 'message', text: TEXT, actor: { type: 'human' } };

const REFERENCE_TABLE = `create table reference (
  id bigserial primary key, stream text not null, ts timestamptz not null default clock_timestamp(), body json not null)`;
const REFERENCE = `\\set s random(1, 1024)
insert into reference (stream, body) values ('ses_' || :s, '{"text":"${TEXT}"}');
`;

/** What a session is known to hold. */
type Verified = Map<string, { seq: number; hash: string }>;
type Ours = { per_second: number; latencies_ms: number[] };
type Round = { ratio: number; reference: Pgbench[]; ours: Ours[] };

await main().catch((error: unknown) => {
  console.error(error instanceof Error ? error.message : error);
  process.exit(1);
});

async function main(): Promise<void> {
  const postgres = await startPostgres();
  const database = await openDatabase({ kind: 'postgres', url: postgres.url, migration_url: postgres.url });
  await describeGround(database, postgres);
  for (const { sessions, clients } of SCALES) await measure(postgres, database, sessions, clients);
  await database.close();
  postgres.stop();
}

async function describeGround(database: Database, postgres: BenchPostgres): Promise<void> {
  const { rows } = await sql<{ name: string; setting: string }>`
    select name, setting from pg_settings
    where name in ('server_version', 'fsync', 'synchronous_commit', 'max_wal_size') order by name`.execute(
    database.db,
  );
  console.log(rows.map(({ name, setting }) => `${name}=${setting}`).join(' '));
  const load = os.loadavg()[0]!;
  console.log(
    `${os.availableParallelism()} cores, load ${load.toFixed(2)}${load > 0.3 ? ': above 0.3, expect noise' : ''}`,
  );
  console.log(
    `${ROUNDS} rounds of 4 × ${SECONDS} s per scale, bodies of ${JSON.stringify({ text: TEXT }).length} bytes`,
  );
  await database.db.insertInto('org').values({ id: ORG, name: 'bench' }).execute();
  await asOwner(postgres, REFERENCE_TABLE);
}

/** What the runtime's own role may not do. */
async function asOwner(postgres: BenchPostgres, statement: string): Promise<void> {
  const client = new pg.Client({ connectionString: postgres.url });
  await client.connect();
  await client.query(statement);
  await client.end();
}

async function measure(
  postgres: BenchPostgres,
  database: Database,
  sessions: number,
  clients: number,
): Promise<void> {
  const log = createLog(sessionKind(RULES), {
    ...{ database, now: Date.now, held_streams_max: 10_000 },
    fail: () => Promise.resolve(),
  });
  const verified: Verified = new Map();
  for (let index = 0; index < sessions; index += 1) await create(database, log, verified, sessions, index);
  const ours = (seconds: number) => append(log, [...verified.keys()], seconds);
  const reference = () => postgres.pgbench({ script: REFERENCE, clients, seconds: SECONDS });
  await ours(WARM_UP_SECONDS);
  await verify(database, log, verified);
  const rounds: Round[] = [];
  for (let round = 0; round < ROUNDS; round += 1) {
    await asOwner(postgres, 'checkpoint');
    const a = await reference();
    const b = [await ours(SECONDS), await ours(SECONDS)];
    const references = [a, await reference()];
    await verify(database, log, verified);
    const sum = (all: { per_second: number }[]): number =>
      all.reduce((total, { per_second }) => total + per_second, 0);
    rounds.push({ ratio: sum(b) / sum(references), reference: references, ours: b });
  }
  report(sessions, clients, rounds);
}

async function create(
  database: Database,
  log: Log,
  verified: Verified,
  scale: number,
  index: number,
): Promise<void> {
  const id = `ses_${(scale * 1_000_000 + index).toString(16).padStart(24, '0')}`;
  const agent = {
    ...{
      agent_id: 'agt_1',
      name: 'bench',
      prompt: 'You wait.',
      prompt_hash: 'hash',
      model: 'anthropic/claude-bench',
    },
    ...{ runtime: 'claude', revision: 1, limits: null },
  };
  const command: Command = {
    ...{ type: 'create', agent, limits: {}, credential_id: null, metadata: null, key: null },
    input: { text: 'begin', actor: { type: 'human' } },
  };
  const drafts = decide(emptyState(id), command, Date.now(), RULES);
  if (drafts instanceof Error) throw drafts;
  const session = {
    ...{ id, org: ORG, agent_id: agent.agent_id, key: null, credential_id: null, snapshot: agent },
    ...{ limits: {}, metadata: null, create_key: null, destinations: [], drafts },
  };
  const created = await createSession(database, RULES, session, Date.now());
  if (!created.created) throw new Error(`${id} exists`);
  log.adopt(ORG, { stream: id, ...created });
  verified.set(id, { seq: 0, hash: '' });
}

/** Every session appends one event after the other, all sessions at once. */
async function append(log: Log, ids: string[], seconds: number): Promise<Ours> {
  const latencies_ms: number[] = [];
  const started = performance.now();
  const end = started + seconds * 1000;
  const writer = async (id: string): Promise<void> => {
    for (let before = performance.now(); before < end;) {
      await log.append(id, {}, (state) => decide(state, MESSAGE, Date.now(), RULES));
      const after = performance.now();
      latencies_ms.push(after - before);
      before = after;
    }
  };
  await Promise.all(ids.map(writer));
  return { per_second: (latencies_ms.length * 1000) / (performance.now() - started), latencies_ms };
}

/** @throws Error when an acknowledged event is missing, there is one too many, or a hash is not what the chain says. */
async function verify(database: Database, log: Log, verified: Verified): Promise<void> {
  for (const [id, known] of verified) {
    const { rows } = await sql<{ seq: number; type: string; body: string; hash: string }>`
      select seq, type, body::text as body, encode(hash, 'hex') as hash from event
      where stream = ${id} and seq > ${known.seq} order by seq`.execute(database.db);
    for (const row of rows) {
      const hash = chainHash(known.hash, row.seq, row.type, row.body);
      if (row.seq !== known.seq + 1 || row.hash !== hash)
        throw new Error(`${id} is broken at seq ${row.seq}`);
      known.seq = row.seq;
      known.hash = hash;
    }
    const { head } = await log.state(id, 'held');
    if (head !== known.seq) throw new Error(`${id} holds ${known.seq} events, ${head} were acknowledged`);
  }
}

function report(sessions: number, clients: number, rounds: Round[]): void {
  const ratios = rounds.map(({ ratio }) => ratio).sort((a, b) => a - b);
  const ours = rounds.flatMap((round) => round.ours);
  const references = rounds.flatMap((round) => round.reference);
  const latencies = Float64Array.from(ours.flatMap(({ latencies_ms }) => latencies_ms)).sort();
  const quantile = (share: number): string => latencies[Math.floor(latencies.length * share)]!.toFixed(2);
  const rate = (all: { per_second: number }[]): string =>
    median(all.map(({ per_second }) => per_second)).toFixed(0);
  const mean_ms = median(references.map(({ latency_ms }) => latency_ms)).toFixed(2);
  console.log(
    [
      `\n${sessions} session${sessions === 1 ? '' : 's'} against ${clients} client${clients === 1 ? '' : 's'} of pgbench`,
      `  ours     ${rate(ours).padStart(6)} events/s   p50 ${quantile(0.5)} ms, p99 ${quantile(0.99)} ms`,
      `  pgbench  ${rate(references).padStart(6)} inserts/s  mean ${mean_ms} ms`,
      `  ratio    ${median(ratios).toFixed(2)} (${ratios[0]!.toFixed(2)} to ${ratios.at(-1)!.toFixed(2)})`,
      `  verified ${latencies.length} events and their hash chains`,
    ].join('\n'),
  );
}

function median(values: number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const half = (sorted.length - 1) / 2;
  return (sorted[Math.floor(half)]! + sorted[Math.ceil(half)]!) / 2;
}
