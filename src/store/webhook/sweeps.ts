/** What is looked after now and then: deliveries that nobody sends any more or for too long, and endpoints that nothing leads to. */
import { sql } from 'kysely';
import type { Db } from '../ground/tables.ts';

const ALIVE = sql`(select id from node where alive_until > clock_timestamp())`;

/** Of one statement; claims wait for a few of them at most. */
const BATCH = 1000;
const BATCHES_MAX = 10;

/**
 * Deliveries that a dead node was sending are due, and so are those that wait although their destination does not pause: an attempt
 * that ended while the pause did may have missed its end. Returns how many.
 */
export async function reclaimDeliveries(db: Db): Promise<number> {
  const lost = await sql`
    with lck as (
      select stream, id from delivery where node is not null and node not in ${ALIVE}
      order by stream, id for no key update
    )
    update delivery d set status = 'failed', due_at = clock_timestamp(), node = null, updated_at = clock_timestamp()
    from lck where d.stream = lck.stream and d.id = lck.id and d.node is not null and d.node not in ${ALIVE}
    returning d.id`.execute(db);
  const forgotten = await sql`
    with lck as (
      select d.stream, d.id from delivery d join destination t on t.id = d.destination_id
      where d.status in ('pending', 'failed') and d.due_at is null and t.enabled
      order by d.stream, d.id for no key update of d
    )
    update delivery d set due_at = clock_timestamp() from lck
    where d.stream = lck.stream and d.id = lck.id and d.status in ('pending', 'failed') and d.due_at is null
    returning d.id`.execute(db);
  return lost.rows.length + forgotten.rows.length;
}

/**
 * Gives up what was written, or last asked for again, longer ago than that: behind an open breaker attempts would take years to be spent.
 * What waits for the end of a pause is not old yet. Returns how many; what is more than a few batches takes the next call.
 */
export async function expireDeliveries(db: Db, age_ms_max: number): Promise<number> {
  let expired = 0;
  for (let batch = 0; batch < BATCHES_MAX && expired === batch * BATCH; batch += 1)
    expired += await expireSome(db, age_ms_max);
  return expired;
}

async function expireSome(db: Db, age_ms_max: number): Promise<number> {
  const expired = await sql`
    with old as (
      select stream, id from delivery
      where due_at is not null and coalesce(asked_at, created_at) < now() - ${age_ms_max}::float8 * interval '1 ms'
        and status in ('pending', 'failed')
      order by coalesce(asked_at, created_at) limit ${BATCH} for no key update skip locked
    )
    update delivery d set status = 'dead_letter', due_at = null, updated_at = clock_timestamp(),
      error = left('it was owed for too long' || coalesce(': ' || d.error, ''), 400)
    from old o where d.stream = o.stream and d.id = o.id
    returning d.id`.execute(db);
  return expired.rows.length;
}

/** Forgets endpoints that no destination and nothing owed leads to. One that was used lately may be about to be led to. */
export async function removeEndpoints(db: Db, unused_s: number): Promise<number> {
  const removed = await sql`
    delete from endpoint e
    where e.used_at < now() - ${unused_s}::int * interval '1 s'
      and not exists (select from destination t where t.org = e.org and t.origin = e.origin)
      and not exists (select from delivery d
        where d.org = e.org and md5(d.origin) = md5(e.origin) and d.origin = e.origin and d.due_at is not null)
    returning e.org`.execute(db);
  return removed.rows.length;
}
