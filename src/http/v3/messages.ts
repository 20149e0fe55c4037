/** Messages: what user and agent said to each other, and a way to say more (contract §9.7, §10). */
import { createRoute, z } from '@hono/zod-openapi';
import type { Runtime } from '../../engine/runtime.ts';
import { sendMessage } from '../../engine/sessions.ts';
import { OverwinterError } from '../../resource/error.ts';
import { readPage } from '../../store/events.ts';
import { body, json, limit, text, type Api } from '../api.ts';
import type { Admit } from '../auth.ts';
import { seqCursor, Seq } from '../cursor.ts';
import { problems } from '../error.ts';
import { EventPage, jsonText, renderEventPage, Session } from '../wire.ts';
import { Envelope, InputText, toInput } from './input.ts';

const SessionPath = z.object({ session_id: z.string() });

const SendMessage = z
  .object({
    text: InputText.optional(),
    idempotency_key: text(256).min(1).optional(),
    envelope: Envelope.optional(),
  })
  .openapi('SendMessage', { example: { text: 'And below 1000?', idempotency_key: 'message-1' } });

const Sent = z.object({
  event: z.object({ id: z.string(), seq: z.int() }),
  session: z.object({ id: z.string(), status: Session.shape.status, head: z.int() }),
});

export function mountMessages(api: Api, runtime: Runtime, admit: Admit): void {
  api.openapi(
    createRoute({
      method: 'post',
      path: '/sessions/{session_id}/messages',
      ...admit.client('steer'),
      request: { params: SessionPath, ...body(SendMessage) },
      responses: {
        200: json(Sent, 'A replay: the event that an earlier request with this key wrote.'),
        202: json(Sent, 'The message is in the log.'),
        ...problems,
      },
    }),
    async (context) => {
      const envelope = envelopeOf(context.req.valid('json'));
      const input = toInput(envelope, context.get('caller'));
      const { replayed, ...sent } = await sendMessage(runtime, context.get('session').id, input);
      return context.json(sent, replayed ? 200 : 202);
    },
  );

  api.openapi(
    createRoute({
      method: 'get',
      path: '/sessions/{session_id}/messages',
      ...admit.client('read'),
      request: {
        params: SessionPath,
        query: z.object({ after: Seq, cursor: Seq, limit: limit(100, 500) }),
      },
      responses: {
        200: json(EventPage, 'Events of level `user` and type `*.message`, ascending.'),
        ...problems,
      },
    }),
    async (context) => {
      const { after, cursor, limit } = context.req.valid('query');
      const { id, head } = context.get('session');
      const filter = {
        after: seqCursor(head, { after, cursor }),
        limit,
        level: 'user',
        type: '*.message',
      } as const;
      return jsonText(renderEventPage(id, await readPage(runtime.database.db, id, filter), limit));
    },
  );
}

function envelopeOf(message: z.infer<typeof SendMessage>): z.infer<typeof Envelope> {
  const envelope = message.envelope ?? (message.text === undefined ? undefined : { text: message.text });
  if (!envelope) throw new OverwinterError('invalid', 'the body needs "text" or "envelope"', 'text');
  return message.idempotency_key === undefined ? envelope : { ...envelope, id: message.idempotency_key };
}
