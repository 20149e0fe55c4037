/**
 * A session as its log tells it. `evolve` alone makes these values; impossible combinations cannot be written.
 * Small by design (no message text): it is stored beside the log as a checkpoint of at most 8 KiB.
 */
import type { Limits } from '../resource/limits.ts';
import type { TurnError, TurnUsage, YieldReason } from './event.ts';
import { NO_USAGE, type UsageSum } from './usage.ts';

export type SessionStatus = 'queued' | 'running' | 'awaiting_input' | 'idle' | 'failed' | 'archived';

/** A tool call that has no `tool.finished` yet. */
export type PendingCall = { call_id: string; tool: string; repeatable: boolean };

/** Where a turn stands between two appends. */
type Step =
  | { at: 'ready' }
  /** The request is in the log; the call is being made, or was when its runner died. */
  | { at: 'requested'; request: number; max_tokens: number }
  | { at: 'backing_off'; until: number }
  | { at: 'tools'; calls: PendingCall[] };

export type ActiveTurn = {
  id: string;
  started_at: number;
  deadline_at: number;
  attempt: number;
  /** How often a runner died in the middle of a call of this turn. */
  interruptions: number;
  /** When a cancel was asked for; null = not. */
  cancel_at: number | null;
  step: Step;
  usage: UsageSum;
  requests: number;
  /** Consecutive failed requests. */
  failures: number;
  /** Consecutive responses that stopped short and were asked to go on. */
  continuations: number;
  /** The last user-level `agent.message` of the turn. */
  result_seq: number | null;
  asked: boolean;
  model_ms: number;
  model_asked_at: number;
};

export type LastTurn = {
  id: string;
  state: 'ok' | 'error';
  yield_reason: YieldReason;
  result_event_id?: string;
  usage: TurnUsage;
  error?: TurnError;
};

/** The session's computer. `node` and `generation` say whose files count as current. */
export type ComputerState = {
  id: string;
  driver: string;
  node: string;
  generation: number;
  awake: boolean;
  snapshot_ref: string | null;
};

export type SessionState = {
  id: string;
  /** The seq of the last event; 0 = the stream does not exist. */
  head: number;
  last_ts: number;
  archived: boolean;
  archive_after_turn: boolean;
  /** What the last turn left behind, while nothing else is going on. */
  resting: 'idle' | 'awaiting_input' | 'failed';
  resting_since: number;
  model: string;
  limits: Limits;
  credential_id: string | null;
  /** Input up to `cursor` was consumed by a turn; `last` > `cursor` means that input waits. */
  input: { cursor: number; first_pending: number; last: number; pending_since: number };
  turn: ActiveTurn | null;
  last_turn: LastTurn | null;
  /** Turns that reached the model, for the `turns` limit. */
  turns_run: number;
  turns_reported: number;
  active_ms: number;
  usage: UsageSum;
  requests: number;
  computer: ComputerState | null;
  /** `transcript` reads `session.created` and the events from here. */
  context_from_seq: number;
};

export function emptyState(id: string): SessionState {
  return {
    id,
    head: 0,
    last_ts: 0,
    archived: false,
    archive_after_turn: false,
    resting: 'idle',
    resting_since: 0,
    model: '',
    limits: {},
    credential_id: null,
    input: { cursor: 0, first_pending: 0, last: 0, pending_since: 0 },
    turn: null,
    last_turn: null,
    turns_run: 0,
    turns_reported: 0,
    active_ms: 0,
    usage: NO_USAGE,
    requests: 0,
    computer: null,
    context_from_seq: 2,
  };
}

/** The status of contract §8.1; nothing else may say what a session's status is. */
export function status(state: SessionState): SessionStatus {
  if (state.archived) return 'archived';
  if (state.turn) return 'running';
  if (hasPendingInput(state)) return 'queued';
  return state.resting;
}

export function hasPendingInput(state: SessionState): boolean {
  return state.input.last > state.input.cursor;
}
