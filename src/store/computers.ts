/** Computers as rows: the intent before the driver acts, and where the computer is after. */
import { sql } from 'kysely';
import type { Reference } from '../resource/computer.ts';
import type { Db } from './tables.ts';

export type WakeIntent = { id: string; reference: Reference | null; generation: number };

/**
 * Records that this node is about to wake the session's computer, making its row on first need. The generation it gets is new, so
 * the files of any other wake can be told from this one's.
 */
export async function intendWake(
  db: Db,
  fresh: { id: string; org: string; session_id: string; driver: string },
  node: string,
): Promise<WakeIntent> {
  const known = await db
    .updateTable('computer')
    .set({ node, state: 'waking', generation: sql`generation + 1` })
    .where('org', '=', fresh.org)
    .where('session_id', '=', fresh.session_id)
    .returning(['id', 'reference', 'generation'])
    .executeTakeFirst();
  const row =
    known ??
    (await db
      .insertInto('computer')
      .values({ ...fresh, node, state: 'waking', generation: 1, reference: null })
      .returning(['id', 'reference', 'generation'])
      .executeTakeFirstOrThrow());
  return { id: row.id, reference: row.reference as Reference | null, generation: row.generation };
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
