/** The turn records of contract §8.2, folded from a session's `turn.*` events. */
import type { SessionEvent, TurnError, TurnUsage, YieldReason } from './event.ts';

export type Turn = {
  id: string;
  state: 'queued' | 'accepted' | 'running' | 'ok' | 'error';
  yield_reason?: YieldReason;
  attempt: number;
  started_at: string;
  completed_at?: string;
  active_seconds?: number;
  result_event_id?: string;
  usage?: TurnUsage;
  error?: TurnError;
};

/** @param events of one session, in order, from a `turn.started` on; other types are passed over. */
export function foldTurns(events: Iterable<SessionEvent>): Turn[] {
  const turns = new Map<string, Turn>();
  for (const event of events) fold(turns, event);
  return [...turns.values()];
}

function fold(turns: Map<string, Turn>, event: SessionEvent): void {
  if (event.type === 'turn.started') {
    const { turn_id } = event.body;
    turns.set(turn_id, { id: turn_id, state: 'running', attempt: 1, started_at: iso(event.ts) });
  }
  if (event.type === 'turn.attempted') {
    const turn = turns.get(event.body.turn_id);
    if (turn) turn.attempt = event.body.attempt;
  }
  if (event.type === 'turn.completed') complete(turns.get(event.body.turn_id), event);
}

function complete(turn: Turn | undefined, event: Extract<SessionEvent, { type: 'turn.completed' }>): void {
  if (!turn) return;
  const { yield_reason, usage, result_event_id, error } = event.body;
  turn.state = yield_reason === 'error' ? 'error' : 'ok';
  turn.yield_reason = yield_reason;
  turn.completed_at = iso(event.ts);
  turn.active_seconds = (event.ts - Date.parse(turn.started_at)) / 1000;
  turn.usage = usage;
  if (result_event_id !== undefined) turn.result_event_id = result_event_id;
  if (error) turn.error = error;
}

function iso(ts: number): string {
  return new Date(ts).toISOString();
}
