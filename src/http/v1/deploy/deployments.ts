/** Deployments (contract §8): upload, list, read, ask; stop, start, deploy again and delete are ours. */
import { createRoute, z } from '@hono/zod-openapi';
import { askAgent } from '../../../engine/deployments/ask.ts';
import {
  discardUpload,
  receiveUpload,
  recordAgain,
  recordUpload,
} from '../../../engine/deployments/upload.ts';
import { FIELD } from '../../../bundle/entry.ts';
import { OverwinterError } from '../../../resource/error.ts';
import {
  findDeployment,
  listDeployments,
  type DeploymentRow,
} from '../../../store/deployment/deployments.ts';
import { readCurrent } from '../../../store/deployment/releases.ts';
import { body, json, limit, text, type Api } from '../../api.ts';
import { attend } from '../../socket/attend.ts';
import type { Ground } from '../app.ts';
import { details } from '../error.ts';
import { readForm } from './form.ts';
import {
  AppPath,
  Deployment,
  DeploymentConfig,
  DeploymentForm,
  manifestOf,
  renderDeployment,
  splitConfig,
} from './wire.ts';
import { Skip } from './projects.ts';

const ListQuery = z.object({ skip: Skip, limit: limit(20, 200), project_id: text(64).optional() });

const Again = z
  .object({ config: DeploymentConfig.optional() })
  .openapi('DeployAgain', { example: { config: { env: { LOG_LEVEL: 'debug' } } } });

const Question = z
  .object({
    id: text(100).min(1).openapi({ description: 'The id or the name of a deployment.' }),
    input: z.unknown().openapi({ description: 'Passed to `POST /chat` of the app as `input`.' }),
  })
  .openapi('AskAgent', { example: { id: 'weather-bot', input: 'Will it rain?' } });

const one = json(Deployment, 'The deployment.');

export function mountDeployments(api: Api, ground: Ground): void {
  mountUpload(api, ground);
  mountReads(api, ground);
  mountDoing(api, ground);
  mountAgain(api, ground);
  mountQuestion(api, ground);
}

function mountUpload(api: Api, ground: Ground): void {
  const { runtime, deployments, streams } = ground;
  api.openapi(
    createRoute({
      ...{ method: 'post', path: '/deploy/agent', ...ground.upload('write') },
      request: { body: { required: true, content: { 'multipart/form-data': { schema: DeploymentForm } } } },
      responses: {
        201: json(
          Deployment,
          'Recorded; a deployment of this name serves on until the new release is healthy.',
        ),
        ...details,
      },
    }),
    async (context) => {
      const caller = context.get('caller');
      const { bundle_bytes_max } = runtime.settings.deployments;
      const { leave } = attend(context.env, streams, caller);
      let received: { id: string; size: number } | undefined;
      try {
        const { fields, file } = await readForm(context.env.incoming, FIELD, async (bytes) => {
          received = await receiveUpload(runtime, caller.org, bytes, bundle_bytes_max);
          return received;
        });
        if (!file) throw new OverwinterError('invalid', `"${FIELD}": a file is required`, FIELD);
        const manifest = manifestOf(fields);
        received = undefined;
        const { deployment, left_out } = await recordUpload(runtime, caller.org, file, manifest);
        deployments.nudge(deployment, left_out);
        return context.json(await render(ground, deployment), 201);
      } finally {
        leave();
        if (received) await discardUpload(runtime, received.id);
        if (!context.env.incoming.readableEnded) context.header('connection', 'close');
      }
    },
  );
}

function mountReads(api: Api, ground: Ground): void {
  const { runtime, open } = ground;
  api.openapi(
    createRoute({
      ...{ method: 'get', path: '/deploy/apps', ...open('read') },
      request: { query: ListQuery },
      responses: { 200: json(z.array(Deployment), 'Newest first.'), ...details },
    }),
    async (context) => {
      const page = context.req.valid('query');
      const rows = await listDeployments(runtime.database.db, context.get('caller').org, page);
      return context.json(await renderAll(ground, rows), 200);
    },
  );

  for (const path of ['/deploy/apps/{app_name}', '/deploy/apps/{app_name}/status'] as const)
    api.openapi(
      createRoute({
        ...{ method: 'get', path, ...open('read') },
        request: { params: AppPath },
        responses: { 200: one, ...details },
      }),
      async (context) => {
        const row = await find(ground, context.get('caller').org, context.req.valid('param').app_name);
        return context.json(await render(ground, row), 200);
      },
    );
}

/** Each is over when it answers. */
function mountDoing(api: Api, ground: Ground): void {
  const { deployments } = ground;
  const doings = [
    ['post', '/deploy/apps/{app_name}/stop', 'stop'],
    ['post', '/deploy/apps/{app_name}/start', 'start'],
    ['delete', '/deploy/apps/{app_name}', 'remove'],
  ] as const;
  for (const [method, path, act] of doings)
    api.openapi(
      createRoute({
        ...{ method, path, ...ground.open('write') },
        request: { params: AppPath },
        responses: { 200: one, ...details },
      }),
      async (context) => {
        const { org } = context.get('caller');
        const row = await find(ground, org, context.req.valid('param').app_name);
        const before = await render(ground, row);
        await deployments[act](row);
        const after = await findDeployment(ground.runtime.database.db, org, row.id);
        const gone = { ...before, status: 'STOPPED', url: null } as const;
        return context.json(after ? await render(ground, after) : gone, 200);
      },
    );
}

function mountAgain(api: Api, ground: Ground): void {
  api.openapi(
    createRoute({
      ...{ method: 'post', path: '/deploy/apps/{app_name}/redeploy', ...ground.open('write') },
      request: { params: AppPath, body: { ...body(Again).body, required: false } },
      responses: {
        200: json(Deployment, 'The files of the newest release, built and started anew.'),
        ...details,
      },
    }),
    async (context) => {
      const row = await find(ground, context.get('caller').org, context.req.valid('param').app_name);
      const { config } = context.req.valid('json') ?? {};
      const after = await recordAgain(ground.runtime, row, splitConfig(config));
      ground.deployments.nudge(after);
      return context.json(await render(ground, after), 200);
    },
  );
}

function mountQuestion(api: Api, ground: Ground): void {
  const { runtime, computers, streams } = ground;
  api.openapi(
    createRoute({
      ...{ method: 'post', path: '/deploy/agents/run', ...ground.open('write') },
      request: body(Question),
      responses: { 200: json(z.string(), 'What the app answered.'), ...details },
    }),
    async (context) => {
      const caller = context.get('caller');
      const { id, input } = context.req.valid('json');
      const row = await find(ground, caller.org, id);
      const { leave } = attend(context.env, streams, caller);
      const answer = await askAgent(runtime, computers, row, input).finally(leave);
      return context.json(answer, 200);
    },
  );
}

/** @throws OverwinterError `not_found` */
async function find({ runtime }: Ground, org: string, name: string): Promise<DeploymentRow> {
  const row = await findDeployment(runtime.database.db, org, name);
  if (!row) throw new OverwinterError('not_found', `no deployment "${name}"`);
  return row;
}

async function render(ground: Ground, row: DeploymentRow): Promise<z.infer<typeof Deployment>> {
  const [rendered] = await renderAll(ground, [row]);
  return rendered!;
}

async function renderAll(
  { runtime, deployment_url }: Ground,
  rows: DeploymentRow[],
): Promise<z.infer<typeof Deployment>[]> {
  const releases = await readCurrent(runtime.database.db, rows);
  return rows.map((row) => renderDeployment(row, releases, deployment_url));
}
