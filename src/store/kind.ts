/**
 * The kinds of streams: what a session's log and a computer's differ in, so that both are written by one door. Pure but for what is
 * handed in.
 */
import { emptyComputer, evolveComputer, type ComputerState } from '../resource/computer/life.ts';
import type { ComputerDraft, ComputerEvent } from '../resource/computer/event.ts';
import type { Draft, SessionEvent } from '../session/event.ts';
import { evolve } from '../session/evolve.ts';
import { dueAt } from '../session/next.ts';
import type { Rules } from '../session/rules.ts';
import { emptyState, status, type SessionState } from '../session/state.ts';
import { sessionUsage } from '../session/usage.ts';
import type { RowDraft } from './rows.ts';

/** What every state says of its stream. */
export type StreamState = { head: number; last_ts: number };

/** The columns of a stream's row that derive from its state; null in `last_turn` and `usage` leaves them as they are. */
export type Columns = {
  status: string;
  /** In ms since the epoch. */
  due_at: number | null;
  last_turn: string | null;
  usage: string | null;
  /** The machine whose node should claim it: the one with its computer. */
  prefers_node: string | null;
  /** Whether a runner's append gives its lease back. */
  at_rest: boolean;
};

export type Kind<State extends StreamState, New, Event> = {
  /** As in "no such session". */
  noun: string;
  empty: (stream: string) => State;
  evolve: (state: State, event: Event) => State;
  /** A draft with all that an event's row holds. */
  row: (draft: New) => RowDraft;
  columns: (before: State, after: State) => Columns;
  /** Whether the state has to be stored with this append: lists read what they show from it. */
  checkpoints: (before: State, after: State) => boolean;
};

export type SessionKind = Kind<SessionState, Draft, SessionEvent>;
export type ComputerKind = Kind<ComputerState, ComputerDraft, ComputerEvent>;

export function sessionKind(rules: Rules): SessionKind {
  return {
    noun: 'session',
    empty: emptyState,
    evolve,
    row: (draft) => draft,
    columns: (before, after) => {
      const now = status(after);
      return {
        status: now,
        due_at: dueAt(after, rules),
        last_turn: after.last_turn === before.last_turn ? null : JSON.stringify(after.last_turn),
        usage: hasNewUsage(before, after) ? JSON.stringify(sessionUsage(after)) : null,
        prefers_node: after.computer?.awake ? after.computer.node : null,
        at_rest: now !== 'running' && now !== 'queued',
      };
    },
    checkpoints: (before, after) => {
      if (before.turn !== null && after.turn === null) return true;
      return before.input.cursor !== after.input.cursor || before.computer?.id !== after.computer?.id;
    },
  };
}

function hasNewUsage(before: SessionState, after: SessionState): boolean {
  return before.usage !== after.usage || before.turns_reported !== after.turns_reported;
}

export const computerKind: ComputerKind = {
  noun: 'computer',
  empty: emptyComputer,
  evolve: evolveComputer,
  row: (draft) => ({ ...draft, level: 'runtime', actor: { type: 'system' }, turn_id: null }),
  columns: (_before, after) => ({
    ...{ status: after.status, due_at: null, last_turn: null, usage: null, at_rest: false },
    prefers_node: after.machine,
  }),
  checkpoints: () => true,
};
