/** Snapshots of computers: copies of their files, kept as blobs until they are deleted. */
import { sql } from 'kysely';
import type { ComputerSpec } from '../../resource/computer/spec.ts';
import type { Db } from '../ground/tables.ts';

export type SnapshotRow = {
  id: string;
  org: string;
  computer_id: string;
  name: string | null;
  /** The blob's name. */
  blob: string;
  /** Of the computer that it was taken of. */
  spec: ComputerSpec;
  bytes: number;
  created_at: Date;
};

/** The intent: it counts once its blob is written. */
export async function beginSnapshot(db: Db, row: Omit<SnapshotRow, 'bytes' | 'created_at'>): Promise<void> {
  await db
    .insertInto('snapshot')
    .values({ ...row, spec: JSON.stringify(row.spec) })
    .execute();
}

export async function finishSnapshot(db: Db, id: string, bytes: number): Promise<void> {
  await db.updateTable('snapshot').set({ bytes, ready: true }).where('id', '=', id).execute();
}

export async function getSnapshot(db: Db, org: string, id: string): Promise<SnapshotRow | undefined> {
  return await selectReady(db, org).where('id', '=', id).executeTakeFirst();
}

/** Newest first. @param computer_id of this one only. */
export async function listSnapshots(
  db: Db,
  org: string,
  filter: { computer_id?: string | undefined; limit: number },
): Promise<SnapshotRow[]> {
  let query = selectReady(db, org).orderBy('id', 'desc').limit(filter.limit);
  if (filter.computer_id !== undefined) query = query.where('computer_id', '=', filter.computer_id);
  return await query.execute();
}

/** Hides it first; its blob is the caller's to remove, and then the row. */
export async function hideSnapshot(db: Db, org: string, id: string): Promise<void> {
  await db
    .updateTable('snapshot')
    .set({ ready: false })
    .where('org', '=', org)
    .where('id', '=', id)
    .execute();
}

export async function deleteSnapshot(db: Db, id: string): Promise<void> {
  await db.deleteFrom('snapshot').where('id', '=', id).execute();
}

/**
 * Those that no node can be writing any more: of this machine's computers, begun before this node's life; of others', long ago.
 */
export async function listUnfinished(
  db: Db,
  machine: string,
  alive_since: Date,
  older_than_ms: number,
): Promise<{ id: string; blob: string }[]> {
  const long_ago = sql<Date>`clock_timestamp() - ${older_than_ms} * interval '1 ms'`;
  return await db
    .selectFrom('snapshot')
    .innerJoin('stream', 'stream.id', 'snapshot.computer_id')
    .select(['snapshot.id', 'snapshot.blob'])
    .where('snapshot.ready', '=', false)
    .where((where) =>
      where.or([
        where('snapshot.created_at', '<', long_ago),
        where.and([
          where('stream.prefers_node', '=', machine),
          where('snapshot.created_at', '<', alive_since),
        ]),
      ]),
    )
    .limit(100)
    .execute();
}

function selectReady(db: Db, org: string) {
  return db
    .selectFrom('snapshot')
    .selectAll()
    .where('org', '=', org)
    .where('ready', '=', true)
    .$castTo<SnapshotRow>();
}
