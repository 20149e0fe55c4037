/** Model provider keys of an org, sealed; at most one is the default of its provider. */
import { sql } from 'kysely';
import { OverwinterError } from '../resource/error.ts';
import type { Db } from './ground/tables.ts';

const UNIQUE_VIOLATION = '23505';

export type NewCredential = {
  id: string;
  provider: string;
  name: string | null;
  /** The last characters of the key, to tell keys apart. */
  last4: string;
  /** Sealed for {org, table: 'credential', id, column: 'sealed'}. */
  sealed: string;
};

export type CredentialRow = {
  id: string;
  provider: string;
  name: string | null;
  last4: string;
  is_default: boolean;
  created_at: Date;
};

const COLUMNS = ['id', 'provider', 'name', 'last4', 'is_default', 'created_at'] as const;

export async function insertCredential(
  db: Db,
  org: string,
  credential: NewCredential,
): Promise<CredentialRow> {
  return await db
    .insertInto('credential')
    .values({ ...credential, org })
    .returning(COLUMNS)
    .executeTakeFirstOrThrow();
}

export async function getCredential(db: Db, org: string, id: string): Promise<CredentialRow | undefined> {
  return await db
    .selectFrom('credential')
    .select(COLUMNS)
    .where('org', '=', org)
    .where('id', '=', id)
    .executeTakeFirst();
}

export async function getSealedCredential(db: Db, org: string, id: string): Promise<string | undefined> {
  const row = await db
    .selectFrom('credential')
    .select('sealed')
    .where('org', '=', org)
    .where('id', '=', id)
    .executeTakeFirst();
  return row?.sealed;
}

export async function getDefaultCredential(
  db: Db,
  org: string,
  provider: string,
): Promise<string | undefined> {
  const row = await db
    .selectFrom('credential')
    .select('id')
    .where('org', '=', org)
    .where('provider', '=', provider)
    .where('is_default', '=', true)
    .executeTakeFirst();
  return row?.id;
}

/** Newest first. @param cursor the id of the last credential of the previous page. */
export async function listCredentials(
  db: Db,
  org: string,
  page: { limit: number; cursor?: string | undefined },
): Promise<CredentialRow[]> {
  let query = db
    .selectFrom('credential')
    .select(COLUMNS)
    .where('org', '=', org)
    .orderBy('id', 'desc')
    .limit(page.limit);
  if (page.cursor !== undefined) query = query.where('id', '<', page.cursor);
  return await query.execute();
}

/** Puts another key behind the credential; running sessions use it from their next model call on. */
export async function rotateCredential(
  db: Db,
  org: string,
  id: string,
  key: Pick<NewCredential, 'last4' | 'sealed'>,
): Promise<CredentialRow | undefined> {
  return await db
    .updateTable('credential')
    .set(key)
    .where('org', '=', org)
    .where('id', '=', id)
    .returning(COLUMNS)
    .executeTakeFirst();
}

/**
 * Makes a credential the default of its provider, in one statement: it is held before the former default is cleared, which is before it is
 * set, as both at once would collide.
 * @returns undefined when there is no such credential any more; then the former default stays.
 * @throws OverwinterError `contended` when another default was set in between.
 */
export async function setDefaultCredential(
  db: Db,
  org: string,
  id: string,
): Promise<CredentialRow | undefined> {
  const done = await sql<CredentialRow>`
    with chosen as (
      select id, provider from credential where org = ${org} and id = ${id} for no key update
    ), cleared as (
      update credential c set is_default = false from chosen
      where c.org = ${org} and c.provider = chosen.provider and c.id <> chosen.id and c.is_default
      returning c.id
    )
    update credential c set is_default = true from chosen
    where c.org = ${org} and c.id = chosen.id and (select count(*) from cleared) >= 0
    returning ${sql.join(COLUMNS.map((column) => sql.ref(`c.${column}`)))}`
    .execute(db)
    .catch((error: unknown) => {
      if ((error as { code?: string }).code !== UNIQUE_VIOLATION) throw error;
      throw new OverwinterError('contended', 'another default was set at the same time; try again');
    });
  return done.rows[0];
}

/** Agents that used it fall back to the org's default. Returns whether there was such a credential. */
export async function deleteCredential(db: Db, org: string, id: string): Promise<boolean> {
  const deleted = await db
    .with('detached', (query) =>
      query
        .updateTable('agent')
        .set({ credential_id: null })
        .where('org', '=', org)
        .where('credential_id', '=', id),
    )
    .deleteFrom('credential')
    .where('org', '=', org)
    .where('id', '=', id)
    .returning('id')
    .executeTakeFirst();
  return deleted !== undefined;
}
