/**
 * API keys of an org. A row holds a public id and a digest, never the key. Whether a key may still be used is asked of the database
 * each time, so a revocation holds on all nodes at once; an org never loses its last admin key that does not expire.
 */
import { sql } from 'kysely';
import { OverwinterError } from '../resource/error.ts';
import type { KeyScope } from '../resource/api-key.ts';
import { MINTER_IS_REVOKED } from './client-tokens.ts';
import type { Database, Statement } from './ground/database.ts';
import type { Db } from './ground/tables.ts';

export type NewApiKey = {
  id: string;
  name: string;
  public_id: string;
  digest: Uint8Array;
  scopes: KeyScope[];
  expires_at?: Date | null;
};

export type ApiKeyRow = {
  id: string;
  name: string;
  public_id: string;
  scopes: KeyScope[];
  created_at: Date;
  expires_at: Date | null;
  /** To the minute. */
  last_used_at: Date | null;
  revoked_at: Date | null;
};

export const KEY_COLUMNS = [
  ...(['id', 'name', 'public_id', 'scopes'] as const),
  ...(['created_at', 'expires_at', 'last_used_at', 'revoked_at'] as const),
] as const;

const UNIQUE_VIOLATION = '23505';
const REVOKE_ATTEMPTS_MAX = 50;

/** Neither revoked nor expired. */
const USABLE = sql<boolean>`revoked_at is null and (expires_at is null or expires_at > clock_timestamp())`;
const USE_IS_UNWRITTEN = sql<boolean>`coalesce(last_used_at < clock_timestamp() - interval '1 minute', true)`;
const IN_DEFAULT_ORG = sql<boolean>`coalesce(org = (select value from setting where name = 'default_org'), false)`;

export type FoundApiKey = {
  id: string;
  org: string;
  digest: Uint8Array;
  scopes: KeyScope[];
  expires_at: Date | null;
  in_default_org: boolean;
  /** Whether `touchApiKey` would write. */
  use_is_unwritten: boolean;
};

/** The usable key with this public id; whether the caller has it, only the digest says. */
export async function findApiKey(db: Db, public_id: string): Promise<FoundApiKey | undefined> {
  const row = await db
    .selectFrom('api_key')
    .select(['id', 'org', 'digest', 'scopes', 'expires_at'])
    .select([IN_DEFAULT_ORG.as('in_default_org'), USE_IS_UNWRITTEN.as('use_is_unwritten')])
    .where('public_id', '=', public_id)
    .where(USABLE)
    .executeTakeFirst();
  return row && { ...row, scopes: row.scopes as KeyScope[] };
}

/** Notes that the key was used: at most once a minute, whichever nodes it is used on. */
export async function touchApiKey(db: Db, id: string): Promise<void> {
  await db
    .updateTable('api_key')
    .set({ last_used_at: sql<Date>`clock_timestamp()` })
    .where('id', '=', id)
    .where(USE_IS_UNWRITTEN)
    .execute();
}

/** `over`: the key is known, and was revoked or has expired. `taken`: another key has its public id. */
export type KnownKey = 'usable' | 'over' | 'taken';

/** Makes the key known unless it is; nodes that start together with one key agree. */
export async function ensureApiKey(db: Db, org: string, key: NewApiKey): Promise<KnownKey> {
  await db
    .insertInto('api_key')
    .values({ ...key, org })
    .onConflict((conflict) => conflict.column('public_id').doNothing())
    .execute();
  const found = await db
    .selectFrom('api_key')
    .select(['digest', USABLE.as('is_usable')])
    .where('public_id', '=', key.public_id)
    .executeTakeFirstOrThrow();
  if (!Buffer.from(found.digest).equals(key.digest)) return 'taken';
  return found.is_usable ? 'usable' : 'over';
}

/** @throws OverwinterError `contended` when another key has the public id, of which there are 2³². */
export async function insertApiKey(db: Db, org: string, key: NewApiKey): Promise<ApiKeyRow> {
  const inserted = await db
    .insertInto('api_key')
    .values({ ...key, org })
    .returning(KEY_COLUMNS)
    .executeTakeFirstOrThrow()
    .catch((error: unknown) => {
      if ((error as { code?: string }).code !== UNIQUE_VIOLATION) throw error;
      throw new OverwinterError('contended', 'another key has the id that was drawn; try again');
    });
  return inserted as ApiKeyRow;
}

/** Newest first, revoked and expired ones too. @param cursor the id of the last key of the previous page. */
export async function listApiKeys(
  db: Db,
  org: string,
  page: { limit: number; cursor?: string | undefined },
): Promise<ApiKeyRow[]> {
  let query = db
    .selectFrom('api_key')
    .select(KEY_COLUMNS)
    .where('org', '=', org)
    .orderBy('id', 'desc')
    .limit(page.limit);
  if (page.cursor !== undefined) query = query.where('id', '<', page.cursor);
  return (await query.execute()) as ApiKeyRow[];
}

/**
 * Revokes the key, for good, and with it the client tokens that it asked for; the row stays. Again is no error.
 * @throws OverwinterError `not_found`; `contended`; `conflict` for the org's last admin key that does not expire, and for its last usable
 * one should none be without an end.
 */
export async function revokeApiKey(db: Db, org: string, id: string): Promise<void> {
  for (let attempt = 0; attempt < REVOKE_ATTEMPTS_MAX; attempt += 1) {
    const seen = await readForRevocation(db, org, id);
    if (!seen) throw new OverwinterError('not_found', 'no such API key');
    if (seen.is_revoked) return;
    if (seen.is_last_admin) {
      throw new OverwinterError(
        'conflict',
        'the last admin key of an org that does not expire is not revoked: make another without an end first',
      );
    }
    if (await revokeAt(db, org, id, seen.key_revision)) return;
  }
  throw new OverwinterError('contended', 'other keys were revoked at the same time; try again');
}

/** One snapshot: the key, whether another admin key that lasts as long would remain, and the revision of which that is true. */
async function readForRevocation(db: Db, org: string, id: string) {
  const other_admin = db
    .selectFrom('api_key as other')
    .select('other.id')
    .where('other.org', '=', org)
    .where('other.id', '!=', id)
    .where(sql<boolean>`'admin' = any(other.scopes)`)
    .where(sql<boolean>`(other.expires_at is null or api_key.expires_at is not null)`)
    .where(USABLE);
  return await db
    .selectFrom('api_key')
    .innerJoin('org', 'org.id', 'api_key.org')
    .select((query) => [
      'org.key_revision',
      query('api_key.revoked_at', 'is not', null).as('is_revoked'),
      query
        .and([USABLE, sql<boolean>`'admin' = any(api_key.scopes)`, query.not(query.exists(other_admin))])
        .as('is_last_admin'),
    ])
    .where('api_key.org', '=', org)
    .where('api_key.id', '=', id)
    .executeTakeFirst();
}

/** False when any key of the org was revoked since `key_revision`: what was seen then may no longer hold. */
async function revokeAt(db: Db, org: string, id: string, key_revision: number): Promise<boolean> {
  const revoked = await db
    .with('raised', (query) =>
      query
        .updateTable('org')
        .set({ key_revision: key_revision + 1 })
        .where('id', '=', org)
        .where('key_revision', '=', key_revision)
        .returning('id'),
    )
    .updateTable('api_key')
    .from('raised')
    .set({ revoked_at: sql<Date>`clock_timestamp()` })
    .whereRef('api_key.org', '=', 'raised.id')
    .where('api_key.id', '=', id)
    .returning('api_key.id')
    .executeTakeFirst();
  return revoked !== undefined;
}

const FIND_USABLE: Statement = {
  name: 'find_usable_credentials',
  text: `
select id from api_key
where id = any($1::text[]) and revoked_at is null and (expires_at is null or expires_at > clock_timestamp())
union all
select t.id from client_token t join stream s on s.id = t.session_id
where t.id = any($1::text[]) and t.revoked_at is null and t.expires_at > clock_timestamp() and s.deleted_at is null
  and not ${MINTER_IS_REVOKED}`,
};

/** Those among the ids of API keys and client tokens that may still be used. */
export async function findUsable(database: Database, ids: string[]): Promise<Set<string>> {
  const rows = await database.run<{ id: string }>(FIND_USABLE, [ids]);
  return new Set(rows.map(({ id }) => id));
}
