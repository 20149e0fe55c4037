/** What makes a repeated create the same create: its row is written by the statement that creates (store/sessions.ts, store/computer/). */
import { OverwinterError } from '../resource/error.ts';
import type { Db } from './ground/tables.ts';

export type CreateKey = {
  route: 'sessions' | 'sessions.key' | 'computers';
  key: string;
  body_sha256: Buffer;
};

/**
 * The id of what an earlier create with this key made, if any.
 * @param param the field that the key came in.
 * @throws OverwinterError `idempotency_conflict` when that create had another body.
 */
export async function findCreated(
  db: Db,
  org: string,
  { route, key, body_sha256 }: CreateKey,
  param: string,
): Promise<string | undefined> {
  const earlier = await db
    .selectFrom('idempotency')
    .select(['resource', 'body_sha256'])
    .where('org', '=', org)
    .where('route', '=', route)
    .where('key', '=', key)
    .executeTakeFirst();
  if (!earlier) return undefined;
  if (body_sha256.equals(Buffer.from(earlier.body_sha256))) return earlier.resource;
  throw new OverwinterError(
    'idempotency_conflict',
    // In the words of contract §4 for a session's key.
    `${param === 'key' ? 'create key' : param} already used with a different request`,
    param,
  );
}

/** What an earlier create with this key made, whatever its body was. */
export async function findMade(
  db: Db,
  org: string,
  route: CreateKey['route'],
  key: string,
): Promise<string | undefined> {
  const row = await db
    .selectFrom('idempotency')
    .select('resource')
    .where('org', '=', org)
    .where('route', '=', route)
    .where('key', '=', key)
    .executeTakeFirst();
  return row?.resource;
}
