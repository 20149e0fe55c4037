/** Events: pages, streams, one event and its whole body (contract §9). Org keys, and client tokens that may read. */
import { RESPONSE_ALREADY_SENT } from '@hono/node-server/utils/response';
import { createRoute, z } from '@hono/zod-openapi';
import type { Runtime } from '../../engine/runtime.ts';
import { OverwinterError } from '../../resource/error.ts';
import { seqOfEventId } from '../../resource/id.ts';
import { isVisible, LEVELS, type Level } from '../../session/event.ts';
import { readBody, readOne, readPage } from '../../store/events.ts';
import { renderEvent, type EventRow } from '../../store/rows.ts';
import { json, limit, text, type Api, type Env } from '../api.ts';
import type { Admit } from '../auth.ts';
import type { Caller } from '../authorize.ts';
import { corsHeaders } from '../cors.ts';
import { Seq, seqCursor } from '../cursor.ts';
import { problems } from '../error.ts';
import type { StreamLimit } from '../rate-limit.ts';
import { stream, type StreamOptions } from '../sse.ts';
import { TypeFilter } from '../type-filter.ts';
import { Event, EventPage, jsonText, renderEventPage } from '../wire.ts';

const LevelQuery = z
  .enum(LEVELS)
  .default('internal')
  .openapi({ description: 'The least public level to show; `runtime` is for org keys only.' });

const EventsQuery = z.object({
  after: Seq,
  cursor: Seq,
  level: LevelQuery,
  type: TypeFilter,
  turn_id: text(256).optional(),
  limit: limit(100, 500),
  stream: z.literal('sse').optional().openapi({ description: 'Answers with an endless event stream.' }),
  token: z.string().optional().openapi({ description: 'A client token, on streams only.' }),
  deltas: z.enum(['true', 'false']).optional().openapi({
    description: 'On streams: `event: delta` frames with text as it is written. They may be lost.',
  }),
});

const EventPath = z.object({ session_id: z.string(), event_id: z.string() });

export function mountEvents(
  api: Api,
  runtime: Runtime,
  admit: Admit,
  options: StreamOptions & { enter: StreamLimit },
): void {
  api.openapi(
    createRoute({
      method: 'get',
      path: '/sessions/{session_id}/events',
      ...admit.client('read'),
      request: { params: z.object({ session_id: z.string() }), query: EventsQuery },
      responses: {
        200: {
          description: 'Ascending by seq; a full page has a `next_cursor`, which is its last seq.',
          content: { 'application/json': { schema: EventPage }, 'text/event-stream': { schema: z.string() } },
        },
        ...problems,
      },
    }),
    async (context) => {
      const query = context.req.valid('query');
      const { id: session, head } = context.get('session');
      const caller = context.get('caller');
      const { level, type, turn_id, limit } = query;
      requireLevel(caller, level);
      if (query.stream === 'sse' && context.req.method === 'GET') {
        const places = { after: query.after, 'Last-Event-ID': context.req.header('last-event-id') };
        const after = seqCursor(head, places);
        const leave = options.enter(caller);
        void stream(runtime, options, context.env.outgoing, {
          ...{ session, level, type, after, credential: caller },
          headers: streamHeaders(context.req.header('origin'), context.var),
          deltas: query.deltas === 'true' && level !== 'user',
        }).finally(leave);
        return RESPONSE_ALREADY_SENT;
      }
      const after = seqCursor(head, { after: query.after, cursor: query.cursor });
      const filter = {
        after,
        level,
        limit,
        ...(type === undefined ? {} : { type }),
        ...(turn_id === undefined ? {} : { turn_id }),
      };
      return jsonText(renderEventPage(session, await readPage(runtime.database.db, session, filter), limit));
    },
  );

  api.openapi(
    createRoute({
      method: 'get',
      path: '/sessions/{session_id}/events/{event_id}',
      ...admit.client('read'),
      request: { params: EventPath, query: z.object({ level: LevelQuery }) },
      responses: { 200: json(Event, 'The event.'), ...problems },
    }),
    async (context) => {
      const { id } = context.get('session');
      const { event_id } = context.req.valid('param');
      const { level } = context.req.valid('query');
      requireLevel(context.get('caller'), level);
      return jsonText(renderEvent(id, await readVisible(runtime, id, event_id, level)));
    },
  );

  api.openapi(
    createRoute({
      method: 'get',
      path: '/sessions/{session_id}/events/{event_id}/content',
      ...admit.client('read'),
      request: { params: EventPath, query: z.object({ level: LevelQuery }) },
      responses: {
        200: {
          description:
            "The event's whole body as JSON; of an `exec.completed` whose output was cut, the whole output.",
          content: { 'application/json': { schema: z.unknown() }, 'text/plain': { schema: z.string() } },
        },
        ...problems,
      },
    }),
    async (context) => {
      const { id } = context.get('session');
      const { level } = context.req.valid('query');
      requireLevel(context.get('caller'), level);
      const row = await readVisible(runtime, id, context.req.valid('param').event_id, level);
      const output = row.type === 'exec.completed' ? await fullOutput(runtime, row) : undefined;
      if (output) return plainText(output);
      return jsonText((await readBody(runtime.database.db, id, row.seq)) ?? row.body);
    },
  );
}

function requireLevel(caller: Caller, level: Level): void {
  if (level === 'runtime' && caller.kind !== 'org') {
    throw new OverwinterError('forbidden', 'a client token does not show the level "runtime"', 'level');
  }
}

function streamHeaders(origin: string | undefined, names: Env['Variables']): Record<string, string> {
  return { ...corsHeaders(origin), 'x-request-id': names.request_id, 'x-trace-id': names.trace_id };
}

async function readVisible(
  runtime: Runtime,
  session: string,
  event_id: string,
  level: Level,
): Promise<EventRow> {
  const seq = seqOfEventId(session, event_id);
  const row = seq === undefined ? undefined : await readOne(runtime.database.db, session, seq);
  if (row && isVisible(row.level as Level, level)) return row;
  throw new OverwinterError('not_found', 'no such event');
}

async function fullOutput(runtime: Runtime, row: EventRow): Promise<AsyncIterable<Uint8Array> | undefined> {
  const { content_ref } = JSON.parse(row.body) as { content_ref?: string };
  return content_ref === undefined ? undefined : await runtime.blobs.get(content_ref);
}

function plainText(content: AsyncIterable<Uint8Array>): never {
  const headers = { 'content-type': 'text/plain; charset=utf-8', 'x-content-type-options': 'nosniff' };
  return new Response(ReadableStream.from(content), { headers }) as never;
}
