/** Reads of the log, by seq. Only store/log.ts and store/sessions.ts write. */
import { sql } from 'kysely';
import type { SessionEvent, Level } from '../session/event.ts';
import { LEVELS } from '../session/event.ts';
import { toEvent, type EventRow } from './rows.ts';
import type { Db } from './ground/tables.ts';

export type EventFilter = {
  /** Exclusive. */
  after: number;
  limit: number;
  level: Level;
  /** Exact types or `prefix.*` or `*.suffix`; absent = all. */
  type?: string;
  turn_id?: string;
};

/** One page of what a reader may see, ascending; bodies as stored, so a spilled one is its preview. */
export async function readPage(db: Db, stream: string, filter: EventFilter): Promise<EventRow[]> {
  let query = selectRows(db)
    .where('event.stream', '=', stream)
    .where('event.seq', '>', filter.after)
    .orderBy('event.seq')
    .limit(filter.limit);
  const levels = LEVELS.slice(0, LEVELS.indexOf(filter.level) + 1);
  if (levels.length < LEVELS.length) query = query.where('event.level', 'in', [...levels]);
  if (filter.type !== undefined)
    query = query.where(sql<boolean>`event.type like ${likePattern(filter.type)}`);
  if (filter.turn_id !== undefined) query = query.where('event.turn_id', '=', filter.turn_id);
  return (await query.execute()).map(toRow);
}

export async function readOne(db: Db, stream: string, seq: number): Promise<EventRow | undefined> {
  const row = await selectRows(db)
    .where('event.stream', '=', stream)
    .where('event.seq', '=', seq)
    .executeTakeFirst();
  return row && toRow(row);
}

/** The whole body of one event as the bytes that were written. */
export async function readBody(db: Db, stream: string, seq: number): Promise<string | undefined> {
  const row = await db
    .selectFrom('event')
    .leftJoin('blob', (join) =>
      join.onRef('blob.stream', '=', 'event.stream').onRef('blob.seq', '=', 'event.seq'),
    )
    .select(sql<string>`coalesce(blob.body, event.body::text)`.as('body'))
    .where('event.stream', '=', stream)
    .where('event.seq', '=', seq)
    .executeTakeFirst();
  return row?.body;
}

/** The event that already bears an idempotency key, with its whole body. */
export async function readByKey(
  db: Db,
  stream: string,
  key: string | undefined,
): Promise<{ seq: number; id: string; body: string } | undefined> {
  if (key === undefined) return undefined;
  return await db
    .selectFrom('event')
    .leftJoin('blob', (join) =>
      join.onRef('blob.stream', '=', 'event.stream').onRef('blob.seq', '=', 'event.seq'),
    )
    .select(['event.seq', 'event.id', sql<string>`coalesce(blob.body, event.body::text)`.as('body')])
    .where('event.stream', '=', stream)
    .where('event.idempotency_key', '=', key)
    .executeTakeFirst();
}

const PAGE = 500;
/** What a turn record is folded from; the index `event_turns` covers them. */
const TURN_TYPES = ['turn.started', 'turn.attempted', 'turn.completed'];

/** Every event of `from_seq`..`to_seq` of a session with its whole body, as the runner and the reducer need them. */
export async function readEvents(
  db: Db,
  session: string,
  from_seq: number,
  to_seq?: number,
): Promise<{ events: SessionEvent[]; hash: string | null }> {
  return (await readStream(db, session, from_seq, to_seq)) as { events: SessionEvent[]; hash: string | null };
}

/** The same of a stream of any kind; and the last event's hash. */
export async function readStream(
  db: Db,
  stream: string,
  from_seq: number,
  to_seq = Number.MAX_SAFE_INTEGER,
): Promise<{ events: object[]; hash: string | null }> {
  const events: object[] = [];
  let hash: string | null = null;
  for (let after = from_seq - 1; ; after += PAGE) {
    const rows = await selectRows(db)
      .leftJoin('blob', (join) =>
        join.onRef('blob.stream', '=', 'event.stream').onRef('blob.seq', '=', 'event.seq'),
      )
      .select(['blob.body as spilled', sql<string>`encode(event.hash, 'hex')`.as('hash')])
      .where('event.stream', '=', stream)
      .where('event.seq', '>', after)
      .where('event.seq', '<=', Math.min(after + PAGE, to_seq))
      .orderBy('event.seq')
      .execute();
    events.push(...rows.map((row) => toEvent(toRow(row), row.spilled ?? row.body)));
    hash = rows.at(-1)?.hash ?? hash;
    if (rows.length < PAGE || after + PAGE >= to_seq) return { events, hash };
  }
}

/**
 * The `turn.*` events of the newest turns that started before `before_seq`, ascending.
 * @param limit how many turns at most.
 */
export async function readTurnEvents(
  db: Db,
  stream: string,
  before_seq: number,
  limit: number,
): Promise<SessionEvent[]> {
  const starts = await db
    .selectFrom('event')
    .select('seq')
    .where('stream', '=', stream)
    .where('type', '=', 'turn.started')
    .where('seq', '<', before_seq)
    .orderBy('seq', 'desc')
    .limit(limit)
    .execute();
  const oldest = starts.at(-1)?.seq;
  if (oldest === undefined) return [];
  const rows = await selectRows(db)
    .where('event.stream', '=', stream)
    .where('event.seq', '>=', oldest)
    .where('event.seq', '<', before_seq)
    .where('event.type', 'in', TURN_TYPES)
    .orderBy('event.seq')
    .execute();
  return rows.map((row) => toEvent(toRow(row), row.body) as SessionEvent);
}

/** The `turn.*` events of the turn that started at `started_seq`, ascending. */
export async function readTurn(
  db: Db,
  stream: string,
  turn_id: string,
  started_seq: number,
): Promise<SessionEvent[]> {
  const rows = await selectRows(db)
    .where('event.stream', '=', stream)
    .where('event.seq', '>=', started_seq)
    .where('event.turn_id', '=', turn_id)
    .where('event.type', 'in', TURN_TYPES)
    .orderBy('event.seq')
    .execute();
  return rows.map((row) => toEvent(toRow(row), row.body) as SessionEvent);
}

function selectRows(db: Db) {
  return db
    .selectFrom('event')
    .select([
      'event.seq',
      'event.id',
      'event.type',
      'event.level',
      'event.turn_id',
      'event.source',
      'event.ts',
      'event.body_bytes',
      'event.content_ref',
      sql<string>`event.actor::text`.as('actor'),
      sql<string | null>`event.refs::text`.as('refs'),
      sql<string>`event.body::text`.as('body'),
    ]);
}

function toRow(row: Omit<EventRow, 'ts'> & { ts: Date }): EventRow {
  return { ...row, ts: row.ts.getTime() };
}

function likePattern(type: string): string {
  return type.replaceAll('\\', '\\\\').replaceAll('%', '\\%').replaceAll('_', '\\_').replaceAll('*', '%');
}
