/**
 * Computers as rows: created in one statement with their stream and first event, found by id or name, listed. What changes of a
 * computer stands in its stream; its state is stored with every append, so a row shows it without reading the log.
 */
import type { ComputerDraft, ComputerEvent } from '../../resource/computer/event.ts';
import {
  emptyComputer,
  evolveComputer,
  type ComputerState,
  type ComputerStatus,
} from '../../resource/computer/life.ts';
import type { Database, Statement } from '../ground/database.ts';
import type { Db } from '../ground/tables.ts';
import { EVENT_INSERT, eventValues } from '../flush.ts';
import { findCreated, type CreateKey } from '../idempotency.ts';
import { computerKind } from '../kind.ts';
import { buildRows, type NewRow } from '../rows.ts';
import type { Keeping } from './keeping.ts';

export type NewComputer = {
  id: string;
  org: string;
  name: string;
  template_id: string;
  /** Whose hands it is, and the epoch with which the session's runner holds it. */
  session: { id: string; epoch: number } | null;
  /** Makes a repeated create the same create. */
  create_key: CreateKey | null;
  drafts: ComputerDraft[];
  keeping: Keeping;
  /** So many of its org may be there, but those of sessions; two that are made at the same moment may both be the last. null = any number. */
  org_max: number | null;
  /** Its environment, sealed for its row (keeping.ts); null = none. */
  sealed_env: string | null;
};

export type CreatedComputer =
  | { made: 'new'; state: ComputerState; rows: NewRow[] }
  /** The key was used before, with the same body. */
  | { made: 'before'; id: string }
  | { made: 'not'; because: 'name_taken' | 'not_held' | 'too_many' };

const CREATE: Statement = {
  name: 'create_computer',
  text: `
with holder as (
  select id from stream where id = $31 and epoch = $32::bigint for share
), room as (
  select where (
    select count(*) from (
      select from computer where org = $22 and deleted_at is null and session_id is null limit $39::int) c) < $39::int
), idem as (
  insert into idempotency (org, route, key, body_sha256, resource)
  select $22, 'computers', $29, decode($30, 'hex'), $21
  where $29::text is not null and ($39::int is null or exists (select from room))
  on conflict do nothing returning key
), st as (
  insert into stream (id, org, kind, head, hash, last_ts, status, state, state_seq, prefers_node)
  select $21, $22, 'computer', $23::bigint, decode($24, 'hex'), to_timestamp($25::float8 / 1000), $26, $27::json,
    $23::bigint, $34
  where ($29::text is null or exists (select from idem)) and ($31::text is null or exists (select from holder))
    and ($39::int is null or exists (select from room))
  returning id
), made as (
  insert into computer (
    id, org, session_id, name, template_id, created_at, idle_timeout_s, metadata, preview_digest)
  select id, $22, $31, $28, $33, to_timestamp($25::float8 / 1000), $35::int, $36::json, decode($37, 'hex') from st
), env as (
  insert into computer_env (id, org, sealed) select id, $22, $38 from st where $38::text is not null
), ins as (${EVENT_INSERT} join st on st.id = e.stream), unspilled as (select $18::text[], $19::bigint[], $20::text[])
select id from st`,
};

/**
 * Creates the stream, the computer and its first events, all or nothing.
 * @throws OverwinterError `idempotency_conflict` when the key was used with another body.
 */
export async function createComputer(
  database: Database,
  computer: NewComputer,
  now: number,
): Promise<CreatedComputer> {
  const { id, org, drafts, create_key, session } = computer;
  const ts = Math.round(now);
  const rows = buildRows(id, { seq: 0, hash: '' }, drafts.map(computerKind.row), ts);
  const events = drafts.map((draft, index): ComputerEvent => ({ ...draft, seq: index + 1, ts }));
  const state = events.reduce(evolveComputer, emptyComputer(id));
  try {
    const inserted = await database.run<{ id: string }>(CREATE, [
      ...eventValues([{ stream: id, org, epoch: session?.epoch ?? null, rows }]),
      ...[id, org, state.head, rows.at(-1)!.hash, ts, state.status, JSON.stringify(state), computer.name],
      ...[create_key?.key ?? null, create_key?.body_sha256.toString('hex') ?? null],
      ...[session?.id ?? null, session?.epoch ?? null, computer.template_id, state.machine],
      ...[computer.keeping.idle_timeout_s, metadataOf(computer), digestOf(computer), computer.sealed_env],
      computer.org_max,
    ]);
    if (inserted[0]) return { made: 'new', state, rows };
  } catch (error) {
    if ((error as { code?: string }).code !== UNIQUE_VIOLATION) throw error;
    return {
      made: 'not',
      because: session && (await ofSession(database.db, session.id)) ? 'not_held' : 'name_taken',
    };
  }
  const earlier = create_key && (await findCreated(database.db, org, create_key, IDEMPOTENCY_HEADER));
  if (earlier) return { made: 'before', id: earlier };
  return { made: 'not', because: session ? 'not_held' : 'too_many' };
}

function metadataOf({ keeping: { metadata } }: NewComputer): string | null {
  return metadata && JSON.stringify(metadata);
}

function digestOf({ keeping: { preview_digest } }: NewComputer): string | null {
  return preview_digest && Buffer.from(preview_digest).toString('hex');
}

const UNIQUE_VIOLATION = '23505';
export const IDEMPOTENCY_HEADER = 'Idempotency-Key';

/** Which of the names no living computer of the org has. */
export async function freeNames(db: Db, org: string, names: string[]): Promise<string[]> {
  const taken = await db
    .selectFrom('computer')
    .select('name')
    .where('org', '=', org)
    .where('deleted_at', 'is', null)
    .where('name', 'in', names)
    .execute();
  return names.filter((name) => !taken.some((row) => row.name === name));
}

/** A computer of the org by its id, deleted ones too, or by the name of a living one. */
export async function findComputer(
  db: Db,
  org: string,
  id_or_name: string,
): Promise<ComputerState | undefined> {
  const row = await selectComputers(db)
    .where('computer.org', '=', org)
    .where((where) =>
      where.or([
        where('computer.id', '=', id_or_name),
        where.and([where('computer.name', '=', id_or_name), where('computer.deleted_at', 'is', null)]),
      ]),
    )
    .orderBy((order) => order.case().when('computer.id', '=', id_or_name).then(0).else(1).end())
    .executeTakeFirst();
  return row && (row.state as ComputerState);
}

/** The living computer of a session. */
export async function ofSession(db: Db, session: string): Promise<ComputerState | undefined> {
  const row = await selectComputers(db)
    .where('computer.session_id', '=', session)
    .where('computer.deleted_at', 'is', null)
    .executeTakeFirst();
  return row && (row.state as ComputerState);
}

export type ComputerFilter = {
  status?: ComputerStatus | undefined;
  template_id?: string | undefined;
  limit: number;
};

/** Newest first; deleted ones only when they are asked for. */
export async function listComputers(db: Db, org: string, filter: ComputerFilter): Promise<ComputerState[]> {
  let query = selectComputers(db)
    .where('computer.org', '=', org)
    .orderBy('computer.id', 'desc')
    .limit(filter.limit);
  if (filter.status === undefined) query = query.where('stream.status', '<>', 'deleted');
  else query = query.where('stream.status', '=', filter.status);
  if (filter.template_id !== undefined) query = query.where('computer.template_id', '=', filter.template_id);
  return (await query.execute()).map((row) => row.state as ComputerState);
}

/** Frees its name and removes what its row does not hold, all or nothing, once nothing of the computer itself is left. */
export async function forgetComputer(db: Db, id: string, at: Date): Promise<void> {
  await db
    .with('unpublished', (each) => each.deleteFrom('published_port').where('computer_id', '=', id))
    .with('unsealed', (each) => each.deleteFrom('computer_env').where('id', '=', id))
    .updateTable('computer')
    .set({ deleted_at: at })
    .where('id', '=', id)
    .where('deleted_at', 'is', null)
    .execute();
}

/** A computer that somebody has to look after. */
export type Unrest = { id: string; status: ComputerStatus; machine: string };

/**
 * Computers that are on their way, on record as running, or missed, for this machine, and whatever lies with machines that have been
 * away for longer than `grace_ms`. Those of sessions are their runners', until they are deleted. Ascending by id, after `after`.
 */
export async function listUnrest(
  database: Database,
  of: { machine: string; grace_ms: number; after: string; limit: number },
): Promise<Unrest[]> {
  return await database.run<Unrest>(UNREST, [of.machine, of.grace_ms, of.after, of.limit]);
}

const UNREST: Statement = {
  name: 'computers_not_at_rest',
  text: `
select s.id, s.status, s.prefers_node as machine
from stream s join computer c on c.id = s.id
where s.kind = 'computer' and s.id > $3 and (c.session_id is null or s.status = 'deleting')
  and (
    (s.prefers_node = $1 and s.status not in ('stopped', 'error', 'deleted'))
    or (s.prefers_node <> $1 and s.status not in ('restorable', 'lost', 'error', 'deleted') and not exists (
      select from node n
      where n.machine = s.prefers_node and n.alive_until > clock_timestamp() - $2::float8 * interval '1 ms'))
  )
order by s.id
limit $4`,
};

function selectComputers(db: Db) {
  return db.selectFrom('computer').innerJoin('stream', 'stream.id', 'computer.id').select('stream.state');
}
