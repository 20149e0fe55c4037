/** What became of a computer: its commands, what it uses, and the events of its own log. */
import { createRoute, z } from '@hono/zod-openapi';
import { getComputer } from '../../engine/computers/owner.ts';
import { readPage } from '../../store/events.ts';
import type { EventRow } from '../../store/rows.ts';
import { json, limit, page, type Api } from '../api.ts';
import { Seq, seqCursor } from '../cursor.ts';
import { Time } from '../wire.ts';
import type { Ground } from './app.ts';
import { details } from './error.ts';
import { createObserver, Metrics, WINDOWS } from './observe.ts';
import { Command, ComputerPath, Count, renderCommand } from './wire.ts';

const CommandList = z.object({ commands: z.array(Command), count: z.int() });

const Observability = z.object({
  latest: Metrics.nullable().openapi({ description: 'Null while it does not run here.' }),
  samples: z
    .array(Metrics)
    .openapi({ description: 'What this node measured when it was asked, a minute apart at least.' }),
});
const ObservabilityQuery = z.object({ window: z.enum(WINDOWS).default('1h') });

const ComputerEvent = z
  .object({ seq: z.int(), ts: Time, type: z.string(), body: z.record(z.string(), z.unknown()) })
  .openapi('ComputerEvent');
const EventsQuery = z.object({ after: Seq, cursor: Seq, limit: limit(100, 500) });

export function mountHistory(api: Api, ground: Ground): void {
  mountCommands(api, ground);
  mountObservability(api, ground);
  mountEvents(api, ground);
}

function mountCommands(api: Api, { runtime, computers, open }: Ground): void {
  api.openapi(
    createRoute({
      method: 'get',
      path: '/computers/{computer_id}/commands',
      ...open('read'),
      request: { params: ComputerPath, query: z.object({ limit: Count }) },
      responses: { 200: json(CommandList, 'Newest first, without what they said.'), ...details },
    }),
    async (context) => {
      const { org } = context.get('caller');
      const { id } = await getComputer(runtime, org, context.req.valid('param').computer_id);
      const rows = await computers.history.list(org, id, context.req.valid('query').limit);
      const commands = rows.map(renderCommand);
      return context.json({ commands, count: commands.length }, 200);
    },
  );
}

function mountObservability(api: Api, { runtime, computers, open }: Ground): void {
  const observe = createObserver();
  api.openapi(
    createRoute({
      method: 'get',
      path: '/computers/{computer_id}/observability',
      ...open('read'),
      request: { params: ComputerPath, query: ObservabilityQuery },
      responses: { 200: json(Observability, 'As far as its driver can tell.'), ...details },
    }),
    async (context) => {
      const { org } = context.get('caller');
      const state = await getComputer(runtime, org, context.req.valid('param').computer_id);
      const handle = computers.awake(state.id);
      const { window } = context.req.valid('query');
      return context.json(await observe(state, handle, window, runtime.now()), 200);
    },
  );
}

function mountEvents(api: Api, { runtime, open }: Ground): void {
  api.openapi(
    createRoute({
      method: 'get',
      path: '/computers/{computer_id}/events',
      ...open('read'),
      request: { params: ComputerPath, query: EventsQuery },
      responses: { 200: json(page(ComputerEvent), 'Oldest first.'), ...details },
    }),
    async (context) => {
      const { org } = context.get('caller');
      const { id, head } = await getComputer(runtime, org, context.req.valid('param').computer_id);
      const { after, cursor, limit } = context.req.valid('query');
      const filter = { after: seqCursor(head, { after, cursor }), limit, level: 'runtime' } as const;
      const rows = await readPage(runtime.database.db, id, filter);
      const next_cursor = rows.length < limit ? null : String(rows.at(-1)!.seq);
      return context.json({ data: rows.map(renderEvent), next_cursor }, 200);
    },
  );
}

function renderEvent({ seq, ts, type, body }: EventRow): z.infer<typeof ComputerEvent> {
  // Where its driver keeps it is the operator's business.
  const { reference: _, ...shown } = JSON.parse(body) as Record<string, unknown>;
  return { seq, ts: new Date(ts).toISOString(), type, body: shown };
}
