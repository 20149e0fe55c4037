/** Turns of a session, and the result of the last one (contract §8). Org keys only. */
import { createRoute, z } from '@hono/zod-openapi';
import type { Runtime } from '../../engine/runtime.ts';
import { OverwinterError } from '../../resource/error.ts';
import { seqOfEventId, seqOfTurnId } from '../../resource/id.ts';
import { TurnError, TurnUsage, YieldReason } from '../../session/event.ts';
import { foldTurns, type Turn as TurnRecord } from '../../session/turns.ts';
import { readOne, readTurn, readTurnEvents } from '../../store/events.ts';
import { renderEvent } from '../../store/rows.ts';
import { idCursor, json, limit, page, renderPage, type Api } from '../api.ts';
import type { Admit } from '../auth.ts';
import { problems } from '../error.ts';
import { Event, jsonText } from '../wire.ts';

const Turn = z
  .object({
    id: z.string(),
    state: z.enum(['queued', 'accepted', 'running', 'ok', 'error']),
    yield_reason: YieldReason.optional(),
    attempt: z.int(),
    started_at: z.string(),
    completed_at: z.string().optional(),
    active_seconds: z.number().optional(),
    result_event_id: z.string().optional(),
    usage: TurnUsage.optional(),
    error: TurnError.optional(),
  })
  .openapi('Turn');

const SessionPath = z.object({ session_id: z.string() });
const AllTurns = Number.MAX_SAFE_INTEGER;

export function mountTurns(api: Api, runtime: Runtime, admit: Admit): void {
  api.openapi(
    createRoute({
      method: 'get',
      path: '/sessions/{session_id}/turns',
      ...admit.session('read'),
      request: { params: SessionPath, query: z.object({ limit: limit(50, 100), cursor: idCursor('trn_') }) },
      responses: {
        200: json(page(Turn), 'Newest first.'),
        ...problems,
      },
    }),
    async (context) => {
      const { limit, cursor } = context.req.valid('query');
      const { id } = context.get('session');
      const before_seq = cursor === undefined ? AllTurns : seqOfTurnId(id, cursor);
      if (before_seq === undefined)
        throw new OverwinterError('invalid', 'the cursor is not of this session', 'cursor');
      const turns = foldTurns(await readTurnEvents(runtime.database.db, id, before_seq, limit)).toReversed();
      return context.json(renderPage(turns, limit), 200);
    },
  );

  api.openapi(
    createRoute({
      method: 'get',
      path: '/sessions/{session_id}/turns/{turn_id}',
      ...admit.session('read'),
      request: { params: z.object({ session_id: z.string(), turn_id: z.string() }) },
      responses: { 200: json(Turn, 'The turn.'), ...problems },
    }),
    async (context) => {
      const turn = await findTurn(runtime, context.get('session').id, context.req.valid('param').turn_id);
      if (!turn) throw new OverwinterError('not_found', 'no such turn');
      return context.json(turn, 200);
    },
  );

  api.openapi(
    createRoute({
      method: 'get',
      path: '/sessions/{session_id}/result',
      ...admit.session('read'),
      request: { params: SessionPath },
      responses: {
        200: json(
          z.object({ last_turn: Turn.nullable(), result: Event.nullable() }),
          'The last turn that ended and what it said last; both null before the first.',
        ),
        ...problems,
      },
    }),
    async (context) => {
      const { id, last_turn } = context.get('session');
      const turn = last_turn && (await findTurn(runtime, id, last_turn.id));
      const seq = turn?.result_event_id === undefined ? undefined : seqOfEventId(id, turn.result_event_id);
      const row = seq === undefined ? undefined : await readOne(runtime.database.db, id, seq);
      const result = row ? renderEvent(id, row) : 'null';
      return jsonText(`{"last_turn":${JSON.stringify(turn ?? null)},"result":${result}}`);
    },
  );
}

async function findTurn(runtime: Runtime, session: string, turn_id: string): Promise<TurnRecord | undefined> {
  const seq = seqOfTurnId(session, turn_id);
  if (seq === undefined) return undefined;
  return foldTurns(await readTurn(runtime.database.db, session, turn_id, seq))[0];
}
