/** What has to happen now. Pure: the engine does what this says and appends what came of it. */
import { hasPendingInput, type ActiveTurn, type PendingCall, type SessionState } from './state.ts';
import type { TurnError, YieldReason } from './event.ts';
import type { Rules } from './rules.ts';
import { tokens } from './usage.ts';

export type NextStep =
  /** Nothing until then; null = nothing until something is appended. */
  | { do: 'wait'; until: number | null }
  | { do: 'start_turn' }
  | { do: 'end_turn'; reason: YieldReason; error?: TurnError }
  /** Put the next request in the log. */
  | { do: 'request_model'; max_tokens: number }
  /** The request is in the log: make the call. */
  | { do: 'call_model'; request: number; max_tokens: number }
  | { do: 'run_tools'; calls: PendingCall[] }
  | { do: 'archive' }
  | { do: 'hibernate' };

/** @param now ms since the epoch, by the database's clock. */
export function next(state: SessionState, now: number, rules: Rules): NextStep {
  if (state.turn) return nextInTurn(state, state.turn, now, rules);
  if (state.archive_after_turn && !state.archived) return { do: 'archive' };
  if (!state.archived && hasPendingInput(state)) return { do: 'start_turn' };
  const hibernate_at = hibernateAt(state, rules);
  if (hibernate_at !== null && now >= hibernate_at) return { do: 'hibernate' };
  return { do: 'wait', until: hibernate_at };
}

function nextInTurn(state: SessionState, turn: ActiveTurn, now: number, rules: Rules): NextStep {
  if (turn.cancel_at !== null) return { do: 'end_turn', reason: 'canceled' };
  if (now >= turn.deadline_at) return { do: 'end_turn', reason: 'deadline_exceeded' };
  switch (turn.step.at) {
    case 'requested':
      return { do: 'call_model', request: turn.step.request, max_tokens: turn.step.max_tokens };
    case 'tools':
      return { do: 'run_tools', calls: turn.step.calls };
    case 'backing_off':
      if (now < turn.step.until) return { do: 'wait', until: turn.step.until };
      return nextRequest(state, turn, rules);
    case 'ready':
      return nextRequest(state, turn, rules);
    default:
      return turn.step satisfies never;
  }
}

function nextRequest(state: SessionState, turn: ActiveTurn, rules: Rules): NextStep {
  if (turn.asked) return { do: 'end_turn', reason: 'needs_input' };
  const turns_spent = turn.requests === 0 && state.turns_run >= (state.limits.turns ?? Infinity);
  if (turns_spent) return { do: 'end_turn', reason: 'max_turns' };
  const left = (state.limits.tokens ?? Infinity) - tokens(state.usage);
  if (left <= 0) return { do: 'end_turn', reason: 'budget_exceeded' };
  return { do: 'request_model', max_tokens: Math.min(rules.response_tokens_max, left) };
}

/**
 * When a node must look at the session although nothing is appended: waiting input at once, an unserved cancel or deadline
 * after its bound, an idle computer when it should sleep. Null = never.
 */
export function dueAt(state: SessionState, rules: Rules): number | null {
  if (state.turn) return Math.min(state.turn.cancel_at ?? Infinity, state.turn.deadline_at) + rules.bound_ms;
  if (!state.archived && hasPendingInput(state)) return state.input.pending_since;
  if (state.archive_after_turn && !state.archived) return state.resting_since;
  return hibernateAt(state, rules);
}

function hibernateAt(state: SessionState, rules: Rules): number | null {
  if (!state.computer?.awake) return null;
  return state.archived ? state.resting_since : state.resting_since + rules.hibernate_after_ms;
}
