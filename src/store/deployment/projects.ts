/** Projects: names under which an org keeps its deployments. Each org has a default one from its first use on. */
import type { Db } from '../ground/tables.ts';

export type ProjectRow = { id: string; org: string; name: string; is_default: boolean; created_at: Date };

const DEFAULT_NAME = 'default';

/** @param proposed_id of the org's default project, where it has none yet. */
export async function ensureDefaultProject(db: Db, org: string, proposed_id: string): Promise<void> {
  await db
    .insertInto('project')
    .values({ id: proposed_id, org, name: DEFAULT_NAME, is_default: true })
    .onConflict((conflict) => conflict.doNothing())
    .execute();
}

/** Undefined when the name is taken. */
export async function insertProject(
  db: Db,
  project: Pick<ProjectRow, 'id' | 'org' | 'name'>,
): Promise<ProjectRow | undefined> {
  return await db
    .insertInto('project')
    .values(project)
    .onConflict((conflict) => conflict.columns(['org', 'name']).doNothing())
    .returningAll()
    .executeTakeFirst();
}

/** The default one first, then by age. */
export async function listProjects(
  db: Db,
  org: string,
  page: { skip: number; limit: number },
): Promise<{ projects: ProjectRow[]; total: number }> {
  const own = db.selectFrom('project').where('org', '=', org);
  const { total } = await own
    .select((query) => query.fn.countAll<number>().as('total'))
    .executeTakeFirstOrThrow();
  const projects = await own
    .selectAll()
    .orderBy('is_default', 'desc')
    .orderBy('id')
    .offset(page.skip)
    .limit(page.limit)
    .execute();
  return { projects, total };
}

/** The default project where no id is given. */
export async function findProject(
  db: Db,
  org: string,
  id: string | undefined,
): Promise<ProjectRow | undefined> {
  const own = db.selectFrom('project').selectAll().where('org', '=', org);
  return await (
    id === undefined ? own.where('is_default', '=', true) : own.where('id', '=', id)
  ).executeTakeFirst();
}
