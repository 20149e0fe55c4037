/** Deliveries as rows: settled after an attempt, listed, asked for again. The breaker of an endpoint is in the database, so all nodes spare it. */
import { sql } from 'kysely';
import { BREAKER, type DeliveryStatus } from '../../resource/delivery.ts';
import type { Database, Statement } from '../ground/database.ts';
import type { Db } from '../ground/tables.ts';
import { REPLAY } from './outbox.ts';
import type { ClaimedDelivery } from './claim.ts';

export type DeliveryRow = {
  id: string;
  stream: string;
  seq: number;
  destination_id: string;
  status: DeliveryStatus;
  attempts: number;
  last_attempt_at: Date | null;
  response_code: number | null;
  response_body: string | null;
  error: string | null;
  created_at: Date;
  updated_at: Date;
};

/** What became of an attempt. */
export type Settled = Pick<ClaimedDelivery, 'stream' | 'id' | 'org' | 'origin' | 'attempts' | 'is_probe'> & {
  status: 'delivered' | 'failed' | 'dead_letter';
  /** False where this node could not even try, which is no attempt. */
  was_tried: boolean;
  retry_in_ms: number | null;
  response_code: number | null;
  response_body: string | null;
  error: string | null;
  endpoint: 'works' | 'fails' | 'unknown';
  /** How long the endpoint asked to be left alone. */
  retry_after_ms: number | null;
};

/** Rows are locked in the order of their keys, so nodes that settle, change and delete cannot deadlock. */
const SETTLE: Statement = {
  name: 'settle_deliveries',
  text: `
with inp as (
  select * from unnest($1::text[], $2::text[], $3::int[], $4::text[], $5::float8[], $6::int[], $7::text[], $8::text[], $16::int[])
    as i(stream, id, attempts, status, retry_in_ms, response_code, response_body, error, given_back)
), blamed as (
  select * from unnest($9::text[], $10::text[], $11::int[], $12::int[], $13::boolean[], $14::float8[])
    as b(org, origin, failures, probes, works, pause_ms)
), lck_end as (
  select e.org, e.origin from endpoint e join blamed b on b.org = e.org and b.origin = e.origin
  where not (b.works and e.failures = 0)
  order by e.org, e.origin for no key update of e
), ends as (
  -- Failures that were under way together trip the breaker once; after that only its probes count.
  update endpoint e set
    failures = case when b.works then 0 when e.failures < ${BREAKER.failures}
      then least(${BREAKER.failures}, e.failures + b.failures) else e.failures + b.probes end,
    open_until = case when b.works then null
      when e.failures < ${BREAKER.failures} and e.failures + b.failures < ${BREAKER.failures} then null
      when e.failures >= ${BREAKER.failures} and b.probes = 0 then e.open_until
      else clock_timestamp() + interval '1 ms' * least(${BREAKER.max_ms}, greatest(b.pause_ms, ${BREAKER.first_ms}
        * power(2, least(greatest(e.failures + b.probes - ${BREAKER.failures}, 0), 10)))) end
  from blamed b join lck_end l on l.org = b.org and l.origin = b.origin
  where e.org = b.org and e.origin = b.origin
), lck as (
  select d.stream, d.id from delivery d join inp i on i.stream = d.stream and i.id = d.id
  order by d.stream, d.id for no key update of d
)
update delivery d set node = null, response_code = i.response_code, response_body = i.response_body, error = i.error,
  attempts = d.attempts - i.given_back,
  status = case when i.status = 'failed' and t.id is null then 'dead_letter' else i.status end,
  due_at = case when i.status = 'failed' and t.enabled then clock_timestamp() + i.retry_in_ms * interval '1 ms' end,
  updated_at = clock_timestamp()
from lck join inp i on i.stream = lck.stream and i.id = lck.id
left join delivery o on o.stream = i.stream and o.id = i.id
left join destination t on t.id = o.destination_id
-- A row that was taken over, asked for again or given up since is not this attempt's any more. An equals sign on the node would make
-- its index the way to the rows, each of which would then be compared with each attempt.
where d.stream = i.stream and d.id = i.id and d.status = 'delivering' and d.node is not distinct from $15
  and d.attempts = i.attempts`,
};

/** Records what became of attempts, and how their endpoints fared. May be repeated. */
export async function settleDeliveries(database: Database, node: string, settled: Settled[]): Promise<void> {
  const column = <T>(of: (one: Settled) => T): T[] => settled.map(of);
  const heard = settled.filter(({ endpoint }) => endpoint !== 'unknown');
  const endpoints = [...Map.groupBy(heard, ({ org, origin }) => `${org} ${origin}`).values()];
  const failures = (all: Settled[]): Settled[] => all.filter(({ endpoint }) => endpoint === 'fails');
  await database.run(SETTLE, [
    column(({ stream }) => stream),
    column(({ id }) => id),
    column(({ attempts }) => attempts),
    column(({ status }) => status),
    column(({ retry_in_ms }) => retry_in_ms),
    column(({ response_code }) => response_code),
    column(({ response_body }) => response_body),
    column(({ error }) => error),
    endpoints.map(([first]) => first!.org),
    endpoints.map(([first]) => first!.origin),
    endpoints.map((all) => failures(all).length),
    endpoints.map((all) => failures(all).filter(({ is_probe }) => is_probe).length),
    endpoints.map((all) => all.some(({ endpoint }) => endpoint === 'works')),
    endpoints.map((all) => Math.max(...all.map(({ retry_after_ms }) => retry_after_ms ?? 0))),
    node,
    column(({ was_tried }) => (was_tried ? 0 : 1)),
  ]);
}

export type DeliveryFilter = {
  destination?: string | undefined;
  status?: DeliveryStatus | undefined;
  /** Created after this time. */
  after?: Date | undefined;
  limit: number;
  /** The id of the last delivery of the previous page. */
  cursor?: string | undefined;
};

/** Newest first. @param stream of one session, or of all when it is null. */
export async function listDeliveries(
  db: Db,
  org: string,
  stream: string | null,
  filter: DeliveryFilter,
): Promise<DeliveryRow[]> {
  let query = db
    .selectFrom('delivery')
    .select(DELIVERY)
    .where('org', '=', org)
    .orderBy('id', 'desc')
    .limit(filter.limit);
  if (stream !== null) query = query.where('stream', '=', stream);
  if (filter.destination !== undefined) query = query.where('destination_id', '=', filter.destination);
  if (filter.status !== undefined) query = query.where('status', '=', filter.status);
  if (filter.after !== undefined) query = query.where('created_at', '>', filter.after);
  if (filter.cursor !== undefined) query = query.where('id', '<', filter.cursor);
  return (await query.execute()) as DeliveryRow[];
}

export async function getDelivery(
  db: Db,
  org: string,
  stream: string,
  id: string,
): Promise<DeliveryRow | undefined> {
  const row = await db
    .selectFrom('delivery')
    .select(DELIVERY)
    .where('org', '=', org)
    .where('stream', '=', stream)
    .where('id', '=', id)
    .executeTakeFirst();
  return row as DeliveryRow | undefined;
}

/**
 * Makes a delivery due again, with a schedule of its own; an attempt under way counts no more. To a paused destination it waits.
 * @returns undefined when its destination is gone.
 */
export async function redeliver(
  db: Db,
  org: string,
  stream: string,
  id: string,
): Promise<DeliveryRow | undefined> {
  const row = await db
    .updateTable('delivery')
    .from('destination')
    .set({
      status: 'pending',
      attempts_before: sql`delivery.attempts`,
      due_at: sql<Date>`case when destination.enabled then clock_timestamp() end`,
      origin: sql`destination.origin`,
      asked_at: sql<Date>`clock_timestamp()`,
      node: null,
      updated_at: sql<Date>`clock_timestamp()`,
    })
    .whereRef('destination.id', '=', 'delivery.destination_id')
    .where('delivery.org', '=', org)
    .where('delivery.stream', '=', stream)
    .where('delivery.id', '=', id)
    .returning(DELIVERY.map((column) => `delivery.${column}` as const))
    .executeTakeFirst();
  return row as DeliveryRow | undefined;
}

/**
 * Owes the events of a session from `from_seq` on to a destination, whether or not they were sent to it before.
 * @param limit how many events are looked at. @returns how many deliveries are due by it.
 */
export async function replayEvents(
  database: Database,
  org: string,
  stream: string,
  destination_id: string,
  from_seq: number,
  limit: number,
): Promise<number> {
  const statement = { name: 'replay_events', text: REPLAY };
  return (await database.run(statement, [org, stream, from_seq, limit, destination_id])).length;
}

const DELIVERY = [
  'id',
  'stream',
  'seq',
  'destination_id',
  'status',
  'attempts',
  'last_attempt_at',
  'response_code',
  'response_body',
  'error',
  'created_at',
  'updated_at',
] as const;
