/**
 * The nouns as they go over the wire (contract §7.1, §9.1, §15.1, §15.5). Event bodies are passed on as the bytes that were
 * written; nothing here parses or rewrites them.
 */
import { z } from '@hono/zod-openapi';
import { Limits } from '../resource/limits.ts';
import { LEVELS, YieldReason } from '../session/event.ts';
import type { AgentRow } from '../store/agents.ts';
import type { CredentialRow } from '../store/credentials.ts';
import { renderEvent, type EventRow } from '../store/rows.ts';
import type { SessionRow } from '../store/sessions.ts';

export const Time = z.string().openapi({ format: 'date-time' });

export const Session = z
  .object({
    id: z.string(),
    status: z.enum(['queued', 'running', 'awaiting_input', 'idle', 'failed', 'archived']),
    head: z.int().openapi({ description: 'The seq of the newest event.' }),
    input_cursor: z.int().openapi({ description: 'Input up to this seq was consumed by a turn.' }),
    agent_id: z.string(),
    credential_id: z.string().nullable(),
    agent_snapshot: z.object({
      prompt_hash: z.string(),
      model: z.string(),
      runtime: z.string(),
      revision: z.int(),
    }),
    last_turn: z
      .object({
        id: z.string(),
        state: z.enum(['ok', 'error']),
        yield_reason: YieldReason,
        result_event_id: z.string().optional(),
      })
      .nullable(),
    usage: z.record(z.string(), z.union([z.number(), z.boolean()])),
    limits: Limits.nullable(),
    metadata: z.record(z.string(), z.unknown()).nullable(),
    key: z.string().optional(),
    sandboxes: z.object({ brain: z.null(), hands: z.string().nullable() }),
    created_at: Time,
  })
  .openapi('Session');

export function renderSession(row: SessionRow): z.infer<typeof Session> {
  const { prompt_hash, model, runtime, revision } = row.snapshot;
  return {
    id: row.id,
    status: row.status,
    head: row.head,
    input_cursor: row.input_cursor,
    agent_id: row.agent_id,
    credential_id: row.credential_id,
    agent_snapshot: { prompt_hash, model, runtime, revision },
    last_turn: renderLastTurn(row.last_turn),
    usage: row.usage as Record<string, number | boolean>,
    limits: row.limits,
    metadata: row.metadata,
    ...(row.key === null ? {} : { key: row.key }),
    sandboxes: { brain: null, hands: row.computer_id },
    created_at: row.created_at.toISOString(),
  };
}

function renderLastTurn(turn: SessionRow['last_turn']): z.infer<typeof Session>['last_turn'] {
  if (!turn) return null;
  const { id, state, yield_reason, result_event_id } = turn;
  return { id, state, yield_reason, ...(result_event_id === undefined ? {} : { result_event_id }) };
}

export const Event = z
  .object({
    id: z.string(),
    seq: z.int(),
    ts: Time,
    session: z.string(),
    actor: z.looseObject({ type: z.string(), kind: z.string() }),
    type: z.string(),
    level: z.enum(LEVELS),
    body: z.record(z.string(), z.unknown()),
    refs: z.record(z.string(), z.unknown()),
    turn_id: z.string().nullable(),
    source: z.string().optional(),
    content_ref: z.string().optional(),
    body_truncated: z.literal(true).optional(),
    body_bytes: z.int().optional(),
  })
  .openapi('Event');

export const EventPage = z.object({ data: z.array(Event), next_cursor: z.string().nullable() });

/** @param limit the page size that was asked for: a full page has a successor. */
export function renderEventPage(session: string, rows: EventRow[], limit: number): string {
  const data = rows.map((row) => renderEvent(session, row)).join(',');
  const next_cursor = rows.length < limit ? null : String(rows.at(-1)?.seq);
  return `{"data":[${data}],"next_cursor":${JSON.stringify(next_cursor)}}`;
}

/** JSON text as a response; `never` because no type can tell what is in the text. */
export function jsonText(text: string): never {
  return new Response(text, { headers: { 'content-type': 'application/json' } }) as never;
}

export const Agent = z
  .object({
    id: z.string(),
    name: z.string(),
    invoke_url: z
      .string()
      .openapi({ description: 'Always empty: agents are started through POST /sessions.' }),
    prompt: z.string(),
    prompt_hash: z.string(),
    model: z.string(),
    runtime: z.string(),
    credential_id: z.string().nullable(),
    revision: z.int(),
    active_revision_id: z.string(),
    active_revision: z.object({ id: z.string(), number: z.int(), digest: z.string() }),
    limits: Limits.nullable(),
    created_at: Time,
    updated_at: Time,
  })
  .openapi('Agent');

export function renderAgent(row: AgentRow): z.infer<typeof Agent> {
  const { id, name, prompt, prompt_hash, model, runtime, credential_id, revision, limits } = row;
  return {
    ...{ id, name, invoke_url: '', prompt, prompt_hash, model, runtime, credential_id, revision, limits },
    active_revision_id: row.revision_id,
    active_revision: { id: row.revision_id, number: revision, digest: row.revision_digest },
    created_at: row.created_at.toISOString(),
    updated_at: row.updated_at.toISOString(),
  };
}

export const Credential = z
  .object({
    id: z.string(),
    provider: z.string(),
    name: z.string().nullable(),
    last4: z.string(),
    is_default: z.boolean(),
    created_at: Time,
  })
  .openapi('Credential');

export function renderCredential(row: CredentialRow): z.infer<typeof Credential> {
  return { ...row, created_at: row.created_at.toISOString() };
}
