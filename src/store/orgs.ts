/** The organisations of an installation, and its id; every row that HTTP serves belongs to one org. */
import { sql } from 'kysely';
import { KEY_COLUMNS, type ApiKeyRow, type NewApiKey } from './api-keys.ts';
import type { Db } from './ground/tables.ts';

const DEFAULT_ORG = 'default_org';

export type OrgRow = { id: string; name: string; created_at: Date };

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

/** Makes an org and its first key, both or neither. */
export async function insertOrg(
  db: Db,
  org: { id: string; name: string },
  key: NewApiKey,
): Promise<{ org: OrgRow; api_key: ApiKeyRow }> {
  const { id, name, public_id, digest, scopes, expires_at } = key;
  const inserted = await db
    .with('made', (query) => query.insertInto('org').values(org).returning(['id', 'name', 'created_at']))
    .with('first_key', (query) =>
      query
        .insertInto('api_key')
        .columns(['id', 'org', 'name', 'public_id', 'digest', 'scopes', 'expires_at'])
        .expression((from) =>
          from
            .selectFrom('made')
            .select([
              sql<string>`${id}::text`.as('key_id'),
              'made.id',
              sql<string>`${name}::text`.as('key_name'),
              sql<string>`${public_id}::text`.as('public_id'),
              sql<Uint8Array>`${digest}::bytea`.as('digest'),
              sql<string[]>`${scopes}::text[]`.as('scopes'),
              sql<Date | null>`${expires_at ?? null}::timestamptz`.as('expires_at'),
            ]),
        )
        .returning(KEY_COLUMNS),
    )
    .selectFrom('first_key')
    .innerJoin('made', (join) => join.onTrue())
    .selectAll('first_key')
    .select(['made.created_at as org_created_at'])
    .executeTakeFirstOrThrow();
  const { org_created_at, ...api_key } = inserted;
  return { org: { ...org, created_at: org_created_at }, api_key: api_key as ApiKeyRow };
}

/** Newest first. @param cursor the id of the last org of the previous page. */
export async function listOrgs(
  db: Db,
  page: { limit: number; cursor?: string | undefined },
): Promise<OrgRow[]> {
  let query = db
    .selectFrom('org')
    .select(['id', 'name', 'created_at'])
    .orderBy('id', 'desc')
    .limit(page.limit);
  if (page.cursor !== undefined) query = query.where('id', '<', page.cursor);
  return await query.execute();
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
