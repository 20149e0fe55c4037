/**
 * Deliveries as rows: claimed for sending, endpoint by endpoint, and settled. Attempts are counted before they are made; a row that is
 * being sent by a node that died is due again. The breaker of an endpoint is in the database, so all nodes spare it.
 */
import { sql } from 'kysely';
import { BREAKER, type DeliveryStatus } from '../../resource/delivery.ts';
import type { Database, Statement } from '../ground/database.ts';
import type { Db } from '../ground/tables.ts';
import { REPLAY } from './outbox.ts';
import type { EventRow } from '../rows.ts';

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

/** A delivery that this node is to send, with what is sent. */
export type ClaimedDelivery = {
  id: string;
  stream: string;
  org: string;
  origin: string;
  /** In all; the claim counted this one. */
  attempts: number;
  /** Those before somebody last asked for the delivery again. */
  attempts_before: number;
  destination_id: string;
  url: string;
  include_raw: boolean;
  /** The newest two: a rotated one signs beside its successor. */
  secrets: { id: string; sealed: string }[];
  /** As the JSON text that was stored. */
  metadata: string | null;
  event: EventRow;
  /** The one request that an open breaker lets through. */
  is_probe: boolean;
};

/** How many deliveries of an endpoint this node may take; what it does not name gets `slots_default`. */
export type EndpointSlots = { org: string; origin: string; slots: number; in_flight: number };

/** A claim of a node that lives but never settles it, as after a lost answer of the database. */
const SENDING_S_MAX = 120;

const ALIVE = `(select id from node where alive_until > clock_timestamp())`;

/**
 * Endpoints are found by what is queued, so those at rest cost nothing. The org that has the least under way comes first, and none may
 * take more than its share of the node. What is picked and cannot be sent now is put where it belongs, without an attempt: it waits
 * with a paused destination, moves to the new origin of its URL, or ends with a destination that is gone.
 */
const CLAIM: Statement = {
  name: 'claim_deliveries',
  text: `
with recursive queue as (
  (select org, origin from delivery where due_at is not null order by org, origin limit 1)
  union all
  select n.org, n.origin from queue q cross join lateral (
    select org, origin from delivery where due_at is not null and (org, origin) > (q.org, q.origin)
    order by org, origin limit 1) n
), busy as (
  select * from unnest($1::text[], $2::text[], $3::int[], $9::int[]) as b(org, origin, slots, in_flight)
), held as (
  select org, sum(in_flight) as in_flight from busy group by org
), ready as (
  select e.org, e.origin, e.failures >= ${BREAKER.failures} as tripped,
    least(coalesce(b.slots, $4::int), case when e.failures >= ${BREAKER.failures} then 1 end) as slots,
    coalesce(h.in_flight, 0) as in_flight
  from queue q join endpoint e on e.org = q.org and e.origin = q.origin
  left join busy b on b.org = e.org and b.origin = e.origin
  left join held h on h.org = e.org
  where (e.open_until is null or e.open_until <= now()) and coalesce(b.slots, $4::int) > 0
    and exists (select from delivery d where d.org = e.org and d.origin = e.origin and d.due_at <= now())
), shared as (
  select r.*, r.in_flight + sum(slots) over (partition by org order by hashtext(origin || $7), origin) as taken_by_org
  from ready r
), picked as (
  select d.stream, d.id, r.tripped from shared r cross join lateral (
    select stream, id from delivery
    where org = r.org and origin = r.origin and due_at <= now()
    order by due_at limit r.slots
    for no key update skip locked
  ) d
  where r.taken_by_org - r.slots < $10
  order by r.taken_by_org
  limit $5
), judged as (
  select p.stream, p.id, p.tripped, t.url, t.include_raw, t.origin as moved_to,
    case when t.id is null then 'gone' when not t.enabled then 'held' when t.origin <> d.origin then 'moved'
      when d.attempts - d.attempts_before >= $8 then 'spent' else 'sent' end as fate
  from picked p join delivery d on d.stream = p.stream and d.id = p.id
  left join destination t on t.id = d.destination_id
), probed as (
  update endpoint e set open_until = clock_timestamp() + ${BREAKER.probe_ms} * interval '1 ms'
  from (select distinct d.org, d.origin from judged j join delivery d on d.stream = j.stream and d.id = j.id
    where j.tripped and j.fate = 'sent') p
  where e.org = p.org and e.origin = p.origin
), taken as (
  update delivery d set
    status = case j.fate when 'sent' then 'delivering' when 'gone' then 'dead_letter' when 'spent' then 'dead_letter'
      else case when d.status = 'delivering' then 'failed' else d.status end end,
    attempts = d.attempts + case j.fate when 'sent' then 1 else 0 end,
    node = case j.fate when 'sent' then $6 end,
    origin = case j.fate when 'moved' then j.moved_to else d.origin end,
    error = case j.fate when 'gone' then 'the destination was deleted'
      when 'spent' then 'what became of the last attempts is not known' else d.error end,
    due_at = case j.fate when 'sent' then clock_timestamp() + ${SENDING_S_MAX} * interval '1 s' when 'moved' then d.due_at end,
    last_attempt_at = case j.fate when 'sent' then clock_timestamp() else d.last_attempt_at end,
    updated_at = clock_timestamp()
  from judged j where d.stream = j.stream and d.id = j.id
  returning d.*, j.fate, j.url, j.include_raw, j.tripped
)
select t.id, t.stream, t.org, t.origin, t.attempts, t.attempts_before, t.destination_id, t.url, t.include_raw,
  t.tripped as is_probe, s.metadata::text as metadata, (
    select json_agg(json_build_object('id', k.id, 'sealed', k.sealed)) from (
      select id, sealed from destination_secret
      where destination_id = t.destination_id and (expires_at is null or expires_at > now())
      order by id desc limit 2) k
  ) as secrets,
  e.seq, e.id as event_id, e.type, e.level, e.turn_id, e.actor::text as actor, e.source, e.refs::text as refs,
  extract(epoch from e.ts)::float8 * 1000 as ts, e.body::text as body, e.body_bytes, e.content_ref
from taken t
join event e on e.stream = t.stream and e.seq = t.seq
join session s on s.id = t.stream
where t.fate = 'sent'`,
};

type ClaimedRow = Omit<ClaimedDelivery, 'secrets' | 'event'> &
  Omit<EventRow, 'id'> & { event_id: string; secrets: ClaimedDelivery['secrets'] | null };

export type ClaimBounds = {
  /** Deliveries of this claim. */
  limit: number;
  /** What of an endpoint that `busy` does not name. */
  slots_default: number;
  /** Of one org, what is under way included. */
  per_org_max: number;
  /** Since a delivery was written or asked for again. */
  attempts_max: number;
};

/**
 * Takes deliveries that are due, of endpoints whose breaker lets them through.
 * @param salt chance, so that every claim begins with another endpoint.
 */
export async function claimDeliveries(
  database: Database,
  node: string,
  busy: EndpointSlots[],
  bounds: ClaimBounds,
  salt: string,
): Promise<ClaimedDelivery[]> {
  const rows = await database.run<ClaimedRow>(CLAIM, [
    busy.map(({ org }) => org),
    busy.map(({ origin }) => origin),
    busy.map(({ slots }) => slots),
    bounds.slots_default,
    bounds.limit,
    node,
    salt,
    bounds.attempts_max,
    busy.map(({ in_flight }) => in_flight),
    bounds.per_org_max,
  ]);
  return rows.map(toClaimed);
}

function toClaimed(row: ClaimedRow): ClaimedDelivery {
  const { secrets, event_id, seq, type, level, turn_id, actor, source, refs, ts, body, ...rest } = row;
  const { body_bytes, content_ref, ...claimed } = rest;
  return {
    ...claimed,
    secrets: secrets ?? [],
    event: {
      ...{ id: event_id, seq, type, level, turn_id, actor, source, refs, ts: Math.round(ts), body },
      ...{ body_bytes, content_ref },
    },
  };
}

/** What became of an attempt. */
export type Settled = Pick<ClaimedDelivery, 'stream' | 'id' | 'org' | 'origin' | 'attempts' | 'is_probe'> & {
  status: 'delivered' | 'failed' | 'dead_letter';
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
  select * from unnest($1::text[], $2::text[], $3::int[], $4::text[], $5::float8[], $6::int[], $7::text[], $8::text[])
    as i(stream, id, attempts, status, retry_in_ms, response_code, response_body, error)
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
  status = case when i.status = 'failed' and t.id is null then 'dead_letter' else i.status end,
  due_at = case when i.status = 'failed' and t.id is not null then clock_timestamp() + i.retry_in_ms * interval '1 ms' end,
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
  ]);
}

/**
 * Deliveries that a dead node was sending are due, and so are those that wait although their destination does not pause: an attempt
 * that ended while the pause did may have missed its end. Returns how many.
 */
export async function reclaimDeliveries(db: Db): Promise<number> {
  const lost = await sql`
    update delivery set status = 'failed', due_at = clock_timestamp(), node = null, updated_at = clock_timestamp()
    where node is not null and node not in ${sql.raw(ALIVE)}
    returning id`.execute(db);
  const forgotten = await sql`
    update delivery d set due_at = clock_timestamp() from destination t
    where d.status in ('pending', 'failed') and d.due_at is null and t.id = d.destination_id and t.enabled
    returning d.id`.execute(db);
  return lost.rows.length + forgotten.rows.length;
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
