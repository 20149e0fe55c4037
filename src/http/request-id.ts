/** Names every request: `x-request-id` is ours, `x-trace-id` is the caller's W3C trace when it brings one. */
import { randomBytes } from 'node:crypto';
import type { MiddlewareHandler } from 'hono';
import type { NewId } from '../resource/id.ts';
import type { Env } from './api.ts';
import { setHeaders } from './headers.ts';

export function requestId(newId: NewId): MiddlewareHandler<Env> {
  return async (context, next) => {
    const request_id = newId('request');
    const trace_id = traceOf(context.req.header('traceparent')) ?? randomBytes(16).toString('hex');
    context.set('request_id', request_id);
    context.set('trace_id', trace_id);
    await next();
    // Read back, not ours: a request for the path `/*` itself passes here twice, and what it was refused with bears the later id.
    const { request_id: final, trace_id: traced } = context.var;
    setHeaders(context, { 'x-request-id': final, 'x-trace-id': traced });
  };
}

function traceOf(traceparent: string | undefined): string | undefined {
  return /^[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}$/.exec(traceparent ?? '')?.[1];
}
