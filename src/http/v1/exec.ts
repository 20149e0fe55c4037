/**
 * Commands in a computer (contract §5): answered as a whole, or streamed. Invariant: a command lives no longer than its caller's
 * connection and key.
 */
import { RESPONSE_ALREADY_SENT } from '@hono/node-server/utils/response';
import { createRoute, z } from '@hono/zod-openapi';
import type { Context } from 'hono';
import { collect, runCommand, type RunningCommand } from '../../engine/computers/exec.ts';
import { createRoom, shareOf, type Room } from '../../engine/computers/exec/room.ts';
import { getComputer, startComputer } from '../../engine/computers/owner.ts';
import { body, json, text, type Api, type Env } from '../api.ts';
import type { Caller } from '../authorize.ts';
import { corsHeaders } from '../cors.ts';
import { attend } from '../socket/attend.ts';
import type { Ground } from './app.ts';
import { details } from './error.ts';
import { answerInPieces, isShort, renderShort, SHORT_BYTES } from './exec-answer.ts';
import { streamCommand } from './exec-stream.ts';
import { ComputerPath, V1_BODY_BYTES_MAX } from './wire.ts';

/** Of long answers that wait to be taken: a command without room has less output. */
const ORG_BYTES_MIN = 128 * 1024 * 1024;
const ORGS_MAX = 8;
const TIMEOUT_S = { max: 300, standard: 30 };

const Exec = z
  .object({
    command: text(V1_BODY_BYTES_MAX).min(1).openapi({ description: 'A bash script.' }),
    timeout: z
      .int()
      .min(1)
      .max(TIMEOUT_S.max)
      .nullish()
      .openapi({
        description: `In seconds, ${TIMEOUT_S.standard} unless told; then its processes are killed.`,
      }),
  })
  .openapi('Exec', { example: { command: 'echo hello', timeout: 30 } });

const ExecResult = z
  .object({
    exit_code: z.int().openapi({ description: '124 after the time limit, 137 when it was killed.' }),
    stdout: z.string(),
    stderr: z.string(),
    command_id: z.string(),
    duration_ms: z.int(),
    timed_out: z.boolean(),
    truncated: z.boolean().openapi({ description: 'Whether some of the output was dropped.' }),
    error_type: z
      .string()
      .nullable()
      .openapi({ description: '`timeout`, `aborted`, `out_of_memory`, `computer_lost`, or null.' }),
  })
  .openapi('ExecResult');

const ExecQuery = z.object({
  resume: z
    .enum(['true', 'false'])
    .optional()
    .openapi({ description: '`true` starts a stopped computer first.' }),
});

const request = { ...body(Exec), params: ComputerPath, query: ExecQuery };

export function mountExec(api: Api, ground: Ground): void {
  const { open, streams, runtime } = ground;
  let room: Room | undefined;
  api.openapi(
    createRoute({
      method: 'post',
      path: '/computers/{computer_id}/exec',
      ...open('write'),
      request,
      responses: {
        200: json(ExecResult, 'How it ended, also when it failed. Spaces may come before it.'),
        ...details,
      },
    }),
    async (context) => {
      const bytes_max = runtime.settings.computers.exec_output_bytes_max;
      room ??= roomFor(bytes_max);
      const asked = { ...context.req.valid('json'), ...context.req.valid('query') };
      const { computer_id } = context.req.valid('param');
      const { command, signal, leave } = await begin(context, ground, computer_id, { ...asked, bytes_max });
      const share = shareOf(room, context.get('caller').org, SHORT_BYTES);
      const over = (): void => {
        share.giveAll();
        leave();
      };
      const result = collect(command, share.take);
      const early = await within(result, streams.keepalive_ms).catch((error: unknown) => {
        over();
        throw error;
      });
      if (early && isShort(early)) {
        over();
        return context.json(renderShort(early), 200);
      }
      void answerInPieces(context.env.outgoing, headersOf(context), result, { ...streams, signal }).finally(
        over,
      );
      return RESPONSE_ALREADY_SENT as never;
    },
  );

  api.openapi(
    createRoute({
      method: 'post',
      path: '/computers/{computer_id}/exec/stream',
      ...open('write'),
      request,
      responses: {
        200: {
          description: 'Lines of `data: <JSON>`: `started`, then `stdout` and `stderr`, at last `exit`.',
          content: { 'text/event-stream': { schema: z.string() } },
        },
        ...details,
      },
    }),
    async (context) => {
      const asked = { ...context.req.valid('json'), ...context.req.valid('query') };
      const { computer_id } = context.req.valid('param');
      const unbounded = { ...asked, bytes_max: Number.MAX_SAFE_INTEGER };
      const { command, leave, signal } = await begin(context, ground, computer_id, unbounded);
      void streamCommand(context.env.outgoing, {
        ...{ command, signal, headers: headersOf(context), timeout_seconds: secondsOf(asked) },
        ...{ keepalive_ms: streams.keepalive_ms, stall_ms: streams.stall_ms },
        warn: (fields, message) => runtime.logger.warn(fields, message),
      }).finally(leave);
      return RESPONSE_ALREADY_SENT;
    },
  );
}

/** @param bytes_max of one stream of one command. */
function roomFor(bytes_max: number): Room {
  const org_bytes_max = Math.max(ORG_BYTES_MIN, 2 * bytes_max);
  return createRoom({ org_bytes_max, node_bytes_max: ORGS_MAX * org_bytes_max }, () => false);
}

type Asked = z.infer<typeof Exec> & z.infer<typeof ExecQuery> & { bytes_max: number };
type Begun = { command: RunningCommand; signal: AbortSignal; leave: () => void };
type ExecContext = Context<Env & { Variables: { caller: Caller } }>;

/** `leave` gives back what the command holds of the caller's limits. */
async function begin(context: ExecContext, ground: Ground, name: string, asked: Asked): Promise<Begun> {
  const { runtime, computers, streams, auto_resume } = ground;
  const caller = context.get('caller');
  const found = await getComputer(runtime, caller.org, name);
  const { signal, leave } = attend(context.env, streams, caller);
  try {
    const resumes = found.status === 'stopped' && (auto_resume || asked.resume === 'true');
    const computer = resumes ? await startComputer(runtime, computers, found) : found;
    const command = await runCommand(runtime, computers, caller.org, computer, {
      ...{ script: asked.command, timeout_ms: secondsOf(asked) * 1000, source: 'api' },
      ...{ signal, output_bytes_max: asked.bytes_max },
    });
    return { command, signal, leave };
  } catch (error) {
    leave();
    throw error;
  }
}

function secondsOf({ timeout }: Pick<Asked, 'timeout'>): number {
  return timeout ?? TIMEOUT_S.standard;
}

/** A stream bypasses what else sets them. */
function headersOf(context: ExecContext): Record<string, string> {
  const { request_id, trace_id } = context.var;
  return {
    ...corsHeaders(context.req.header('origin')),
    ...{ 'x-request-id': request_id, 'x-trace-id': trace_id },
  };
}

/** What it resolves to, or undefined when that takes longer. */
async function within<T>(promise: Promise<T>, ms: number): Promise<T | undefined> {
  const late = Promise.withResolvers<undefined>();
  const timer = setTimeout(() => late.resolve(undefined), ms);
  return await Promise.race([promise, late.promise]).finally(() => clearTimeout(timer));
}
