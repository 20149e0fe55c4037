/**
 * Every event type of a session, once: its levels and the schema of its body. Everything else that knows event types
 * (unions, JSON Schema, OpenAPI, filters) derives from this table. Contract §9.2; the `runtime` ones are ours.
 */
import { z } from 'zod';
import { ContentBlock, Message, Usage } from '../resource/model.ts';
import { AgentSnapshot } from '../resource/agent.ts';
import { Limits } from '../resource/limits.ts';

/** From the most to the least public; a reader at one level sees that level and all before it. */
export const LEVELS = ['user', 'progress', 'internal', 'runtime'] as const;
export type Level = (typeof LEVELS)[number];

export const YieldReason = z.enum([
  'completed',
  'needs_input',
  'error',
  'budget_exceeded',
  'deadline_exceeded',
  'max_turns',
  'canceled',
]);
export type YieldReason = z.infer<typeof YieldReason>;

/** `retriable`: the session rests `idle` and a new message may do better; otherwise it rests `failed`. */
export const TurnError = z.object({ code: z.string(), message: z.string(), retriable: z.boolean() });
export type TurnError = z.infer<typeof TurnError>;

/** A turn's usage on the wire (contract §11.2). */
export const TurnUsage = z.object({
  reported: z.literal(true),
  complete: z.literal(false).optional(),
  input_tokens: z.int(),
  output_tokens: z.int(),
  cache_creation_input_tokens: z.int(),
  cache_read_input_tokens: z.int(),
  tokens: z.int(),
});
export type TurnUsage = z.infer<typeof TurnUsage>;

const ToolResult = z.enum(['ok', 'error', 'unknown', 'canceled']);
const ErrorBody = z.object({ code: z.string(), message: z.string(), retriable: z.boolean().optional() });

export const EVENTS = {
  'session.created': {
    level: 'runtime',
    body: z.object({
      agent: AgentSnapshot,
      limits: Limits,
      credential_id: z.string().nullable(),
      tools: z.array(z.record(z.string(), z.unknown())),
      system_note: z.string(),
      metadata: z.record(z.string(), z.unknown()).nullable(),
      key: z.string().nullable(),
    }),
  },
  'user.message': { level: 'user', body: z.object({ text: z.string(), raw: z.unknown().optional() }) },
  'agent.message': {
    level: 'user',
    body: z.object({ text: z.string(), awaiting_input: z.literal(true).optional() }),
  },
  'turn.started': {
    level: 'progress',
    body: z.object({ turn_id: z.string(), input_from_seq: z.int(), input_to_seq: z.int() }),
  },
  'turn.attempted': {
    level: 'runtime',
    body: z.object({ turn_id: z.string(), attempt: z.int(), interrupted: z.boolean(), node: z.string() }),
  },
  'turn.completed': {
    level: 'user',
    body: z.object({
      turn_id: z.string(),
      yield_reason: YieldReason,
      outcome: YieldReason,
      result_event_id: z.string().optional(),
      usage: TurnUsage,
      error: TurnError.optional(),
    }),
  },
  'model.requested': {
    level: 'runtime',
    body: z.object({ request: z.int(), seen: z.int(), max_tokens: z.int(), model: z.string() }),
  },
  'model.responded': {
    level: 'runtime',
    body: z.object({
      request: z.int(),
      seen: z.int(),
      message_id: z.string(),
      model: z.string(),
      content: z.array(ContentBlock),
      stop_reason: z.string(),
      usage: Usage,
      cut: z.boolean(),
      duration_ms: z.int(),
    }),
  },
  'model.failed': {
    level: 'runtime',
    body: z.object({
      request: z.int(),
      seen: z.int(),
      code: z.string(),
      message: z.string(),
      reason: z.enum(['transient', 'credential', 'request', 'aborted', 'interrupted']),
      usage: Usage.optional(),
      /** When the request will be repeated, in ms since the epoch; absent when it will not. */
      retry_at: z.number().optional(),
    }),
  },
  'tool.call': {
    level: 'progress',
    body: z.object({ tool: z.string(), args_summary: z.string(), call_id: z.string() }),
  },
  'tool.finished': {
    level: 'runtime',
    body: z.object({ call_id: z.string(), tool: z.string(), outcome: ToolResult, content: z.string() }),
  },
  'exec.completed': {
    level: 'progress',
    body: z.object({
      command: z.string(),
      exit_code: z.int().nullable(),
      summary: z.string(),
      content_ref: z.string().optional(),
      bytes: z.int().optional(),
    }),
  },
  'agent.result': {
    level: 'internal',
    body: z.object({
      subtype: z.string(),
      num_turns: z.int(),
      model: z.string(),
      is_error: z.boolean(),
      duration_ms: z.int(),
      duration_api_ms: z.int(),
      usage: TurnUsage,
    }),
  },
  'error.model': { level: 'internal', body: ErrorBody },
  'error.runtime': { level: 'internal', body: ErrorBody },
  'cancel.requested': {
    level: 'runtime',
    body: z.object({ turn_id: z.string(), archive: z.boolean() }),
  },
  'session.archived': { level: 'runtime', body: z.object({}) },
  'computer.attached': {
    level: 'runtime',
    body: z.object({ computer_id: z.string(), driver: z.string(), node: z.string(), generation: z.int() }),
  },
  'computer.woken': {
    level: 'runtime',
    body: z.object({ computer_id: z.string(), node: z.string(), generation: z.int() }),
  },
  'computer.hibernated': {
    level: 'runtime',
    body: z.object({ computer_id: z.string(), generation: z.int(), snapshot_ref: z.string().nullable() }),
  },
  'computer.lost': {
    level: 'runtime',
    body: z.object({ computer_id: z.string(), generation: z.int(), message: z.string() }),
  },
  'context.compacted': {
    level: 'runtime',
    body: z.object({ through_seq: z.int(), messages: z.array(Message) }),
  },
} as const satisfies Record<string, { level: Level; body: z.ZodType }>;

export type EventType = keyof typeof EVENTS;
export type EventBody<T extends EventType> = z.infer<(typeof EVENTS)[T]['body']>;

/** Who caused an event: a person (or their program), the agent, or the runtime. */
export type Actor = { type: 'human' | 'agent' | 'system'; id?: string; display?: string };

/** An event before it has its place in the log. */
export type Draft = {
  [T in EventType]: {
    type: T;
    body: EventBody<T>;
    /** Differs from the table only for an `agent.message` that is narration. */
    level: Level;
    actor: Actor;
    turn_id: string | null;
    source?: string;
    refs?: Record<string, unknown>;
    idempotency_key?: string;
  };
}[EventType];

/** An event in the log. `ts` is in ms since the epoch, by the database's clock, never below the previous event's. */
export type SessionEvent = Draft & { seq: number; ts: number };

/** Whether a reader at `threshold` sees an event at `level` (contract §9.4). */
export function isVisible(level: Level, threshold: Level): boolean {
  return LEVELS.indexOf(level) <= LEVELS.indexOf(threshold);
}
