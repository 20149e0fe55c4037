/**
 * The reducer: what one event does to a session. Total and pure: any event after any state gives a state, and an event that
 * does not fit (there is no such turn) changes only `head`.
 */
import { turnId, eventId } from '../resource/id.ts';
import { TURN_SECONDS_MAX } from '../resource/limits.ts';
import { isRepeatable } from '../resource/tool.ts';
import type { EventBody, SessionEvent } from './event.ts';
import { hasPendingInput, type ActiveTurn, type ComputerState, type SessionState } from './state.ts';
import { addUsage, NO_USAGE } from './usage.ts';

export function evolve(state: SessionState, event: SessionEvent): SessionState {
  return { ...effect(state, event), head: event.seq, last_ts: event.ts };
}

function effect(state: SessionState, event: SessionEvent): SessionState {
  switch (event.type) {
    case 'session.created':
      return {
        ...state,
        model: event.body.agent.model,
        limits: event.body.limits,
        credential_id: event.body.credential_id,
        resting_since: event.ts,
      };
    case 'user.message':
      return { ...state, input: received(state, event) };
    case 'turn.started':
      return started(state, event.seq, event.ts, event.body.input_to_seq);
    case 'turn.attempted':
      return inTurn(state, (turn) => attempted(turn, event.body));
    case 'turn.completed':
      return completed(state, event.ts, event.body);
    case 'model.requested':
      return { ...inTurn(state, (turn) => requested(turn, event)), requests: event.body.request };
    case 'model.responded':
      return responded(state, event.ts, event.body);
    case 'model.failed':
      return failed(state, event.ts, event.body);
    case 'tool.finished':
      return inTurn(state, (turn) => toolFinished(turn, event.body));
    case 'agent.message':
      if (event.level !== 'user') return state;
      return inTurn(state, (turn) => ({
        ...turn,
        result_seq: event.seq,
        asked: turn.asked || event.body.awaiting_input === true,
      }));
    case 'cancel.requested': {
      const canceling = inTurn(state, (turn) => ({ ...turn, cancel_at: turn.cancel_at ?? event.ts }));
      return event.body.archive && canceling.turn ? { ...canceling, archive_after_turn: true } : canceling;
    }
    case 'session.archived':
      return { ...state, archived: true, resting_since: event.ts };
    case 'computer.attached':
      return { ...state, computer: attached(event.body) };
    case 'computer.woken':
      return withComputer(state, event.body.computer_id, {
        awake: true,
        node: event.body.node,
        generation: event.body.generation,
      });
    case 'computer.hibernated':
      return withComputer(state, event.body.computer_id, {
        awake: false,
        generation: event.body.generation,
        snapshot_ref: event.body.snapshot_ref,
      });
    case 'computer.lost':
      return withComputer(state, event.body.computer_id, { awake: false });
    case 'context.compacted':
      return { ...state, context_from_seq: contextFrom(state, event.seq) };
    case 'tool.call':
    case 'exec.completed':
    case 'agent.result':
    case 'error.model':
    case 'error.runtime':
      return state;
    default:
      event satisfies never;
      return state;
  }
}

function received(state: SessionState, event: SessionEvent): SessionState['input'] {
  const waiting = state.input.last > state.input.cursor;
  return {
    cursor: state.input.cursor,
    first_pending: waiting ? state.input.first_pending : event.seq,
    pending_since: waiting ? state.input.pending_since : event.ts,
    last: event.seq,
  };
}

function started(state: SessionState, seq: number, ts: number, input_to_seq: number): SessionState {
  const seconds = Math.min(state.limits.turn_seconds ?? TURN_SECONDS_MAX, TURN_SECONDS_MAX);
  return {
    ...state,
    input: { ...state.input, cursor: input_to_seq },
    turn: {
      id: turnId(state.id, seq),
      started_at: ts,
      deadline_at: ts + seconds * 1000,
      attempt: 0,
      interruptions: 0,
      cancel_at: null,
      step: { at: 'ready' },
      usage: NO_USAGE,
      requests: 0,
      failures: 0,
      continuations: 0,
      result_seq: null,
      asked: false,
      model_ms: 0,
      model_asked_at: 0,
    },
  };
}

function attempted(turn: ActiveTurn, body: EventBody<'turn.attempted'>): ActiveTurn {
  return {
    ...turn,
    attempt: body.attempt,
    interruptions: turn.interruptions + (body.interrupted ? 1 : 0),
  };
}

function completed(state: SessionState, ts: number, body: EventBody<'turn.completed'>): SessionState {
  const turn = state.turn;
  if (!turn) return state;
  const failed = body.yield_reason === 'error';
  return {
    ...state,
    turn: null,
    resting: resting(body),
    resting_since: ts,
    turns_run: state.turns_run + (turn.requests > 0 ? 1 : 0),
    turns_reported: state.turns_reported + 1,
    active_ms: state.active_ms + (ts - turn.started_at),
    last_turn: {
      id: body.turn_id,
      state: failed ? 'error' : 'ok',
      yield_reason: body.yield_reason,
      ...(turn.result_seq === null ? {} : { result_event_id: eventId(state.id, turn.result_seq) }),
      usage: body.usage,
      ...(body.error ? { error: body.error } : {}),
    },
  };
}

function resting(body: EventBody<'turn.completed'>): SessionState['resting'] {
  if (body.yield_reason === 'needs_input') return 'awaiting_input';
  if (body.yield_reason === 'error' && body.error?.retriable !== true) return 'failed';
  return 'idle';
}

function requested(turn: ActiveTurn, event: { ts: number; body: EventBody<'model.requested'> }): ActiveTurn {
  return {
    ...turn,
    step: { at: 'requested', request: event.body.request, max_tokens: event.body.max_tokens },
    requests: turn.requests + 1,
    model_asked_at: event.ts,
  };
}

function responded(state: SessionState, ts: number, body: EventBody<'model.responded'>): SessionState {
  const calls = body.stop_reason === 'refusal' ? [] : toolCalls(body.content);
  const after = inTurn(state, (turn) => ({
    ...turn,
    step: calls.length > 0 ? { at: 'tools', calls } : { at: 'ready' },
    usage: addUsage(turn.usage, body.usage),
    failures: 0,
    continuations: stoppedShort(body.stop_reason) && calls.length === 0 ? turn.continuations + 1 : 0,
    model_ms: turn.model_ms + (ts - turn.model_asked_at),
  }));
  return { ...after, usage: addUsage(after.usage, body.usage) };
}

/** Whether a response with this stop reason wants to be continued (it was cut by a limit of its own). */
export function stoppedShort(stop_reason: string): boolean {
  return stop_reason === 'max_tokens' || stop_reason === 'pause_turn';
}

function toolCalls(content: EventBody<'model.responded'>['content']) {
  return content
    .filter((block) => block.type === 'tool_use')
    .map((block) => ({
      call_id: String(block['id']),
      tool: String(block['name']),
      repeatable: isRepeatable(String(block['name']), block['input']),
    }));
}

function failed(state: SessionState, ts: number, body: EventBody<'model.failed'>): SessionState {
  const usage = body.usage;
  const after = inTurn(state, (turn) => ({
    ...turn,
    step: body.retry_at === undefined ? { at: 'ready' } : { at: 'backing_off', until: body.retry_at },
    usage: usage ? addUsage(turn.usage, usage) : turn.usage,
    failures: turn.failures + (body.reason === 'transient' ? 1 : 0),
    // Of an interrupted call nobody knows how long it took.
    model_ms: turn.model_ms + (body.reason === 'interrupted' ? 0 : ts - turn.model_asked_at),
  }));
  return usage ? { ...after, usage: addUsage(after.usage, usage) } : after;
}

function toolFinished(turn: ActiveTurn, { call_id, outcome }: EventBody<'tool.finished'>): ActiveTurn {
  if (turn.step.at !== 'tools') return turn;
  const calls = turn.step.calls.filter((call) => call.call_id !== call_id);
  // A tool that ran to its end is progress: what interrupted the turn before was not its own doing.
  const progressed = outcome === 'ok' || outcome === 'error';
  return {
    ...turn,
    interruptions: progressed ? 0 : turn.interruptions,
    step: calls.length > 0 ? { at: 'tools', calls } : { at: 'ready' },
  };
}

/** Input that still waits must be read again, even when it came before the compaction. */
function contextFrom(state: SessionState, compacted_seq: number): number {
  return hasPendingInput(state) ? Math.min(state.input.first_pending, compacted_seq) : compacted_seq;
}

function attached(body: EventBody<'computer.attached'>): ComputerState {
  return {
    id: body.computer_id,
    driver: body.driver,
    node: body.node,
    generation: body.generation,
    awake: true,
    snapshot_ref: null,
  };
}

function withComputer(state: SessionState, id: string, change: Partial<ComputerState>): SessionState {
  return state.computer?.id === id ? { ...state, computer: { ...state.computer, ...change } } : state;
}

function inTurn(state: SessionState, change: (turn: ActiveTurn) => ActiveTurn): SessionState {
  return state.turn ? { ...state, turn: change(state.turn) } : state;
}
