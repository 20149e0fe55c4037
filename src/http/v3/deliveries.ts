/** Deliveries of webhooks: what was owed of a session's events, and what became of it (contract §12.3). Org keys only. */
import { createRoute, z } from '@hono/zod-openapi';
import type { Runtime } from '../../engine/runtime.ts';
import { DELIVERY_STATUSES } from '../../resource/delivery.ts';
import { OverwinterError } from '../../resource/error.ts';
import { eventId } from '../../resource/id.ts';
import { getDelivery, listDeliveries, redeliver, type DeliveryRow } from '../../store/webhook/deliveries.ts';
import { idCursor, json, limit, nextCursor, text, TimeQuery, type Api } from '../api.ts';
import type { Admit } from '../auth.ts';
import { problems } from '../error.ts';
import { Time } from '../wire.ts';

const Delivery = z
  .object({
    id: z.string(),
    session: z.string(),
    destination: z.string(),
    event_id: z.string(),
    event_seq: z.int(),
    status: z.enum(DELIVERY_STATUSES),
    attempts: z.int(),
    last_attempt_at: Time.optional(),
    response_code: z.int().optional().openapi({ description: "Of the last attempt's response." }),
    response_body: z.string().optional().openapi({ description: 'Its first 400 characters.' }),
    error: z.string().optional().openapi({ description: 'Why the last attempt did not deliver.' }),
    created_at: Time,
    updated_at: Time,
  })
  .openapi('Delivery');

export const DeliveryPage = z.object({ data: z.array(Delivery), next_cursor: z.string().nullable() });

export const DeliveryQuery = z.object({
  destination: text(256).optional(),
  status: z.enum(DELIVERY_STATUSES).optional(),
  after: TimeQuery.optional().openapi({ description: 'Written after this time.' }),
  limit: limit(50, 100),
  cursor: idCursor('dlv_'),
});

export function renderDelivery(row: DeliveryRow): z.infer<typeof Delivery> {
  const { id, stream, seq, destination_id, status, attempts, response_code, response_body, error } = row;
  return {
    ...{ id, session: stream, destination: destination_id, event_id: eventId(stream, seq), event_seq: seq },
    ...{ status, attempts },
    ...(row.last_attempt_at === null ? {} : { last_attempt_at: row.last_attempt_at.toISOString() }),
    ...(response_code === null ? {} : { response_code }),
    ...(response_body === null ? {} : { response_body }),
    ...(error === null ? {} : { error }),
    created_at: row.created_at.toISOString(),
    updated_at: row.updated_at.toISOString(),
  };
}

const DeliveryPath = z.object({ session_id: z.string(), delivery_id: text(256) });

export function mountDeliveries(api: Api, runtime: Runtime, admit: Admit): void {
  api.openapi(
    createRoute({
      method: 'get',
      path: '/sessions/{session_id}/deliveries',
      ...admit.session('read'),
      request: { params: z.object({ session_id: z.string() }), query: DeliveryQuery },
      responses: { 200: json(DeliveryPage, 'Newest first.'), ...problems },
    }),
    async (context) => {
      const { org } = context.get('caller');
      const filter = context.req.valid('query');
      const rows = await listDeliveries(runtime.database.db, org, context.get('session').id, filter);
      return context.json(
        { data: rows.map(renderDelivery), next_cursor: nextCursor(rows, filter.limit) },
        200,
      );
    },
  );

  api.openapi(
    createRoute({
      method: 'get',
      path: '/sessions/{session_id}/deliveries/{delivery_id}',
      ...admit.session('read'),
      request: { params: DeliveryPath },
      responses: { 200: json(Delivery, 'The delivery.'), ...problems },
    }),
    async (context) => {
      const { org } = context.get('caller');
      const { delivery_id } = context.req.valid('param');
      const row = await getDelivery(runtime.database.db, org, context.get('session').id, delivery_id);
      if (!row) throw new OverwinterError('not_found', 'no such delivery');
      return context.json(renderDelivery(row), 200);
    },
  );

  api.openapi(
    createRoute({
      method: 'post',
      path: '/sessions/{session_id}/deliveries/{delivery_id}/redeliver',
      ...admit.session('write'),
      request: { params: DeliveryPath },
      responses: {
        202: json(Delivery, 'It is due again, whatever became of it; to a paused destination it waits.'),
        ...problems,
      },
    }),
    async (context) => {
      const { org } = context.get('caller');
      const { id } = context.get('session');
      const { delivery_id } = context.req.valid('param');
      const { db } = runtime.database;
      const row = await redeliver(db, org, id, delivery_id);
      if (row) return context.json(renderDelivery(row), 202);
      if (!(await getDelivery(db, org, id, delivery_id)))
        throw new OverwinterError('not_found', 'no such delivery');
      throw new OverwinterError('conflict', 'the destination of this delivery was deleted');
    },
  );
}
