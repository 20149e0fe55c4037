/**
 * The statement behind every append: any number of streams, at most one append each. Locks are taken in the order of ids, so
 * nodes cannot deadlock; a stream whose head or epoch moved gets nothing, and is missing in the answer.
 */
import type { Statement } from './ground/database.ts';
import type { Columns } from './kind.ts';
import { outbox } from './webhook/outbox.ts';
import type { NewRow } from './rows.ts';

export type Append = {
  stream: string;
  org: string;
  expected_head: number;
  epoch: number | null;
  /** The version of the stream's destinations that this node knows: what is owed to newer ones would be missed. */
  destinations: number;
  rows: NewRow[];
  head: number;
  last_ts: number;
  columns: Columns;
  /** The state after the rows as text, when it is stored with this append. */
  checkpoint: string | null;
};

/**
 * The event columns as arrays. Columns that can hold no line break (JSON text escapes it) come as one text of lines: written as an
 * array, each element would be escaped and parsed twice over, a fifth of the time of an append. An empty line is null.
 */
const LINES = (parameter: number): string => `string_to_array($${parameter}::text, E'\\n', '')`;

const EVENT_ARRAYS = `
  unnest(${LINES(1)}, $2::bigint[], ${LINES(3)}, ${LINES(4)}, ${LINES(5)}, ${LINES(6)}, $7::bigint[], ${LINES(8)},
    ${LINES(9)}, $10::text[], ${LINES(11)}, $12::float8[], ${LINES(13)}, $14::int[], ${LINES(15)}, $16::text[],
    ${LINES(17)})
  as e(stream, seq, id, org, type, level, epoch, turn_id, actor, source, refs, ts, body, body_bytes, content_ref,
    idempotency_key, hash)`;

export const EVENT_INSERT = `
  insert into event (stream, seq, id, org, type, level, epoch, turn_id, actor, source, refs, ts, body, body_bytes,
    content_ref, idempotency_key, hash)
  select e.stream, e.seq, e.id, e.org, e.type, e.level, e.epoch, e.turn_id, e.actor::json, e.source, e.refs::json,
    to_timestamp(e.ts / 1000), e.body::json, e.body_bytes, e.content_ref, e.idempotency_key, decode(e.hash, 'hex')
  from ${EVENT_ARRAYS}`;

/** What the outbox needs to know of the inserted events. */
export const EVENT_RETURNING = 'returning stream, seq, id, org, type, level, ts';

export const FLUSH: Statement = {
  name: 'flush',
  text: `
with inp as (
  select * from unnest($21::text[], $22::bigint[], $23::bigint[], $24::bigint[], $25::text[], $26::float8[], $27::text[],
    $28::float8[], $29::text[], $30::text[], $31::text[], $32::text[], $33::boolean[], $34::bigint[])
  as i(id, expected_head, epoch, head, hash, ts, status, due_at, last_turn, usage, state, prefers_node, release,
    destinations)
), lck as (
  select id, head, epoch, destinations from stream where id = any($21::text[]) order by id for no key update
), up as (
  update stream s set
    head = i.head, hash = decode(i.hash, 'hex'), last_ts = to_timestamp(i.ts / 1000), status = i.status,
    due_at = to_timestamp(i.due_at / 1000), last_turn = coalesce(i.last_turn::json, s.last_turn), usage = coalesce(i.usage::json, s.usage),
    state = coalesce(i.state::json, s.state), state_seq = case when i.state is null then s.state_seq else i.head end,
    prefers_node = i.prefers_node, lease_node = case when i.release then null else s.lease_node end
  from inp i join lck on lck.id = i.id
  where s.id = i.id and lck.head = i.expected_head and lck.destinations = i.destinations
    and (i.epoch is null or lck.epoch = i.epoch)
  returning s.id
), ins as (${EVENT_INSERT} join up on up.id = e.stream
  ${EVENT_RETURNING}
), spill as (
  insert into blob (stream, seq, body)
  select b.stream, b.seq, b.body from unnest($18::text[], $19::bigint[], $20::text[]) as b(stream, seq, body)
  join up on up.id = b.stream
), owed as (${outbox('ins', '$35::text[]')}
)
select id, id in (select stream from owed) as owes from up`,
};

/** Of each append that landed; `owes`: deliveries were written. */
export type Flushed = { id: string; owes: boolean };

export function flushValues(appends: Append[]): unknown[] {
  const column = <T>(of: (append: Append) => T): T[] => appends.map(of);
  return [
    ...eventValues(appends),
    column((append) => append.stream),
    column((append) => append.expected_head),
    column((append) => append.epoch),
    column((append) => append.head),
    column((append) => append.rows.at(-1)!.hash),
    column((append) => append.last_ts),
    column(({ columns }) => columns.status),
    column(({ columns }) => columns.due_at),
    column(({ columns }) => columns.last_turn),
    column(({ columns }) => columns.usage),
    column((append) => append.checkpoint),
    column(({ columns }) => columns.prefers_node),
    column(({ epoch, columns }) => epoch !== null && columns.at_rest),
    column((append) => append.destinations),
    [...new Set(column((append) => append.org))],
  ];
}

/** The first twenty parameters: the events of all appends, then the bodies that stand apart. */
export function eventValues(appends: Pick<Append, 'stream' | 'org' | 'epoch' | 'rows'>[]): unknown[] {
  const rows = appends.flatMap(({ stream, org, epoch, rows }) =>
    rows.map((row) => ({ ...row, stream, org, epoch })),
  );
  const spilled = rows.filter((row) => row.spilled !== null);
  return [
    lines(rows.map((row) => row.stream)),
    rows.map((row) => row.seq),
    lines(rows.map((row) => row.id)),
    lines(rows.map((row) => row.org)),
    lines(rows.map((row) => row.type)),
    lines(rows.map((row) => row.level)),
    rows.map((row) => row.epoch),
    lines(rows.map((row) => row.turn_id)),
    lines(rows.map((row) => row.actor)),
    rows.map((row) => row.source),
    lines(rows.map((row) => row.refs)),
    rows.map((row) => row.ts),
    lines(rows.map((row) => row.body)),
    rows.map((row) => row.body_bytes),
    lines(rows.map((row) => row.content_ref)),
    rows.map((row) => row.idempotency_key),
    lines(rows.map((row) => row.hash)),
    spilled.map((row) => row.stream),
    spilled.map((row) => row.seq),
    spilled.map((row) => row.spilled),
  ];
}

function lines(column: (string | null)[]): string {
  return column.map((value) => value ?? '').join('\n');
}
