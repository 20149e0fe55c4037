/** What may be asked of a session: by people (create, message, cancel, archive) and by its runner (the rest). */
import type { AgentSnapshot } from '../resource/agent.ts';
import type { Limits } from '../resource/limits.ts';
import type { ModelOutcome } from '../resource/model.ts';
import type { ToolOutcome } from '../resource/tool.ts';
import type { Actor, Draft } from './event.ts';

export type Input = {
  text: string;
  raw?: unknown;
  actor: Actor;
  source?: string;
  refs?: Record<string, unknown>;
  idempotency_key?: string;
};

export type Responded = Extract<ModelOutcome, { kind: 'responded' }>;
export type Failed = Extract<ModelOutcome, { kind: 'failed' }>;

export type ComputerChange = Extract<Draft, { type: `computer.${string}` }>;

export type Command =
  | {
      type: 'create';
      agent: AgentSnapshot;
      limits: Limits;
      credential_id: string | null;
      metadata: Record<string, unknown> | null;
      key: string | null;
      input: Input;
    }
  | ({ type: 'message' } & Input)
  | { type: 'cancel' }
  | { type: 'archive' }
  /** A runner holds the session: start its next turn, or resume the one that another runner left. */
  | { type: 'begin'; node: string }
  /** Do what `next` asks of the log: the next request, the end of a turn, the archiving. */
  | { type: 'advance' }
  /** `pause`: the runner is leaving, so no new request is put in the log. */
  | {
      type: 'model_responded';
      outcome: Responded;
      request: number;
      seen: number;
      duration_ms: number;
      pause: boolean;
    }
  /** `jitter` in 0..1 spreads retries. */
  | { type: 'model_failed'; outcome: Failed; request: number; seen: number; jitter: number; pause: boolean }
  | { type: 'tools_finished'; results: { call_id: string; result: ToolOutcome }[]; pause: boolean }
  | { type: 'computer_changed'; change: Pick<ComputerChange, 'type' | 'body'> };
