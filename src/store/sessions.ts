/** Sessions as rows: created in one statement with their first events, listed and read for HTTP. */
import type { AgentSnapshot } from '../resource/agent.ts';
import type { Limits } from '../resource/limits.ts';
import type { Draft, SessionEvent } from '../session/event.ts';
import { evolve } from '../session/evolve.ts';
import { dueAt } from '../session/next.ts';
import type { Rules } from '../session/rules.ts';
import {
  emptyState,
  status,
  type LastTurn,
  type SessionState,
  type SessionStatus,
} from '../session/state.ts';
import { sessionUsage } from '../session/usage.ts';
import type { Database, Statement } from './ground/database.ts';
import { destinationValues, INSERT_DESTINATIONS, type NewDestination } from './webhook/destinations.ts';
import { EVENT_INSERT, EVENT_RETURNING, eventValues, type Flushed } from './flush.ts';
import { outboxOfNewSession } from './webhook/outbox.ts';
import { findCreated, type CreateKey } from './idempotency.ts';
import { buildRows, type NewRow } from './rows.ts';
import type { Db } from './ground/tables.ts';

export type NewSession = {
  id: string;
  org: string;
  agent_id: string;
  key: string | null;
  credential_id: string | null;
  snapshot: Omit<AgentSnapshot, 'prompt'>;
  limits: Limits;
  metadata: Record<string, unknown> | null;
  create_key: CreateKey | null;
  destinations: NewDestination[];
  drafts: Draft[];
};

export type SessionRow = {
  id: string;
  head: number;
  status: SessionStatus;
  agent_id: string;
  key: string | null;
  credential_id: string | null;
  snapshot: Omit<AgentSnapshot, 'prompt'>;
  limits: Limits | null;
  metadata: Record<string, unknown> | null;
  last_turn: LastTurn | null;
  usage: object;
  computer_id: string | null;
  /** Input up to this seq was consumed by a turn. */
  input_cursor: number;
  created_at: Date;
};

export type Created =
  | { created: true; state: SessionState; rows: NewRow[]; owes: boolean }
  /** The key was used before, with the same body. */
  | { created: false; id: string };

const CREATE: Statement = {
  name: 'create_session',
  text: `
with idem as (
  insert into idempotency (org, route, key, body_sha256, resource)
  select $22, $31, $32, decode($33, 'hex'), $21 where $32::text is not null
  on conflict do nothing returning key
), st as (
  insert into stream (id, org, head, hash, last_ts, status, state, state_seq, usage, due_at)
  select $21, $22, $23::bigint, decode($24, 'hex'), to_timestamp($25::float8 / 1000), $26, $27::json, $23::bigint,
    $28::json, to_timestamp($29::float8 / 1000)
  where $32::text is null or exists (select from idem)
  returning id
), se as (
  insert into session (id, org, agent_id, key, credential_id, snapshot, limits, metadata, created_at)
  select id, $22, $30, $34, $35, $36::json, $37::json, $38::json, to_timestamp($25::float8 / 1000) from st
  returning id, org, agent_id
), ins as (${EVENT_INSERT} join st on st.id = e.stream
  ${EVENT_RETURNING}
), spill as (
  insert into blob (stream, seq, body)
  select b.stream, b.seq, b.body from unnest($18::text[], $19::bigint[], $20::text[]) as b(stream, seq, body)
  join st on st.id = b.stream
), ${INSERT_DESTINATIONS('st', '$22', 39)}
), owed as (${outboxOfNewSession('ins', 'dest', 'se')}
)
select id, exists (select from owed) as owes from st`,
};

/**
 * Creates the stream, the session, its destinations, its first events, what is owed of them, and its idempotency record, all or
 * nothing.
 * @throws OverwinterError `idempotency_conflict` when the key was used with another body.
 */
export async function createSession(
  database: Database,
  rules: Rules,
  session: NewSession,
  now: number,
): Promise<Created> {
  const { id, org, drafts, create_key } = session;
  const ts = Math.round(now);
  const rows = buildRows(id, { seq: 0, hash: '' }, drafts, ts);
  const events = drafts.map((draft, index): SessionEvent => ({ ...draft, seq: index + 1, ts }));
  const state = events.reduce(evolve, emptyState(id));
  const inserted = await database.run<Flushed>(CREATE, [
    ...eventValues([{ stream: id, org, epoch: null, rows }]),
    ...[id, org, state.head, rows.at(-1)!.hash, ts, status(state), JSON.stringify(state)],
    ...[JSON.stringify(sessionUsage(state)), dueAt(state, rules), session.agent_id],
    ...[create_key?.route ?? null, create_key?.key ?? null, create_key?.body_sha256.toString('hex') ?? null],
    ...[session.key, session.credential_id, JSON.stringify(session.snapshot)],
    ...[JSON.stringify(session.limits), session.metadata && JSON.stringify(session.metadata)],
    ...destinationValues(session.destinations),
  ]);
  if (inserted[0]) return { created: true, state, rows, owes: inserted[0].owes };
  const earlier = create_key && (await findCreated(database.db, org, create_key, 'key'));
  if (earlier) return { created: false, id: earlier };
  throw new Error(`session ${id} was not created`);
}

export async function getSession(db: Db, org: string, id: string): Promise<SessionRow | undefined> {
  const row = await selectSessions(db, org).where('session.id', '=', id).executeTakeFirst();
  return row && toSession(row);
}

export type SessionFilter = {
  status?: string | undefined;
  agent?: string | undefined;
  key?: string | undefined;
  /** Creation-time bounds, exclusive. */
  after?: Date | undefined;
  before?: Date | undefined;
  limit: number;
  /** The id of the last session of the previous page. */
  cursor?: string | undefined;
};

/** Newest first. */
export async function listSessions(db: Db, org: string, filter: SessionFilter): Promise<SessionRow[]> {
  let query = selectSessions(db, org).orderBy('session.id', 'desc').limit(filter.limit);
  if (filter.status !== undefined) query = query.where('stream.status', '=', filter.status);
  if (filter.agent !== undefined) query = query.where('session.agent_id', '=', filter.agent);
  if (filter.key !== undefined) query = query.where('session.key', '=', filter.key);
  if (filter.after !== undefined) query = query.where('session.created_at', '>', filter.after);
  if (filter.before !== undefined) query = query.where('session.created_at', '<', filter.before);
  if (filter.cursor !== undefined) query = query.where('session.id', '<', filter.cursor);
  return (await query.execute()).map(toSession);
}

function selectSessions(db: Db, org: string) {
  return db
    .selectFrom('session')
    .innerJoin('stream', 'stream.id', 'session.id')
    .select([
      'session.id',
      'session.agent_id',
      'session.key',
      'session.credential_id',
      'session.snapshot',
      'session.limits',
      'session.metadata',
      'session.created_at',
      'stream.head',
      'stream.status',
      'stream.last_turn',
      'stream.usage',
      'stream.state',
    ])
    .where('session.org', '=', org)
    .where('stream.deleted_at', 'is', null);
}

function toSession({ state, ...row }: { state: unknown }): SessionRow {
  // Read here, not by SQL: its JSON operators refuse texts that JSON allows.
  const { computer, input } = state as SessionState;
  return { ...row, computer_id: computer?.id ?? null, input_cursor: input.cursor } as SessionRow;
}
