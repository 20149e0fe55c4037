/** What an installation is: its id, and the organisations; every row that HTTP serves belongs to one. */
import type { Db } from './tables.ts';

const DEFAULT_ORG = 'default_org';

/** Makes the default org at the first start of an installation; nodes that start together agree on one. */
export async function ensureDefaultOrg(
  db: Db,
  proposed_id: string,
  name: string,
): Promise<{ id: string; created: boolean }> {
  const inserted = await db
    .with('chosen', (query) =>
      query
        .insertInto('setting')
        .values({ name: DEFAULT_ORG, value: proposed_id })
        .onConflict((conflict) => conflict.doNothing())
        .returning('value'),
    )
    .insertInto('org')
    .columns(['id', 'name'])
    .expression((query) => query.selectFrom('chosen').select(['value', query.val(name).as('name')]))
    .returning('id')
    .executeTakeFirst();
  if (inserted) return { id: inserted.id, created: true };
  const setting = await db
    .selectFrom('setting')
    .select('value')
    .where('name', '=', DEFAULT_ORG)
    .executeTakeFirstOrThrow();
  return { id: setting.value, created: false };
}

export async function createOrg(db: Db, org: { id: string; name: string }): Promise<void> {
  await db.insertInto('org').values(org).execute();
}

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
