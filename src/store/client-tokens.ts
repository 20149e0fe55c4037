/** Client tokens: each opens one session to a browser, for a while. A row holds the digest, never the token. */
import { sql } from 'kysely';
import type { Db } from './ground/tables.ts';

export type Scope = 'read' | 'steer';

export type NewClientToken = {
  id: string;
  session_id: string;
  digest: Uint8Array;
  scopes: Scope[];
  ttl_s: number;
  /** The API key that asked for it: once that is revoked, it opens nothing. */
  minted_by: string | null;
};

/** Of a token `t`: the key that asked for it was revoked. */
export const MINTER_IS_REVOKED =
  'exists (select from api_key k where k.id = t.minted_by and k.revoked_at is not null)';

/** Returns when the token expires, by the database's clock. */
export async function insertClientToken(db: Db, org: string, token: NewClientToken): Promise<Date> {
  const { ttl_s, ...row } = token;
  const inserted = await db
    .insertInto('client_token')
    .values({ ...row, org, expires_at: sql<Date>`clock_timestamp() + ${ttl_s}::int * interval '1 s'` })
    .returning('expires_at')
    .executeTakeFirstOrThrow();
  return inserted.expires_at;
}

export type FoundClientToken = {
  id: string;
  org: string;
  session_id: string;
  scopes: Scope[];
  expires_at: Date;
};

/** The usable token with this digest, neither revoked nor expired, of a key that is not revoked and a session that is not deleted. */
export async function findClientToken(db: Db, digest: Uint8Array): Promise<FoundClientToken | undefined> {
  const row = await db
    .selectFrom('client_token as t')
    .innerJoin('stream', 'stream.id', 't.session_id')
    .select(['t.id', 't.org', 't.session_id', 't.scopes', 't.expires_at'])
    .where('t.digest', '=', digest)
    .where('t.revoked_at', 'is', null)
    .where('t.expires_at', '>', sql<Date>`clock_timestamp()`)
    .where(sql<boolean>`not ${sql.raw(MINTER_IS_REVOKED)}`)
    .where('stream.deleted_at', 'is', null)
    .executeTakeFirst();
  return row && { ...row, scopes: row.scopes as Scope[] };
}

export type ClientTokenRow = {
  id: string;
  scopes: Scope[];
  created_at: Date;
  expires_at: Date;
  revoked_at: Date | null;
};

/** Newest first, revoked and expired ones too. @param cursor the id of the last token of the previous page. */
export async function listClientTokens(
  db: Db,
  org: string,
  session_id: string,
  page: { limit: number; cursor?: string | undefined },
): Promise<ClientTokenRow[]> {
  let query = db
    .selectFrom('client_token')
    .select(['id', 'scopes', 'created_at', 'expires_at', 'revoked_at'])
    .where('org', '=', org)
    .where('session_id', '=', session_id)
    .orderBy('id', 'desc')
    .limit(page.limit);
  if (page.cursor !== undefined) query = query.where('id', '<', page.cursor);
  return (await query.execute()) as ClientTokenRow[];
}

/** Revokes one token of the session; again is no error. Returns whether there is such a token. */
export async function revokeClientToken(
  db: Db,
  org: string,
  session_id: string,
  id: string,
): Promise<boolean> {
  const revoked = await db
    .updateTable('client_token')
    .set({ revoked_at: sql<Date>`coalesce(revoked_at, clock_timestamp())` })
    .where('org', '=', org)
    .where('session_id', '=', session_id)
    .where('id', '=', id)
    .returning('id')
    .executeTakeFirst();
  return revoked !== undefined;
}

/** Revokes every token of the session that there is now. */
export async function revokeClientTokens(db: Db, org: string, session_id: string): Promise<void> {
  await db
    .updateTable('client_token')
    .set({ revoked_at: sql<Date>`clock_timestamp()` })
    .where('org', '=', org)
    .where('session_id', '=', session_id)
    .where('revoked_at', 'is', null)
    .execute();
}

/** Forgets what expired longer ago. */
export async function pruneClientTokens(db: Db, older_than_ms: number): Promise<void> {
  await db
    .deleteFrom('client_token')
    .where('expires_at', '<', sql<Date>`now() - ${older_than_ms} * interval '1 ms'`)
    .execute();
}
