/**
 * A webhook request: the envelope around an event, and its headers (contract §12.5). `webhook-id` is the event's id, the same for every
 * attempt, by which receivers tell a repetition.
 */
import type { NewId } from '../resource/id.ts';
import { signWebhook } from '../secret/webhook.ts';
import { renderEvent, type EventRow } from '../store/rows.ts';

export type WebhookRequest = { headers: Record<string, string>; body: string };

export type Owed = {
  delivery_id: string;
  session: string;
  /** The session's, as JSON text; it goes on as it was given. */
  metadata: string | null;
  event: EventRow;
  include_raw: boolean;
};

/** @param secrets what signs, newest first; without any the request is unsigned. @param now in ms since the epoch. */
export function webhookRequest(owed: Owed, secrets: string[], now: number): WebhookRequest {
  const { delivery_id, session, metadata, event, include_raw } = owed;
  const sent = renderEvent(session, include_raw ? event : withoutRaw(event));
  const head = JSON.stringify({ type: event.type, sessionId: session, eventId: event.id });
  const body = `${head.slice(0, -1)},"metadata":${metadata ?? 'null'},"event":${sent}}`;
  const timestamp_s = Math.floor(now / 1000);
  return {
    body,
    headers: {
      'content-type': 'application/json',
      'user-agent': 'Overwinter-Webhooks/1',
      'webhook-id': event.id,
      'webhook-timestamp': String(timestamp_s),
      ...(secrets.length === 0
        ? {}
        : { 'webhook-signature': signWebhook(secrets, event.id, timestamp_s, body) }),
      'x-oc-delivery-id': delivery_id,
      'x-oc-session-id': session,
    },
  };
}

/** A request that is no event of any log, to try a destination with; `type` is `webhook.test`. */
export function testRequest(
  destination: { id: string; stream: string | null },
  newId: NewId,
  secrets: string[],
  now: number,
): WebhookRequest {
  const session = destination.stream ?? newId('session');
  const event: EventRow = {
    ...{
      seq: 0,
      id: newId('event'),
      type: 'webhook.test',
      level: 'user',
      turn_id: null,
      source: null,
      refs: null,
    },
    actor: JSON.stringify({ type: 'system' }),
    ts: Math.round(now),
    body: JSON.stringify({ destination_id: destination.id }),
    body_bytes: 0,
    content_ref: null,
  };
  const owed = { delivery_id: newId('delivery'), session, metadata: null, event, include_raw: true };
  return webhookRequest(owed, secrets, now);
}

/** What a user's client put beside the text stays here unless the destination asks for it. */
function withoutRaw(event: EventRow): EventRow {
  if (!event.body.includes('"raw"')) return event;
  const { raw: _, ...body } = JSON.parse(event.body) as { raw?: unknown };
  return { ...event, body: JSON.stringify(body) };
}
