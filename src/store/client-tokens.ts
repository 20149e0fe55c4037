/** Client tokens: each opens one session to a browser, for a while. A row holds the digest, never the token. */
import { sql } from 'kysely';
import type { Db } from './tables.ts';

export type Scope = 'read' | 'steer';

export type NewClientToken = {
  id: string;
  session_id: string;
  digest: Uint8Array;
  scopes: Scope[];
  ttl_s: number;
};

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

export type ClientTokenRow = {
  org: string;
  session_id: string;
  scopes: Scope[];
  expires_at: Date;
  digest: Uint8Array;
};

/** The usable token with this digest, neither revoked nor expired. */
export async function findClientToken(db: Db, digest: Uint8Array): Promise<ClientTokenRow | undefined> {
  const row = await db
    .selectFrom('client_token')
    .select(['org', 'session_id', 'scopes', 'expires_at', 'digest'])
    .where('digest', '=', digest)
    .where('revoked_at', 'is', null)
    .where('expires_at', '>', sql<Date>`clock_timestamp()`)
    .executeTakeFirst();
  return row && { ...row, scopes: row.scopes as Scope[] };
}
