/** Commands that are answered once they have ended: at once, or to whoever asks again. */
import { createRoute, z } from '@hono/zod-openapi';
import { HOME } from '../../engine/computers/exec.ts';
import type { ExecSession } from '../../engine/computers/exec/session.ts';
import type { ExecRequest } from '../../engine/computers/exec/sessions.ts';
import { OverwinterError } from '../../resource/error.ts';
import { body, json, text, type Api } from '../api.ts';
import { attend } from '../socket/attend.ts';
import { V1_BODY_BYTES_MAX } from '../v1/wire.ts';
import type { Ground } from './app.ts';
import { refusals } from './error.ts';
import { awake, findSandbox } from './find.ts';
import { SandboxPath, Variables } from './wire.ts';

const TIMEOUT_S = { standard: 60, max: 86_400 };
const ARGUMENTS_MAX = 1024;

const word = text(V1_BODY_BYTES_MAX).refine((value) => !value.includes('\0'), 'must hold no NUL');
const seconds = z.int().min(0).max(TIMEOUT_S.max);

/** What a command is, however it is run. */
export const COMMAND = {
  cmd: word.min(1).openapi({ description: 'A program; without arguments, a line for the shell.' }),
  args: z.array(word).max(ARGUMENTS_MAX).optional(),
  envs: Variables.optional(),
  cwd: word
    .min(1)
    .max(4096)
    .transform((path) => (path.startsWith('/') ? path : `${HOME}/${path}`))
    .optional()
    .openapi({
      type: 'string',
      description: 'Absolute, or from the home directory on, which is the default.',
    }),
};

const Run = z
  .object({
    ...COMMAND,
    timeout: seconds
      .default(TIMEOUT_S.standard)
      .openapi({ description: 'In seconds; then its processes are killed. 0 = a day.' }),
  })
  .openapi('RunInSandbox', { example: { cmd: 'sh', args: ['-c', 'echo hello'], timeout: 60 } });

const Ended = z
  .object({
    exitCode: z.int().openapi({ description: '124 after the time limit, 137 when it was killed.' }),
    stdout: z.string(),
    stderr: z.string(),
    truncated: z.boolean().openapi({ description: 'Whether some of the output was dropped.' }),
  })
  .openapi('RunResult');

const Result = Ended.partial()
  .extend({
    running: z.boolean(),
    error: z.string().optional().openapi({ description: 'Why it has no end of its own.' }),
  })
  .openapi('ExecResultSoFar');

export const ExecPath = SandboxPath.extend({ exec_id: text(64) });

export function mountExec(api: Api, ground: Ground): void {
  mountRun(api, ground);
  mountRunAsync(api, ground);
  mountResult(api, ground);
}

function mountRun(api: Api, ground: Ground): void {
  const { admit, sessions, streams } = ground;
  api.openapi(
    createRoute({
      ...{ method: 'post', path: '/sandboxes/{sandbox_id}/exec/run', ...admit.org('write') },
      request: { params: SandboxPath, ...body(Run) },
      responses: { 200: json(Ended, 'How it ended, also when it failed.'), ...refusals },
    }),
    async (context) => {
      const caller = context.get('caller');
      const state = await awake(ground, caller, context.req.valid('param').sandbox_id);
      const { signal, leave } = attend(context.env, streams, caller);
      try {
        const session = await sessions.start(caller.org, state, requestOf(context.req.valid('json')));
        const kill = (): void => void sessions.signal(session, 9);
        signal.addEventListener('abort', kill, { once: true });
        if (signal.aborted) kill();
        const { exit_code } = await session.ended;
        const { stdout, stderr, truncated } = session.result();
        sessions.forget(session);
        return context.json({ exitCode: exit_code, stdout, stderr, truncated }, 200);
      } finally {
        leave();
      }
    },
  );
}

function mountRunAsync(api: Api, ground: Ground): void {
  api.openapi(
    createRoute({
      ...{ method: 'post', path: '/sandboxes/{sandbox_id}/exec/run-async', ...ground.admit.org('write') },
      request: { params: SandboxPath, ...body(Run) },
      responses: { 202: json(z.object({ execId: z.string() }), 'It runs, whoever hangs up.'), ...refusals },
    }),
    async (context) => {
      const { org } = context.get('caller');
      const state = await awake(ground, context.get('caller'), context.req.valid('param').sandbox_id);
      const { id } = await ground.sessions.start(org, state, requestOf(context.req.valid('json')));
      return context.json({ execId: id }, 202);
    },
  );
}

function mountResult(api: Api, ground: Ground): void {
  const { admit, sessions, computers } = ground;
  api.openapi(
    createRoute({
      ...{ method: 'get', path: '/sandboxes/{sandbox_id}/exec/{exec_id}/result', ...admit.org('read') },
      request: { params: ExecPath },
      responses: { 200: json(Result, 'Its end is remembered for ten minutes.'), ...refusals },
    }),
    async (context) => {
      const { org } = context.get('caller');
      const { sandbox_id, exec_id } = context.req.valid('param');
      const { id } = await findSandbox(ground, org, sandbox_id);
      const session = sessions.find(id, exec_id);
      if (session) return context.json(renderResult(session), 200);
      const command = await computers.history.find(org, id, exec_id);
      if (!command) throw noCommand();
      const error = `it is ${command.status}, and its output is not kept any more`;
      return context.json(
        { running: false, ...(command.exit_code !== null && { exitCode: command.exit_code }), error },
        200,
      );
    },
  );
}

/** Said alike of a command that is forgotten and of one of another sandbox. */
export function noCommand(): OverwinterError {
  return new OverwinterError('not_found', 'no such command in this sandbox; it may be forgotten');
}

function renderResult(session: ExecSession): z.infer<typeof Result> {
  const exit = session.exit();
  if (exit === null) return { running: true };
  const { stdout, stderr, truncated } = session.result();
  const error = SENTENCES[exit.error_type ?? ''];
  return {
    ...{ running: false, exitCode: exit.exit_code, stdout, stderr, truncated },
    ...(error !== undefined && { error }),
  };
}

const SENTENCES: Record<string, string | undefined> = {
  computer_lost: 'the processes of the sandbox ended under the command',
  internal: 'the command could not be run',
};

type Command = Pick<z.infer<typeof Run>, 'cmd' | 'args' | 'envs' | 'cwd'> & { timeout?: number | undefined };

function requestOf(asked: Command): ExecRequest {
  return { ...commandOf(asked), keeps: 'whole', linger_ms: null, typed: false };
}

/** Without a time limit, or with 0, it has the longest. */
export function commandOf({
  cmd,
  args = [],
  envs = {},
  cwd,
  timeout = 0,
}: Command): Pick<ExecRequest, 'cmd' | 'args' | 'env' | 'cwd' | 'timeout_ms'> {
  return { cmd, args, env: envs, cwd, timeout_ms: (timeout || TIMEOUT_S.max) * 1000 };
}

export const Seconds = seconds;
