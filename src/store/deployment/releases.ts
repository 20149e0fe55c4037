/**
 * Releases: one upload each, with its settings and sealed variables. A release is `receiving` from before its first byte is kept, so
 * what a crash leaves of an upload is known; recorded, it has a deployment and a number.
 */
import { sql } from 'kysely';
import type { ReleaseSettings, ReleaseStatus } from '../../resource/deployment.ts';
import type { Db } from '../ground/tables.ts';
import type { DeploymentRow } from './deployments.ts';

export type ReleaseRow = {
  id: string;
  org: string;
  machine: string;
  deployment_id: string;
  number: number;
  status: ReleaseStatus;
  settings: ReleaseSettings;
  env_names: string[];
  attempts: number;
  computer_id: string | null;
  port: number | null;
  created_at: Date;
};

/** The intent: its files are about to be kept. */
export async function beginRelease(
  db: Db,
  release: Pick<ReleaseRow, 'id' | 'org' | 'machine'>,
): Promise<void> {
  await db.insertInto('release').values(release).execute();
}

/** Whether it was never recorded. */
export async function isReceiving(db: Db, id: string): Promise<boolean> {
  const row = await db.selectFrom('release').select('status').where('id', '=', id).executeTakeFirst();
  return row?.status === 'receiving';
}

/** Forgets one that was never recorded. */
export async function dropRelease(db: Db, id: string): Promise<void> {
  await db.deleteFrom('release').where('id', '=', id).where('status', '=', 'receiving').execute();
}

/** Those that no node can be receiving any more. */
export async function listAbandoned(db: Db, machine: string, alive_since: Date): Promise<string[]> {
  const rows = await db
    .selectFrom('release')
    .select('id')
    .where('machine', '=', machine)
    .where('status', '=', 'receiving')
    .where('created_at', '<', alive_since)
    .execute();
  return rows.map(({ id }) => id);
}

export type Recording = {
  release: { id: string; settings: ReleaseSettings; env_names: string[]; sealed_env: string };
  deployment: Pick<DeploymentRow, 'id' | 'org' | 'name' | 'machine'> & {
    /** Undefined = as it was. */
    description: string | undefined;
    /** The same; the other is for a new one. */
    project_id: string | undefined;
    default_project_id: string;
  };
};

/**
 * Makes the release the newest of its deployment, which is made where there is none of the name; all or nothing. A deployment stays
 * with its machine while a node of that is alive. Undefined when the deployment is being deleted.
 */
export async function recordRelease(
  db: Db,
  { release, deployment }: Recording,
): Promise<DeploymentRow | undefined> {
  const { id, org, project_id, default_project_id, name, machine, description } = deployment;
  const { rows } = await sql<DeploymentRow>`
    with d as (
      insert into deployment as old (id, org, project_id, name, description, machine, releases)
      values (${id}, ${org}, ${project_id ?? default_project_id}, ${name}, ${description ?? ''}, ${machine}, 1)
      on conflict (org, name) do update set
        wanted = 'running', asked = old.asked + 1, releases = old.releases + 1, broken = false, last_error = null,
        description = coalesce(${description ?? null}::text, old.description), project_id = coalesce(${project_id ?? null}::text, old.project_id),
        updated_at = clock_timestamp(),
        machine = case
          when exists (select from node where node.machine = old.machine and alive_until > clock_timestamp())
          then old.machine else excluded.machine end
      where old.wanted <> 'deleted'
      returning *
    ), r as (
      update release set deployment_id = d.id, number = d.releases, status = 'enqueued', machine = d.machine,
        settings = ${JSON.stringify(release.settings)}::json, env_names = ${release.env_names}::text[]
      from d where release.id = ${release.id} and release.status = 'receiving'
    ), e as (
      insert into release_env (id, org, sealed) select ${release.id}, org, ${release.sealed_env} from d
    )
    select * from d`.execute(db);
  return rows[0];
}

/** Newest first. */
export async function listReleases(db: Db, deployment_id: string): Promise<ReleaseRow[]> {
  return await selectReleases(db)
    .where('deployment_id', '=', deployment_id)
    .orderBy('number', 'desc')
    .execute();
}

/** The newest of each, and those that serve. */
export async function readCurrent(
  db: Db,
  deployments: Pick<DeploymentRow, 'id' | 'serving'>[],
): Promise<ReleaseRow[]> {
  const serving = deployments.flatMap((each) => each.serving ?? []);
  const ids = deployments.map(({ id }) => id);
  return await selectReleases(db)
    .where((where) => where('deployment_id', '=', where.fn.any(where.val(ids))))
    .where((where) =>
      where.or([
        where('id', '=', where.fn.any(where.val(serving))),
        where('number', '=', (from) =>
          from
            .selectFrom('deployment')
            .select('releases')
            .whereRef('deployment.id', '=', 'release.deployment_id'),
        ),
      ]),
    )
    .execute();
}

/** Counts the attempt before it is made. */
export async function beginBuild(db: Db, id: string): Promise<void> {
  await db
    .updateTable('release')
    .set({ status: 'building', attempts: sql<number>`attempts + 1` })
    .where('id', '=', id)
    .execute();
}

/** One that was called off has not been tried. */
export async function callOffBuild(db: Db, id: string): Promise<void> {
  await db
    .updateTable('release')
    .set({ attempts: sql<number>`greatest(attempts - 1, 0)` })
    .where('id', '=', id)
    .where('status', '=', 'building')
    .execute();
}

/** It has failed, and why; of no effect on one that serves by now. */
export async function failRelease(
  db: Db,
  { id, deployment_id }: Pick<ReleaseRow, 'id' | 'deployment_id'>,
  last_error: string,
): Promise<void> {
  await db
    .with('failed', (query) =>
      query
        .updateTable('release')
        .set({ status: 'failed' })
        .where('id', '=', id)
        .where('status', 'in', ['enqueued', 'building'])
        .returning('id'),
    )
    .updateTable('deployment')
    .set({ last_error, updated_at: sql<Date>`clock_timestamp()` })
    .where('id', '=', deployment_id)
    .where((where) => where.exists(where.selectFrom('failed').select('id')))
    .execute();
}

export async function changeRelease(
  db: Db,
  id: string,
  change: Partial<Pick<ReleaseRow, 'status' | 'computer_id' | 'port'>>,
): Promise<void> {
  await db.updateTable('release').set(change).where('id', '=', id).execute();
}

/** Of one that serves no more; nothing else of it is left by then. */
export async function deleteRelease(db: Db, id: string): Promise<void> {
  await db
    .with('env', (query) => query.deleteFrom('release_env').where('id', '=', id))
    .deleteFrom('release')
    .where('id', '=', id)
    .execute();
}

/** From now on visitors reach this release; the one before it is retired. */
export async function switchTo(
  db: Db,
  { id, deployment_id, port }: Pick<ReleaseRow, 'id' | 'deployment_id'> & { port: number },
): Promise<void> {
  await db
    .with('before', (query) =>
      query
        .updateTable('release')
        .set({ status: 'retired' })
        .where('deployment_id', '=', deployment_id)
        .where('id', '<>', id)
        .where('status', '=', 'ready'),
    )
    .with('now', (query) => query.updateTable('release').set({ status: 'ready', port }).where('id', '=', id))
    .updateTable('deployment')
    .set({
      ...{ serving: id, broken: false, last_error: null },
      ...{ deployed_at: sql<Date>`clock_timestamp()`, updated_at: sql<Date>`clock_timestamp()` },
    })
    .where('id', '=', deployment_id)
    .execute();
}

/** Sealed for {org, table: 'release_env', id, column: 'sealed'}. */
export async function readReleaseEnv(
  db: Db,
  id: string,
): Promise<{ org: string; sealed: string } | undefined> {
  return await db.selectFrom('release_env').select(['org', 'sealed']).where('id', '=', id).executeTakeFirst();
}

function selectReleases(db: Db) {
  return db.selectFrom('release').selectAll().where('deployment_id', 'is not', null).$castTo<ReleaseRow>();
}
