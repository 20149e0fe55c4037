/** Ports of computers that are reachable from outside under a URL of ours. */
import type { Db } from '../ground/tables.ts';

export type PublishedPortRow = {
  id: string;
  org: string;
  computer_id: string;
  port: number;
  created_at: Date;
};

/** Idempotent: a port that is published keeps its id. */
export async function publishPort(
  db: Db,
  row: Omit<PublishedPortRow, 'created_at'>,
): Promise<PublishedPortRow> {
  await db
    .insertInto('published_port')
    .values(row)
    .onConflict((conflict) => conflict.columns(['computer_id', 'port']).doNothing())
    .execute();
  return await db
    .selectFrom('published_port')
    .selectAll()
    .where('computer_id', '=', row.computer_id)
    .where('port', '=', row.port)
    .executeTakeFirstOrThrow();
}

export async function listPorts(db: Db, org: string, computer_ids: string[]): Promise<PublishedPortRow[]> {
  if (computer_ids.length === 0) return [];
  return await db
    .selectFrom('published_port')
    .selectAll()
    .where('org', '=', org)
    .where('computer_id', 'in', computer_ids)
    .orderBy('port')
    .execute();
}

/** Whose port has this id; asked by visitors, who bear no key. */
export async function findPort(db: Db, id: string): Promise<PublishedPortRow | undefined> {
  return await db.selectFrom('published_port').selectAll().where('id', '=', id).executeTakeFirst();
}

export async function unpublishPort(db: Db, org: string, computer_id: string, port: number): Promise<void> {
  await db
    .deleteFrom('published_port')
    .where('org', '=', org)
    .where('computer_id', '=', computer_id)
    .where('port', '=', port)
    .execute();
}

export async function unpublishAll(db: Db, computer_id: string): Promise<void> {
  await db.deleteFrom('published_port').where('computer_id', '=', computer_id).execute();
}
