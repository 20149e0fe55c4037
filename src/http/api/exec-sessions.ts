/** Commands that one looks at and types into while they run: over a WebSocket, as often as one likes. */
import { RESPONSE_ALREADY_SENT } from '@hono/node-server/utils/response';
import { createRoute, z } from '@hono/zod-openapi';
import type { ExecSession } from '../../engine/computers/exec/session.ts';
import { body, json, type Api } from '../api.ts';
import { parseStdin } from '../socket/message.ts';
import { Time } from '../wire.ts';
import type { Ground } from './app.ts';
import { refusals } from './error.ts';
import { COMMAND, commandOf, ExecPath, noCommand, Seconds } from './exec.ts';
import { awake, findSandbox } from './find.ts';
import { serveSocket } from './socket.ts';
import { SandboxPath } from './wire.ts';

const Start = z
  .object({
    ...COMMAND,
    timeout: Seconds.optional().openapi({ description: 'In seconds, a day at most and by default.' }),
    maxRunAfterDisconnect: Seconds.optional().openapi({
      description: 'In seconds: so long it goes on when nobody looks any more. Absent or 0 = to its end.',
    }),
  })
  .openapi('StartInSandbox', { example: { cmd: 'cat' } });

const Session = z
  .object({
    sessionID: z.string(),
    sandboxID: z.string(),
    command: z.string(),
    args: z.array(z.string()),
    running: z.boolean(),
    exitCode: z.int().optional(),
    startedAt: Time,
    attachedClients: z.int(),
  })
  .openapi('ExecSession');

const Kill = z
  .object({ signal: z.int().min(1).max(64).default(9) })
  .openapi('KillInSandbox', { example: { signal: 15 } });

const path = '/sandboxes/{sandbox_id}/exec';

export function mountExecSessions(api: Api, ground: Ground): void {
  mountStart(api, ground);
  mountKill(api, ground);
  const { streams, sessions } = ground;
  streams.signal.addEventListener('abort', sessions.close, { once: true });
  api.all('/sandboxes/:sandbox_id/exec/:exec_id', async (context) => {
    const { sandbox_id, exec_id } = context.req.param();
    await serveSocket(context, ground, parseStdin, async (org) => {
      const { id } = await findSandbox(ground, org, sandbox_id);
      const session = sessions.find(id, exec_id);
      if (!session) throw noCommand();
      return session;
    });
    return RESPONSE_ALREADY_SENT;
  });
}

function mountStart(api: Api, ground: Ground): void {
  const { admit, sessions } = ground;
  api.openapi(
    createRoute({
      ...{ method: 'post', path, ...admit.org('write') },
      request: { params: SandboxPath, ...body(Start) },
      responses: { 201: json(Session, 'It runs; look at it over the WebSocket of its id.'), ...refusals },
    }),
    async (context) => {
      const { org } = context.get('caller');
      const asked = context.req.valid('json');
      const state = await awake(ground, context.get('caller'), context.req.valid('param').sandbox_id);
      const linger_ms = asked.maxRunAfterDisconnect ? asked.maxRunAfterDisconnect * 1000 : null;
      const request = { ...commandOf(asked), keeps: 'end', linger_ms, typed: true } as const;
      return context.json(render(await sessions.start(org, state, request)), 201);
    },
  );

  api.openapi(
    createRoute({
      ...{ method: 'get', path, ...admit.org('read') },
      request: { params: SandboxPath },
      responses: {
        200: json(z.array(Session), 'Those that run, and those of the last ten minutes but `exec/run`.'),
        ...refusals,
      },
    }),
    async (context) => {
      const { sandbox_id } = context.req.valid('param');
      const { id } = await findSandbox(ground, context.get('caller').org, sandbox_id);
      return context.json(sessions.list(id).map(render), 200);
    },
  );
}

function mountKill(api: Api, ground: Ground): void {
  const { admit, sessions } = ground;
  api.openapi(
    createRoute({
      ...{ method: 'post', path: `${path}/{exec_id}/kill`, ...admit.org('write') },
      request: { params: ExecPath, ...body(Kill) },
      responses: { 204: { description: 'All its processes have the signal, or have ended.' }, ...refusals },
    }),
    async (context) => {
      const { sandbox_id, exec_id } = context.req.valid('param');
      const { id } = await findSandbox(ground, context.get('caller').org, sandbox_id);
      const session = sessions.find(id, exec_id);
      if (!session) throw noCommand();
      await sessions.signal(session, context.req.valid('json').signal);
      return context.body(null, 204);
    },
  );
}

function render(session: ExecSession): z.infer<typeof Session> {
  const { id, computer, command, args, started_at } = session;
  const exit = session.exit();
  return {
    ...{ sessionID: id, sandboxID: computer, command, args, running: exit === null },
    ...(exit && { exitCode: exit.exit_code }),
    ...{ startedAt: started_at.toISOString(), attachedClients: session.clients() },
  };
}
