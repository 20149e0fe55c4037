/**
 * The outbox: the clause of an append that writes a delivery for every event and every destination that wants it. Matching is here and
 * nowhere else, so no event is committed without what is owed of it (contract §12.2).
 */

/** Whether event `e` is one that destination `d` wants. */
const WANTED = `
  d.enabled and e.seq > d.created_after_seq
  and case d.level when 'user' then e.level = 'user' when 'progress' then e.level in ('user', 'progress')
    else e.level <> 'runtime' end
  and (d.types is null or exists (
    select from unnest(d.types) t where t = e.type or (t like '%.*' and starts_with(e.type, left(t, -1)))))`;

/** Sorts by time; the same event and destination give the same id. */
const DELIVERY_ID = `'dlv_' || lpad(to_hex((extract(epoch from e.ts) * 1000)::bigint), 12, '0')
  || left(md5(e.id || d.id), 12)`;

const COLUMNS = '(stream, id, org, seq, destination_id, origin)';

const FIELDS = 'id, origin, level, types, enabled, created_after_seq';

/** Destinations above the session: each of the two has an index of its own, which one condition with `or` would not use. */
const ofAgentAndOrg = (agent_id: string, org: string): string => `
    select ${FIELDS} from destination where agent_id = ${agent_id}
    union all
    select ${FIELDS} from destination where org = ${org} and stream is null and agent_id is null`;

/**
 * For `CREATE`: the destinations come with the session, so they are not in its tables yet.
 * @param events a relation of the new events; @param destinations one of the new destinations.
 */
export function outboxOfNewSession(events: string, destinations: string, session: string): string {
  return `
  insert into delivery ${COLUMNS}
  select e.stream, ${DELIVERY_ID}, e.org, e.seq, d.id, d.origin
  from ${events} e cross join ${session} s cross join lateral (
    select ${FIELDS} from ${destinations}
    union all ${ofAgentAndOrg('s.agent_id', 's.org')}
  ) d
  where ${WANTED}
  returning stream`;
}

/**
 * For appends to sessions that exist. Skipped whole, by a condition that is looked at once, where none of the orgs has a destination.
 * @param events a relation of the new events; @param orgs the parameter with the orgs of the batch.
 */
export function outbox(events: string, orgs: string): string {
  return `
  insert into delivery ${COLUMNS}
  select e.stream, ${DELIVERY_ID}, e.org, e.seq, d.id, d.origin
  from ${events} e join session s on s.id = e.stream cross join lateral (
    select ${FIELDS} from destination where stream = e.stream
    union all ${ofAgentAndOrg('s.agent_id', 'e.org')}
  ) d
  where exists (select from destination where org = any(${orgs})) and ${WANTED}
  returning stream`;
}

/**
 * For a replay: the events of one session from a seq on, to one destination, whatever became of them before. In the order of their keys,
 * in which all who change several deliveries lock them.
 */
export const REPLAY = `
  insert into delivery ${COLUMNS}
  select e.stream, ${DELIVERY_ID}, e.org, e.seq, d.id, d.origin
  from (select * from event where org = $1 and stream = $2 and seq >= $3 order by seq limit $4) e
  join (select id, origin, level, types, enabled, 0 as created_after_seq from destination
    where org = $1 and id = $5) d on ${WANTED}
  order by 1, 2
  on conflict (stream, id) do update set status = 'pending', attempts_before = delivery.attempts,
    due_at = clock_timestamp(), asked_at = clock_timestamp(), origin = excluded.origin, node = null, error = null, updated_at = clock_timestamp()
  returning seq`;
