/**
 * Deliveries claimed for sending, endpoint by endpoint. Attempts are counted before they are made; a row that is being sent by a node that
 * died is due again.
 */
import { BREAKER } from '../../resource/delivery.ts';
import type { Database, Statement } from '../ground/database.ts';
import type { EventRow } from '../rows.ts';

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

/** Endpoints of one org that a claim looks at. An org that owes to more is looked at in parts, each time from another place on. */
const WALK_MAX = 128;

/**
 * Endpoints are found by what is queued, so those at rest cost nothing; of one org no more than so many are looked at, as each costs time
 * that all would wait. The org that has the least under way comes first, and none may take more than its share of the node. What is picked and cannot be sent now is put where it belongs, without an attempt: it waits
 * with a paused destination, moves to the new origin of its URL, or ends with a destination that is gone.
 */
const CLAIM: Statement = {
  name: 'claim_deliveries',
  text: `
with recursive orgs as (
  (select org from delivery where due_at is not null order by org limit 1)
  union all
  select n.org from orgs o cross join lateral (
    select org from delivery where due_at is not null and org > o.org order by org limit 1) n
), queue as materialized (
  select o.org, w.origin from orgs o cross join lateral (
    with recursive ahead as (
      (select origin, due_at, 1 as count from delivery
        where org = o.org and due_at is not null and md5(origin) >= md5($7) order by md5(origin), due_at limit 1)
      union all
      select n.origin, n.due_at, a.count + 1 from ahead a cross join lateral (
        select origin, due_at from delivery where org = o.org and due_at is not null and md5(origin) > md5(a.origin)
        order by md5(origin), due_at limit 1) n
      where a.count < ${WALK_MAX}
    ), behind as (
      (select origin, due_at, 1 as count from delivery
        where org = o.org and due_at is not null and md5(origin) < md5($7) order by md5(origin), due_at limit 1)
      union all
      select n.origin, n.due_at, b.count + 1 from behind b cross join lateral (
        select origin, due_at from delivery where org = o.org and due_at is not null and md5(origin) > md5(b.origin)
          and md5(origin) < md5($7)
        order by md5(origin), due_at limit 1) n
      where b.count < ${WALK_MAX}
    )
    select * from ahead union all select * from behind limit ${WALK_MAX}) w
  where w.due_at <= now()
), busy as (
  select * from unnest($1::text[], $2::text[], $3::int[], $9::int[]) as b(org, origin, slots, in_flight)
), held as (
  select org, sum(in_flight) as in_flight from busy group by org
), ready as (
  select e.org, e.origin, e.failures >= ${BREAKER.failures} as tripped,
    least(coalesce(b.slots, $4::int), case when e.failures >= ${BREAKER.failures} then 1 end) as slots,
    coalesce(h.in_flight, 0) as in_flight
  from queue q cross join lateral (
    -- A limit keeps the planner from beginning with all endpoints that there are.
    select org, origin, failures, open_until from endpoint where org = q.org and origin = q.origin limit 1) e
  left join busy b on b.org = e.org and b.origin = e.origin
  left join held h on h.org = e.org
  where (e.open_until is null or e.open_until <= now()) and coalesce(b.slots, $4::int) > 0
), shared as (
  select r.*, r.in_flight + sum(slots) over (partition by org order by hashtext(origin || $7), origin) as taken_by_org
  from ready r
), picked as (
  select d.stream, d.id, r.tripped, r.taken_by_org as place from shared r cross join lateral (
    select stream, id from delivery
    where org = r.org and md5(origin) = md5(r.origin) and origin = r.origin and due_at <= now()
    order by due_at limit r.slots
    for no key update skip locked
  ) d
  where r.taken_by_org - r.slots < $10
  order by r.taken_by_org
  limit $5
), judged as (
  select p.stream, p.id, p.tripped, p.place, t.url, t.include_raw, t.origin as moved_to,
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
  returning d.*, j.fate, j.url, j.include_raw, j.tripped, j.place
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
where t.fate = 'sent'
order by t.place`,
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
