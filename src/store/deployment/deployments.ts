/**
 * Deployments as rows. `asked` rises with every wish and `done` follows when it is carried out, so whoever looks after a machine's
 * deployments finds what is left to do, also after a crash.
 */
import { sql } from 'kysely';
import type { Wanted } from '../../resource/deployment.ts';
import type { Db } from '../ground/tables.ts';

export type DeploymentRow = {
  id: string;
  org: string;
  project_id: string;
  name: string;
  description: string;
  machine: string;
  wanted: Wanted;
  asked: number;
  done: number;
  /** How many releases there have been. */
  releases: number;
  /** The release that visitors reach. */
  serving: string | null;
  broken: boolean;
  last_error: string | null;
  created_at: Date;
  updated_at: Date;
  deployed_at: Date | null;
};

/** By id, or else by name. */
export async function findDeployment(
  db: Db,
  org: string,
  id_or_name: string,
): Promise<DeploymentRow | undefined> {
  const row = await db
    .selectFrom('deployment')
    .selectAll()
    .where('org', '=', org)
    .where((where) => where.or([where('id', '=', id_or_name), where('name', '=', id_or_name)]))
    .orderBy((order) => order.case().when('id', '=', id_or_name).then(0).else(1).end())
    .executeTakeFirst();
  return row as DeploymentRow | undefined;
}

/** Asked by the node that looks after it. */
export async function readDeployment(db: Db, id: string): Promise<DeploymentRow | undefined> {
  const row = await db.selectFrom('deployment').selectAll().where('id', '=', id).executeTakeFirst();
  return row as DeploymentRow | undefined;
}

/** Newest first. */
export async function listDeployments(
  db: Db,
  org: string,
  page: { limit: number; skip: number; project_id?: string | undefined },
): Promise<DeploymentRow[]> {
  let query = db
    .selectFrom('deployment')
    .selectAll()
    .where('org', '=', org)
    .where('wanted', '<>', 'deleted')
    .orderBy('id', 'desc')
    .offset(page.skip)
    .limit(page.limit);
  if (page.project_id !== undefined) query = query.where('project_id', '=', page.project_id);
  return (await query.execute()) as DeploymentRow[];
}

export async function countDeployments(db: Db, org: string): Promise<number> {
  const { count } = await db
    .selectFrom('deployment')
    .select((query) => query.fn.countAll<number>().as('count'))
    .where('org', '=', org)
    .executeTakeFirstOrThrow();
  return count;
}

/** A new wish. Undefined when it is being deleted, or is gone. A wish to run forgives what had broken. */
export async function wish(db: Db, id: string, wanted: Wanted): Promise<DeploymentRow | undefined> {
  const row = await db
    .updateTable('deployment')
    .set({
      wanted,
      asked: sql<number>`asked + 1`,
      updated_at: sql<Date>`clock_timestamp()`,
      ...(wanted === 'running' && {
        broken: false,
        // Why the newest release failed stays true.
        last_error: sql<string | null>`case when broken then null else last_error end`,
      }),
    })
    .where('id', '=', id)
    .where((where) => (wanted === 'deleted' ? where.lit(true) : where('wanted', '<>', 'deleted')))
    .returningAll()
    .executeTakeFirst();
  return row as DeploymentRow | undefined;
}

/** What was asked for up to `asked` is carried out. */
export async function settleWish(db: Db, id: string, asked: number): Promise<void> {
  await db.updateTable('deployment').set({ done: asked }).where('id', '=', id).execute();
}

/** Of the machine: those with something left to do, and, at a node's start, those that are to run. */
export async function listOwed(db: Db, machine: string, and_running: boolean): Promise<string[]> {
  const rows = await db
    .selectFrom('deployment')
    .select('id')
    .where('machine', '=', machine)
    .where((where) =>
      where.or([
        where('asked', '<>', where.ref('done')),
        ...(and_running ? [where('wanted', '=', 'running')] : []),
      ]),
    )
    .orderBy('id')
    .execute();
  return rows.map(({ id }) => id);
}

/** Takes over what is to be deleted of machines that have been away for so long. */
export async function adoptDeleted(db: Db, machine: string, grace_ms: number): Promise<void> {
  await db
    .updateTable('deployment')
    .set({ machine })
    .where('machine', '<>', machine)
    .where('wanted', '=', 'deleted')
    .where((where) =>
      where.not(
        where.exists(
          where
            .selectFrom('node')
            .select('node.id')
            .whereRef('node.machine', '=', 'deployment.machine')
            .where('alive_until', '>', sql<Date>`clock_timestamp() - ${grace_ms} * interval '1 ms'`),
        ),
      ),
    )
    .execute();
}

/** Why the release that serves does not run; of no effect where another serves by now, or it is another machine's. */
export async function noteRest(
  db: Db,
  of: { id: string; serving: string; machine: string },
  trouble: { last_error: string; broken?: true; wanted?: 'stopped' },
): Promise<void> {
  await db
    .updateTable('deployment')
    .set({ ...trouble, updated_at: sql<Date>`clock_timestamp()` })
    .where('id', '=', of.id)
    .where('serving', '=', of.serving)
    .where('machine', '=', of.machine)
    .where('wanted', '=', 'running')
    .execute();
}

/** With all that was known of it; nothing else of it is left by then. */
export async function deleteDeployment(db: Db, id: string): Promise<void> {
  await db
    .with('of', (query) => query.selectFrom('release').select('id').where('deployment_id', '=', id))
    .with('env', (query) =>
      query.deleteFrom('release_env').where('id', 'in', (from) => from.selectFrom('of').select('id')),
    )
    .with('said', (query) => query.deleteFrom('deployment_log').where('deployment_id', '=', id))
    .with('released', (query) => query.deleteFrom('release').where('deployment_id', '=', id))
    .deleteFrom('deployment')
    .where('id', '=', id)
    .execute();
}
