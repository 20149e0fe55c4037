/** Browsers of any origin may call: requests carry bearer tokens and never cookies (contract §2.5). */
import type { MiddlewareHandler } from 'hono';
import type { Env } from './api.ts';
import { setHeaders } from './headers.ts';

const PREFLIGHT = {
  'access-control-allow-methods': 'GET,POST,PATCH,PUT,DELETE,OPTIONS',
  'access-control-allow-headers':
    'Authorization,Content-Type,Idempotency-Key,Last-Event-ID,X-API-Key,X-Current-Organization',
  'access-control-max-age': '86400',
};

export function cors(): MiddlewareHandler<Env> {
  return async (context, next) => {
    const headers = corsHeaders(context.req.header('origin'));
    if (context.req.method === 'OPTIONS') {
      return new Response(null, { status: 204, headers: { ...headers, ...PREFLIGHT } });
    }
    await next();
    setHeaders(context, headers);
    return undefined;
  };
}

/** The headers that let a page of `origin` read the response. */
export function corsHeaders(origin: string | undefined): Record<string, string> {
  if (origin === undefined) return { vary: 'Origin' };
  return {
    vary: 'Origin',
    'access-control-allow-origin': origin,
    'access-control-expose-headers': 'X-Request-Id,X-Trace-Id,Retry-After',
  };
}
