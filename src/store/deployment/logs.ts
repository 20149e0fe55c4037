/** What builds and programs of a deployment said last. One node writes what one deployment says, so the order of `seq` is that of commits. */
import { sql } from 'kysely';
import type { Db } from '../ground/tables.ts';

export type LogLine = {
  release: number;
  phase: 'build' | 'run';
  stream: 'stdout' | 'stderr' | 'system';
  text: string;
};
export type LogRow = LogLine & { seq: number; created_at: Date };

/** Rows that are kept of one deployment. */
const KEPT_MAX = 2000;

export async function appendLog(db: Db, deployment_id: string, lines: LogLine[]): Promise<void> {
  await db
    .insertInto('deployment_log')
    .values(lines.map((line) => ({ deployment_id, ...line })))
    .execute();
}

export async function pruneLog(db: Db, deployment_id: string): Promise<void> {
  const oldest = sql<number>`(select seq from deployment_log where deployment_id = ${deployment_id}
    order by seq desc offset ${KEPT_MAX} limit 1)`;
  await db
    .deleteFrom('deployment_log')
    .where('deployment_id', '=', deployment_id)
    .where('seq', '<=', oldest)
    .execute();
}

/** Oldest first. @param after exclusive; undefined = the last `limit`. */
export async function readLog(
  db: Db,
  deployment_id: string,
  page: { after: number | undefined; limit: number },
): Promise<LogRow[]> {
  const own = db.selectFrom('deployment_log').selectAll().where('deployment_id', '=', deployment_id);
  const rows =
    page.after === undefined
      ? (await own.orderBy('seq', 'desc').limit(page.limit).execute()).toReversed()
      : await own.where('seq', '>', page.after).orderBy('seq').limit(page.limit).execute();
  return rows as (LogRow & { deployment_id: string })[];
}
