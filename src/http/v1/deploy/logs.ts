/** What a deployment says: the last of it as a page, or from a cursor on as it comes (ours: the contract has none). */
import type { ServerResponse } from 'node:http';
import { setTimeout as delay } from 'node:timers/promises';
import { RESPONSE_ALREADY_SENT } from '@hono/node-server/utils/response';
import { createRoute, z } from '@hono/zod-openapi';
import { OverwinterError } from '../../../resource/error.ts';
import { findDeployment } from '../../../store/deployment/deployments.ts';
import { readLog, type LogRow } from '../../../store/deployment/logs.ts';
import { json, limit, type Api } from '../../api.ts';
import { corsHeaders } from '../../cors.ts';
import { attend } from '../../socket/attend.ts';
import { drained } from '../../sse.ts';
import { Time } from '../../wire.ts';
import type { Ground } from '../app.ts';
import { AppPath } from './wire.ts';
import { details } from '../error.ts';
import { keepAlive } from '../exec-stream.ts';

const Line = z
  .object({
    seq: z.int(),
    release: z.int(),
    phase: z.enum(['build', 'run']),
    stream: z.enum(['stdout', 'stderr', 'system']),
    text: z.string(),
    created_at: Time,
  })
  .openapi('DeploymentLog');

const Page = z.object({ data: z.array(Line), next_cursor: z.string().nullable() });
const Query = z.object({
  after: z
    .string()
    .regex(/^\d{1,15}$/, 'is not a cursor of this list')
    .optional(),
  limit: limit(200, 1000),
  follow: z
    .enum(['true', 'false'])
    .optional()
    .openapi({ description: 'Answer with an event stream that goes on.' }),
});

const LOOK_MS = 500;

export function mountDeploymentLogs(api: Api, { runtime, open, streams }: Ground): void {
  api.openapi(
    createRoute({
      ...{ method: 'get', path: '/deploy/apps/{app_name}/logs', ...open('read') },
      request: { params: AppPath, query: Query },
      responses: {
        200: {
          description: 'Oldest first; without a cursor the last of it.',
          content: {
            ...json(Page, '').content,
            'text/event-stream': { schema: z.string() },
          },
        },
        ...details,
      },
    }),
    async (context) => {
      const caller = context.get('caller');
      const { db } = runtime.database;
      const { app_name } = context.req.valid('param');
      const deployment = await findDeployment(db, caller.org, app_name);
      if (!deployment) throw new OverwinterError('not_found', `no deployment "${app_name}"`);
      const { limit, follow, after } = context.req.valid('query');
      const cursor = context.req.header('last-event-id') ?? after;
      const from = cursor !== undefined && /^\d{1,15}$/.test(cursor) ? Number(cursor) : undefined;
      const read = (seq: number | undefined) => readLog(db, deployment.id, { after: seq, limit });
      if (follow !== 'true') {
        const rows = await read(from);
        const last = rows.at(-1)?.seq;
        const next_cursor = last === undefined ? (after ?? null) : String(last);
        return context.json({ data: rows.map(render), next_cursor }, 200);
      }
      const { signal, leave } = attend(context.env, streams, caller);
      const ends = AbortSignal.any([signal, streams.signal]);
      const { outgoing } = context.env;
      outgoing.writeHead(200, {
        ...corsHeaders(context.req.header('origin')),
        'x-request-id': context.var.request_id,
        'content-type': 'text/event-stream',
        'cache-control': 'no-cache',
        'x-accel-buffering': 'no',
      });
      outgoing.flushHeaders();
      const stop = keepAlive(outgoing, ': ping\n\n', streams.keepalive_ms);
      void stream(outgoing, read, from, { signal: ends, stall_ms: streams.stall_ms })
        .catch((error: unknown) => runtime.logger.debug({ err: error }, 'a stream of logs broke off'))
        .finally(() => {
          stop();
          leave();
          outgoing.end();
        });
      return RESPONSE_ALREADY_SENT;
    },
  );
}

/** Until the reader leaves or the server stops. */
async function stream(
  outgoing: ServerResponse,
  read: (after: number | undefined) => Promise<LogRow[]>,
  from: number | undefined,
  { signal, stall_ms }: { signal: AbortSignal; stall_ms: number },
): Promise<void> {
  let after = from;
  while (!signal.aborted) {
    const rows = await read(after);
    for (const row of rows) {
      if (signal.aborted) return;
      if (!outgoing.write(`id: ${row.seq}\ndata: ${JSON.stringify(render(row))}\n\n`))
        await drained(outgoing, stall_ms, signal);
    }
    after = rows.at(-1)?.seq ?? after ?? 0;
    if (rows.length === 0) await delay(LOOK_MS, undefined, { signal }).catch(() => undefined);
  }
}

function render({ seq, release, phase, stream: from, text, created_at }: LogRow): z.infer<typeof Line> {
  return { seq, release, phase, stream: from, text, created_at: created_at.toISOString() };
}
