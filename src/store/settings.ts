/** Facts about this installation that every node must agree on. */
import type { Db } from './tables.ts';

/** The installation's id: the first node's proposal, kept for ever. Names what the installation owns on a host. */
export async function installationId(db: Db, proposed: string): Promise<string> {
  await db
    .insertInto('setting')
    .values({ name: 'installation', value: proposed })
    .onConflict((conflict) => conflict.doNothing())
    .execute();
  const row = await db
    .selectFrom('setting')
    .select('value')
    .where('name', '=', 'installation')
    .executeTakeFirstOrThrow();
  return row.value;
}
