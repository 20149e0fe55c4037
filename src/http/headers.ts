/** Headers that middleware adds after the handler. A stream has sent its own by then (http/sse.ts). */
import { RESPONSE_ALREADY_SENT } from '@hono/node-server/utils/response';
import type { Context } from 'hono';
import type { Env } from './api.ts';

export function setHeaders(context: Context<Env>, headers: Record<string, string>): void {
  // The marker is one object for all streams: what is set on it would leak from one to the next.
  if (context.res === RESPONSE_ALREADY_SENT) return;
  for (const [name, value] of Object.entries(headers)) context.res.headers.set(name, value);
}
