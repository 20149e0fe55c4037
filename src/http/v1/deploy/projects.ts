/** Projects, under which deployments are kept (contract §8); making one is ours. */
import { createRoute, z } from '@hono/zod-openapi';
import { OverwinterError } from '../../../resource/error.ts';
import {
  ensureDefaultProject,
  insertProject,
  listProjects,
  type ProjectRow,
} from '../../../store/deployment/projects.ts';
import { body, json, limit, text, type Api } from '../../api.ts';
import { Time } from '../../wire.ts';
import type { Ground } from '../app.ts';
import { details } from '../error.ts';

const Project = z
  .object({
    ...{ id: z.string(), name: z.string(), slug: z.string(), organization_id: z.string() },
    ...{ is_default: z.boolean(), created_by: z.null(), description: z.null() },
    ...{ created_at: Time, updated_at: Time },
  })
  .openapi('Project');

const ProjectList = z.object({
  data: z.array(Project),
  ...{ total: z.int(), limit: z.int(), offset: z.int() },
});

/** Where a list begins. */
export const Skip = z
  .string()
  .regex(/^\d{1,9}$/, 'must be a whole number')
  .default('0')
  .transform(Number)
  .openapi({ type: 'integer', minimum: 0, default: 0 });

const ListQuery = z.object({ skip: Skip, limit: limit(100, 100) });

const MakeProject = z
  .object({ name: text(100).trim().min(1) })
  .openapi('MakeProject', { example: { name: 'My Project' } });

export function mountProjects(api: Api, { runtime, open }: Ground): void {
  api.openapi(
    createRoute({
      ...{ method: 'get', path: '/projects', ...open('read') },
      request: { query: ListQuery },
      responses: { 200: json(ProjectList, 'The default one first, then by age.'), ...details },
    }),
    async (context) => {
      const { org } = context.get('caller');
      const { db } = runtime.database;
      const page = context.req.valid('query');
      await ensureDefaultProject(db, org, runtime.newId('project'));
      const { projects, total } = await listProjects(db, org, page);
      const list = { data: projects.map(render), total, limit: page.limit, offset: page.skip };
      return context.json(list, 200);
    },
  );

  api.openapi(
    createRoute({
      ...{ method: 'post', path: '/projects', ...open('write') },
      request: body(MakeProject),
      responses: { 201: json(Project, 'The project.'), ...details },
    }),
    async (context) => {
      const { org } = context.get('caller');
      const { db } = runtime.database;
      const { name } = context.req.valid('json');
      await ensureDefaultProject(db, org, runtime.newId('project'));
      const made = await insertProject(db, { id: runtime.newId('project'), org, name });
      if (!made) throw new OverwinterError('conflict', `there is a project "${name}" already`, 'name');
      return context.json(render(made), 201);
    },
  );
}

function render({ id, org, name, is_default, created_at }: ProjectRow): z.infer<typeof Project> {
  const slug = name
    .toLowerCase()
    .replaceAll(/[^a-z0-9]+/g, '-')
    .replaceAll(/^-|-$/g, '');
  const time = created_at.toISOString();
  return {
    ...{ id, name, slug, organization_id: org, is_default, created_by: null, description: null },
    ...{ created_at: time, updated_at: time },
  };
}
