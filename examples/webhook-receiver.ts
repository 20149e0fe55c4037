/** A receiver of webhooks: checks the signature over the raw body, answers at once, and takes each event once. */
import { createServer } from 'node:http';
import { text } from 'node:stream/consumers';
import { verifyWebhook, type WebhookDelivery } from '@opencomputer/sdk';

export function startReceiver(secret: string, onEvent: (delivery: WebhookDelivery) => void) {
  const seen = new Set<string>();
  return createServer((request, response) => {
    void text(request)
      .then((body) => verifyWebhook(body, request.headers as Record<string, string>, secret))
      .then((delivery) => {
        response.writeHead(204).end();
        const id = delivery.dedupeId!;
        if (!seen.has(id)) onEvent(delivery);
        seen.add(id);
      })
      .catch((error: Error) => response.writeHead(400).end(error.message));
  });
}
