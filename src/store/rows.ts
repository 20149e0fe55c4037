/**
 * An event as a row and as its readers get it: the body as the bytes that were written once, the place in the hash chain, and a
 * preview where the body is too large to stand inline.
 */
import { createHash } from 'node:crypto';
import { OverwinterError } from '../resource/error.ts';
import { eventId } from '../resource/id.ts';
import type { Actor, Level } from '../session/event.ts';

/** Bodies above this go to the blob table; the event keeps a preview and `content_ref` (contract §9.5). */
const INLINE_BODY_BYTES = 32_768;
const BODY_BYTES_MAX = 8 * 1024 * 1024;
const PREVIEW_CHARACTERS = 1000;

/** What readers need of an event; `body`, `actor` and `refs` are JSON text, passed on as they are. */
export type EventRow = {
  seq: number;
  id: string;
  type: string;
  level: string;
  turn_id: string | null;
  actor: string;
  source: string | null;
  refs: string | null;
  ts: number;
  body: string;
  body_bytes: number;
  content_ref: string | null;
};

export type NewRow = EventRow & {
  idempotency_key: string | null;
  /** Hex. */
  hash: string;
  /** The whole body when `body` is only a preview. */
  spilled: string | null;
};

/** An event before it has its place in the log, of whatever kind of stream. */
export type RowDraft = {
  type: string;
  body: object;
  level: Level;
  actor: Actor;
  turn_id: string | null;
  source?: string;
  refs?: Record<string, unknown>;
  idempotency_key?: string;
};

/**
 * The rows of drafts that follow `head`.
 * @throws OverwinterError `too_large` for a body over 8 MiB.
 */
export function buildRows(
  stream: string,
  head: { seq: number; hash: string },
  drafts: RowDraft[],
  ts: number,
): NewRow[] {
  let { seq, hash } = head;
  return drafts.map((draft) => {
    seq += 1;
    const text = JSON.stringify(draft.body);
    const body_bytes = Buffer.byteLength(text);
    if (body_bytes > BODY_BYTES_MAX) {
      throw new OverwinterError(
        'too_large',
        `an event body of ${body_bytes} bytes exceeds ${BODY_BYTES_MAX}`,
      );
    }
    hash = chainHash(hash, seq, draft.type, text);
    const id = eventId(stream, seq);
    const spills = body_bytes > INLINE_BODY_BYTES;
    return {
      seq,
      id,
      type: draft.type,
      level: draft.level,
      turn_id: draft.turn_id,
      actor: JSON.stringify(draft.actor),
      source: draft.source ?? null,
      refs: draft.refs ? JSON.stringify(draft.refs) : null,
      ts,
      body: spills ? preview(draft.body) : text,
      body_bytes,
      content_ref: spills ? `events/${id}` : null,
      idempotency_key: draft.idempotency_key ?? null,
      hash,
      spilled: spills ? text : null,
    };
  });
}

/** sha256(previous ‖ seq ‖ type ‖ sha256(body)): a body may be erased and the chain still verifies. */
export function chainHash(previous: string, seq: number, type: string, body: string): string {
  return createHash('sha256')
    .update(Buffer.from(previous, 'hex'))
    .update(`${seq}\n${type}\n`)
    .update(createHash('sha256').update(body).digest())
    .digest('hex');
}

/** The event of a row whose whole body is `text`. */
export function toEvent(row: EventRow, text: string): object {
  const { seq, ts, type, level, turn_id } = row;
  const actor: unknown = JSON.parse(row.actor);
  return { seq, ts, type, level, turn_id, actor, body: JSON.parse(text) as unknown };
}

/** Rows are shared by all readers of a stream, so each event is rendered once for all of them. */
const rendered = new WeakMap<EventRow, string>();

/** The event as streams, pages and webhooks send it (contract §9.1): JSON text on one line. */
export function renderEvent(session: string, row: EventRow): string {
  const known = rendered.get(row);
  if (known !== undefined) return known;
  const { id, seq, type, level, turn_id, source, content_ref, body_bytes } = row;
  const actor = JSON.parse(row.actor) as { type: string };
  const head = JSON.stringify({
    ...{ id, seq, ts: new Date(row.ts).toISOString(), session, actor: { ...actor, kind: actor.type } },
    ...{ type, level, turn_id },
    ...(source === null ? {} : { source }),
    ...(content_ref === null ? {} : { content_ref, body_truncated: true, body_bytes }),
  });
  const event = `${head.slice(0, -1)},"refs":${row.refs ?? '{}'},"body":${row.body}}`;
  rendered.set(row, event);
  return event;
}

function preview(body: object): string {
  const text = 'text' in body && typeof body.text === 'string' ? body.text : undefined;
  return JSON.stringify(text === undefined ? {} : { text: text.slice(0, PREVIEW_CHARACTERS) });
}
