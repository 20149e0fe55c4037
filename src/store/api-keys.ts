/** API keys of an org. A row holds a public id and a digest, never the key. */
import { sql } from 'kysely';
import type { Db } from './tables.ts';

export type NewApiKey = { id: string; name: string; public_id: string; digest: Uint8Array };

/** The usable key with this public id, neither revoked nor expired; whether the caller has it, only the digest says. */
export async function findApiKey(
  db: Db,
  public_id: string,
): Promise<{ id: string; org: string; digest: Uint8Array } | undefined> {
  return await db
    .selectFrom('api_key')
    .select(['id', 'org', 'digest'])
    .where('public_id', '=', public_id)
    .where('revoked_at', 'is', null)
    .where((query) =>
      query.or([query('expires_at', 'is', null), query('expires_at', '>', sql<Date>`clock_timestamp()`)]),
    )
    .executeTakeFirst();
}

/** Makes the key known unless it is; nodes that start together with one key agree. False when another key has its public id. */
export async function ensureApiKey(db: Db, org: string, key: NewApiKey): Promise<boolean> {
  await db
    .insertInto('api_key')
    .values({ ...key, org })
    .onConflict((conflict) => conflict.column('public_id').doNothing())
    .execute();
  const found = await findApiKey(db, key.public_id);
  return found !== undefined && Buffer.from(found.digest).equals(key.digest);
}
