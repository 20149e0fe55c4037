/**
 * Who may work on which session. A claim raises the session's epoch, so whatever an earlier holder still writes is refused.
 * Liveness is a heartbeat of the node, not of the session; all times are compared by the database's clock.
 */
import { sql } from 'kysely';
import type { Database, Statement } from './ground/database.ts';
import type { Db } from './ground/tables.ts';

export type Claim = { stream: string; org: string; epoch: number };

/**
 * A session whose computer is awake on a machine with a living node is left to it for this long: elsewhere its files since the last snapshot
 * would be missing, so the wait must outlast a node that is merely busy.
 */
const AFFINITY_MS = 60_000;

/**
 * The living nodes as a set of ids, and not as a join: the recheck of a row that another claim has just taken sees the row's new columns,
 * but joined rows as they were, and would take the session twice.
 */
const ALIVE = `(select id from node where alive_until > clock_timestamp())`;
const ALIVE_MACHINES = `(select machine from node where alive_until > clock_timestamp())`;

const CLAIM: Statement = {
  name: 'claim',
  text: `
update stream s set epoch = s.epoch + 1, lease_node = $1, lease_at = clock_timestamp()
where s.id = any (array(
  select c.id from stream c
  where c.kind = 'session' and (c.due_at is not null or c.status in ('queued', 'running'))
    and (
      ((c.lease_node is null or c.lease_node not in ${ALIVE})
        and (c.status in ('queued', 'running') or c.due_at <= clock_timestamp())
        and (c.prefers_node is null or c.prefers_node = $3 or c.prefers_node not in ${ALIVE_MACHINES}
          or c.due_at < clock_timestamp() - ${AFFINITY_MS} * interval '1 ms'))
      -- A cancel or deadline that its runner has not served within the bound: taken over a live lease, once.
      or (c.status = 'running' and c.due_at <= clock_timestamp() and c.lease_at < c.due_at)
    )
  order by c.due_at
  limit $2
  -- Not for update: a row that merely references the stream, such as a new token's, must not hide it.
  for no key update skip locked
))
returning s.id as stream, s.org, s.epoch`,
};

/** Takes up to `limit` sessions that have something to do; those whose computer is awake on this machine, or on none. */
export async function claim(
  database: Database,
  node: string,
  limit: number,
  machine = node,
): Promise<Claim[]> {
  return await database.run<Claim>(CLAIM, [node, limit, machine]);
}

/** Gives a lease back; a lease that someone else holds by now is left alone. */
export async function release(db: Db, { stream, epoch }: Claim): Promise<void> {
  await db
    .updateTable('stream')
    .set({ lease_node: null })
    .where('id', '=', stream)
    .where('epoch', '=', epoch)
    .execute();
}

/** In how many ms the next session falls due; null = none is waiting for a time. */
export async function nextDueIn(db: Db): Promise<number | null> {
  const row = await db
    .selectFrom('stream')
    .select(
      sql<number | null>`extract(epoch from min(due_at) - clock_timestamp())::float8 * 1000`.as('in_ms'),
    )
    .where('kind', '=', 'session')
    .where('due_at', 'is not', null)
    .where('due_at', '>', sql<Date>`clock_timestamp()`)
    .executeTakeFirst();
  return row?.in_ms ?? null;
}

/** Says that this node lives for another `ttl_ms`. Returns the database's time in ms since the epoch. */
export async function heartbeat(db: Db, node: string, ttl_ms: number, machine = node): Promise<number> {
  const alive_until = sql<Date>`clock_timestamp() + ${ttl_ms} * interval '1 ms'`;
  const row = await db
    .insertInto('node')
    .values({ id: node, machine, alive_until })
    .onConflict((conflict) => conflict.column('id').doUpdateSet({ alive_until }))
    .returning(sql<number>`extract(epoch from clock_timestamp())::float8 * 1000`.as('now'))
    .executeTakeFirstOrThrow();
  return row.now;
}

/** Nodes that died long ago hold nothing any more. */
export async function forgetDeadNodes(db: Db): Promise<void> {
  await db
    .deleteFrom('node')
    .where('alive_until', '<', sql<Date>`clock_timestamp() - interval '1 day'`)
    .execute();
}

/** A node that stops gives up all it held at once. */
export async function leave(db: Db, node: string): Promise<void> {
  await db.updateTable('stream').set({ lease_node: null }).where('lease_node', '=', node).execute();
  // Its row stays for a while: it says since when its machine is away.
  await db
    .updateTable('node')
    .set({ alive_until: sql<Date>`clock_timestamp()` })
    .where('id', '=', node)
    .execute();
}

/** On the embedded ground the directory lock proves that this node is alone: whoever held a lease is dead. */
export async function voidAllLeases(db: Db): Promise<void> {
  await db.deleteFrom('node').execute();
}

/** Whether this claim is still the last one. */
export async function holds(db: Db, { stream, epoch }: Claim): Promise<boolean> {
  const row = await db.selectFrom('stream').select('epoch').where('id', '=', stream).executeTakeFirst();
  return row?.epoch === epoch;
}
