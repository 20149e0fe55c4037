/** How the owner of a computer wants it kept: what is no part of its life, and so stands in its row instead of its log. */
import type { Db } from '../ground/tables.ts';

export type Keeping = {
  /** Unused for so long it goes to sleep; 0 = never. */
  idle_timeout_s: number;
  metadata: Record<string, string> | null;
  /** Of the token that visitors of its ports must bear; null = they need none. */
  preview_digest: Uint8Array | null;
};

export const KEPT_PLAINLY: Keeping = { idle_timeout_s: 0, metadata: null, preview_digest: null };

/** By the ids of computers of the org. */
export async function readKeeping(db: Db, org: string, ids: string[]): Promise<Map<string, Keeping>> {
  if (ids.length === 0) return new Map();
  const rows = await db
    .selectFrom('computer')
    .select(['id', 'idle_timeout_s', 'metadata', 'preview_digest'])
    .where('org', '=', org)
    .where((where) => where('id', '=', where.fn.any(where.val(ids))))
    .execute();
  return new Map(rows.map(({ id, ...keeping }) => [id, keeping as Keeping]));
}

export async function changeKeeping(
  db: Db,
  org: string,
  id: string,
  change: Partial<Pick<Keeping, 'idle_timeout_s' | 'preview_digest'>>,
): Promise<void> {
  await db.updateTable('computer').set(change).where('org', '=', org).where('id', '=', id).execute();
}

/** Whose computer it is; asked by those who bear no key. */
export async function orgOf(db: Db, id: string): Promise<string | undefined> {
  const row = await db.selectFrom('computer').select('org').where('id', '=', id).executeTakeFirst();
  return row?.org;
}

export type IdleRow = { id: string; session_id: string | null; idle_timeout_s: number };

/** Of these, those that may go to sleep by themselves: they have a time for it, or are a session's. */
export async function readIdleTimeouts(db: Db, ids: string[]): Promise<IdleRow[]> {
  if (ids.length === 0) return [];
  return await db
    .selectFrom('computer')
    .select(['id', 'session_id', 'idle_timeout_s'])
    .where((where) => where('id', '=', where.fn.any(where.val(ids))))
    .where((where) => where.or([where('idle_timeout_s', '>', 0), where('session_id', 'is not', null)]))
    .execute();
}

export type SealedEnv = { org: string; sealed: string };

/** Sealed for {org, table: 'computer_env', id, column: 'sealed'}. */
export async function readSealedEnv(db: Db, id: string): Promise<SealedEnv | undefined> {
  return await db
    .selectFrom('computer_env')
    .select(['org', 'sealed'])
    .where('id', '=', id)
    .executeTakeFirst();
}
