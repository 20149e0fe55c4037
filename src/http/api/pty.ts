/** Terminals: login shells, shared with `/v1`; whoever connects again is in the same one. */
import { RESPONSE_ALREADY_SENT } from '@hono/node-server/utils/response';
import { createRoute, z } from '@hono/zod-openapi';
import { body, json, text, type Api } from '../api.ts';
import { parseTyped } from '../socket/message.ts';
import { findShell } from '../socket/shell.ts';
import type { Ground } from './app.ts';
import { refusals } from './error.ts';
import { awake, findSandbox } from './find.ts';
import { serveSocket } from './socket.ts';
import { SandboxPath } from './wire.ts';

const size = z.int().min(1).max(1000);
const Size = z
  .object({ cols: size.default(80), rows: size.default(24) })
  .openapi('PtySize', { example: { cols: 120, rows: 40 } });
const Open = z
  .object({
    ...Size.shape,
    shell: z.enum(['/bin/bash', 'bash'], 'must be /bin/bash: a terminal is a login shell').optional(),
  })
  .openapi('OpenPty', { example: { cols: 80, rows: 24 } });
const Pty = z.object({ sessionID: z.string(), sandboxID: z.string() }).openapi('Pty');
const PtyPath = SandboxPath.extend({ pty_id: text(64) });
const path = '/sandboxes/{sandbox_id}/pty';

export function mountPty(api: Api, ground: Ground): void {
  mountOpen(api, ground);
  mountOne(api, ground);
  api.all('/sandboxes/:sandbox_id/pty/:pty_id', async (context) => {
    const { sandbox_id, pty_id } = context.req.param();
    await serveSocket(context, ground, parseTyped, (org) => shellOf(ground, org, sandbox_id, pty_id));
    return RESPONSE_ALREADY_SENT;
  });
}

function mountOpen(api: Api, ground: Ground): void {
  const { admit, terminals } = ground;
  api.openapi(
    createRoute({
      ...{ method: 'post', path, ...admit.org('write') },
      request: { params: SandboxPath, ...body(Open) },
      responses: { 201: json(Pty, 'A shell; connect to it over the WebSocket of its id.'), ...refusals },
    }),
    async (context) => {
      const { org } = context.get('caller');
      const { cols, rows } = context.req.valid('json');
      const { id } = await awake(ground, context.get('caller'), context.req.valid('param').sandbox_id);
      const shell = await terminals.open(org, id, { rows, cols });
      return context.json({ sessionID: shell.id, sandboxID: id }, 201);
    },
  );
}

function mountOne(api: Api, ground: Ground): void {
  const { admit } = ground;
  api.openapi(
    createRoute({
      ...{ method: 'post', path: `${path}/{pty_id}/resize`, ...admit.org('write') },
      request: { params: PtyPath, ...body(Size) },
      responses: { 200: json(Size, 'What it is from now on.'), ...refusals },
    }),
    async (context) => {
      const { sandbox_id, pty_id } = context.req.valid('param');
      const { cols, rows } = context.req.valid('json');
      const shell = await shellOf(ground, context.get('caller').org, sandbox_id, pty_id);
      shell.resize(rows, cols);
      return context.json({ cols, rows }, 200);
    },
  );

  api.openapi(
    createRoute({
      ...{ method: 'delete', path: `${path}/{pty_id}`, ...admit.org('write') },
      request: { params: PtyPath },
      responses: { 204: { description: 'The shell has ended.' }, ...refusals },
    }),
    async (context) => {
      const { sandbox_id, pty_id } = context.req.valid('param');
      const shell = await shellOf(ground, context.get('caller').org, sandbox_id, pty_id);
      shell.end('closed');
      return context.body(null, 204);
    },
  );
}

async function shellOf(ground: Ground, org: string, sandbox_id: string, pty_id: string) {
  return findShell(ground, await findSandbox(ground, org, sandbox_id), pty_id);
}
