/** Computers as rows: the intent before the driver acts, and where the computer is after. */
import { sql } from 'kysely';
import type { Reference } from '../../resource/computer/driver.ts';
import { OverwinterError } from '../../resource/error.ts';
import type { Claim } from '../leases.ts';
import type { Db } from '../ground/tables.ts';

export type WakeIntent = { id: string; reference: Reference | null; generation: number };

/**
 * Records that this node is about to wake the session's computer, making its row on first need. The generation it gets is new, so
 * the files of any other wake can be told from this one's. Only the runner that holds the session may.
 * @throws OverwinterError `fenced`
 */
export async function intendWake(
  db: Db,
  claim: Claim,
  fresh: { id: string; driver: string },
  node: string,
): Promise<WakeIntent> {
  const { rows } = await sql<WakeIntent>`
    with holder as (
      select id, org from stream where id = ${claim.stream} and epoch = ${claim.epoch} for share
    ), known as (
      update computer c set node = ${node}, state = 'waking', generation = c.generation + 1
      from holder where c.session_id = holder.id
      returning c.id, c.reference, c.generation
    ), made as (
      insert into computer (id, org, session_id, driver, node, state, generation)
      select ${fresh.id}, org, id, ${fresh.driver}, ${node}, 'waking', 1
      from holder where not exists (select from known)
      returning id, reference, generation
    )
    select * from known union all select * from made`.execute(db);
  if (rows[0]) return rows[0];
  throw new OverwinterError('fenced', 'another runner holds the session');
}

export async function recordWake(db: Db, org: string, id: string, reference: Reference): Promise<void> {
  await db
    .updateTable('computer')
    .set({ state: 'awake', reference: JSON.stringify(reference) })
    .where('org', '=', org)
    .where('id', '=', id)
    .execute();
}

export async function recordHibernation(
  db: Db,
  org: string,
  id: string,
  snapshot_ref: string | null,
): Promise<void> {
  await db
    .updateTable('computer')
    .set({ state: 'hibernated', snapshot_ref })
    .where('org', '=', org)
    .where('id', '=', id)
    .execute();
}

export async function getReference(db: Db, org: string, id: string): Promise<Reference | null> {
  const row = await db
    .selectFrom('computer')
    .select('reference')
    .where('org', '=', org)
    .where('id', '=', id)
    .executeTakeFirst();
  return (row?.reference ?? null) as Reference | null;
}
