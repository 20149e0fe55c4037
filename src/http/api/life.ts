/** The life of a sandbox: hibernate, wake, restart, and after how long it hibernates by itself. Each is over when it answers. */
import { createRoute, z } from '@hono/zod-openapi';
import { stopComputer } from '../../engine/computers/owner.ts';
import { changeKeeping } from '../../store/computer/keeping.ts';
import { body, json, type Api } from '../api.ts';
import type { Ground } from './app.ts';
import { refusals } from './error.ts';
import { awake, findSandbox, withKeeping } from './find.ts';
import { domainOf } from '../published/host.ts';
import { renderSandbox, Sandbox, SandboxPath, Timeout } from './wire.ts';

const Hibernated = z
  .object({
    sandboxID: z.string(),
    hibernationKey: z.string().openapi({ description: 'Another after each time.' }),
    sizeBytes: z.int().openapi({ description: 'Of its files, where its driver can tell.' }),
    status: z.literal('hibernated'),
  })
  .openapi('HibernatedSandbox');

const Wake = z.object({ timeout: Timeout.optional() }).openapi('WakeSandbox', { example: { timeout: 0 } });
const SetTimeout = z.object({ timeout: Timeout }).openapi('SandboxTimeout', { example: { timeout: 600 } });

export function mountLife(api: Api, ground: Ground): void {
  mountHibernate(api, ground);
  mountWake(api, ground);
  mountTimeout(api, ground);
  for (const verb of ['reboot', 'power-cycle'] as const) mountRestart(api, ground, verb);
}

function mountHibernate(api: Api, ground: Ground): void {
  const { computers, admit } = ground;
  api.openapi(
    createRoute({
      ...{ method: 'post', path: '/sandboxes/{sandbox_id}/hibernate', ...admit.org('write') },
      request: { params: SandboxPath },
      responses: { 200: json(Hibernated, 'It keeps its files, no process and no memory.'), ...refusals },
    }),
    async (context) => {
      const { sandbox_id } = context.req.valid('param');
      const state = await findSandbox(ground, context.get('caller').org, sandbox_id);
      const usage = await computers
        .awake(state.id)
        ?.usage()
        .catch(() => undefined);
      const { id, generation } = await stopComputer(computers, state);
      const sizeBytes = usage?.disk_bytes ?? 0;
      const hibernationKey = `${id}/${generation}`;
      return context.json({ sandboxID: id, hibernationKey, sizeBytes, status: 'hibernated' } as const, 200);
    },
  );
}

function mountWake(api: Api, ground: Ground): void {
  const { runtime, admit, ports_url } = ground;
  api.openapi(
    createRoute({
      ...{ method: 'post', path: '/sandboxes/{sandbox_id}/wake', ...admit.org('write') },
      request: { params: SandboxPath, ...body(Wake) },
      responses: { 200: json(Sandbox, 'It runs.'), ...refusals },
    }),
    async (context) => {
      const { org } = context.get('caller');
      const { timeout } = context.req.valid('json');
      const state = await awake(ground, context.get('caller'), context.req.valid('param').sandbox_id);
      if (timeout !== undefined)
        await changeKeeping(runtime.database.db, org, state.id, { idle_timeout_s: timeout });
      const [found] = await withKeeping(runtime, org, [state]);
      return context.json(renderSandbox(state, found!.keeping, domainOf(ports_url())), 200);
    },
  );
}

function mountTimeout(api: Api, ground: Ground): void {
  api.openapi(
    createRoute({
      ...{ method: 'post', path: '/sandboxes/{sandbox_id}/timeout', ...ground.admit.org('write') },
      request: { params: SandboxPath, ...body(SetTimeout) },
      responses: { 204: { description: 'Counted from its last use.' }, ...refusals },
    }),
    async (context) => {
      const { org } = context.get('caller');
      const { id } = await findSandbox(ground, org, context.req.valid('param').sandbox_id);
      const { timeout } = context.req.valid('json');
      await changeKeeping(ground.runtime.database.db, org, id, { idle_timeout_s: timeout });
      return context.body(null, 204);
    },
  );
}

function mountRestart(api: Api, ground: Ground, verb: 'reboot' | 'power-cycle'): void {
  api.openapi(
    createRoute({
      ...{ method: 'post', path: `/sandboxes/{sandbox_id}/${verb}`, ...ground.admit.org('write') },
      request: { params: SandboxPath },
      responses: { 204: { description: 'Its processes are new, its files are the same.' }, ...refusals },
    }),
    async (context) => {
      const { org } = context.get('caller');
      const { sandbox_id } = context.req.valid('param');
      await stopComputer(ground.computers, await findSandbox(ground, org, sandbox_id));
      await awake(ground, context.get('caller'), sandbox_id);
      return context.body(null, 204);
    },
  );
}
