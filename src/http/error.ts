/** Errors on the wire: one table from code to status, one envelope (contract §4). The text of a bug stays in our logs. */
import type { HttpBindings } from '@hono/node-server';
import type { Context, ErrorHandler, NotFoundHandler } from 'hono';
import { HTTPException } from 'hono/http-exception';
import type { ContentfulStatusCode } from 'hono/utils/http-status';
import { z } from '@hono/zod-openapi';
import type { Logger } from '../engine/runtime.ts';
import { ComputerLost, ConnectionRefused, DriverBusy, Unsupported } from '../resource/computer/driver.ts';
import { OverwinterError, type ErrorCode } from '../resource/error.ts';
import { isConnectionError } from '../store/ground/database.ts';
import type { Env } from './api.ts';

const STATUS: Record<ErrorCode, ContentfulStatusCode> = {
  invalid: 400,
  unauthorized: 401,
  forbidden: 403,
  not_found: 404,
  conflict: 409,
  idempotency_conflict: 409,
  fenced: 409,
  too_large: 413,
  no_credential: 422,
  managed_unavailable: 422,
  runtime_unavailable: 422,
  sources_not_supported: 422,
  not_supported: 422,
  rate_limited: 429,
  contended: 503,
  unavailable: 503,
};

const RETRY_AFTER_S = '1';

const Problem = z
  .object({
    error: z.object({
      type: z.string(),
      message: z.string(),
      param: z.string().optional().openapi({ description: 'The field of the request that is wrong.' }),
      request_id: z.string(),
    }),
  })
  .openapi('Error');

/** What every route may answer besides its own. */
export const problems = {
  '4XX': { description: 'The request was refused.', content: { 'application/json': { schema: Problem } } },
  '5XX': { description: 'The server failed.', content: { 'application/json': { schema: Problem } } },
} as const;

export function renderError(report: Logger['error']): ErrorHandler<Env> {
  return (error, context) => respond(context, problemOf(error, context, report));
}

export function renderNotFound(): NotFoundHandler<Env> {
  return (context) => respond(context, problemOf(noRoute(), context));
}

// The path is not said back: who puts a key there by mistake must not find it in what they log.
export function noRoute(): OverwinterError {
  return new OverwinterError('not_found', 'there is no such route');
}

/** What drivers say of a computer is for whoever uses it. */
export function saidByDriver(error: Error): Error {
  if (error instanceof ComputerLost || error instanceof DriverBusy)
    return new OverwinterError('unavailable', error.message);
  if (error instanceof Unsupported || error instanceof ConnectionRefused)
    return new OverwinterError('conflict', error.message);
  return error;
}

/** What went wrong, before a mount puts it in its own envelope. */
export type ProblemFacts = {
  status: ContentfulStatusCode;
  type: string;
  message: string;
  param?: string | undefined;
};

/** Reports what is nobody's fault but ours, and sets the headers that go with a refusal. */
export function problemOf(
  error: Error,
  context: Context<Env>,
  report: Logger['error'] = () => undefined,
): ProblemFacts {
  const facts = factsOf(error, context, report);
  if (facts.status === 429 || facts.status === 503) context.header('Retry-After', RETRY_AFTER_S);
  if (hasUnreadBody(context.env.incoming)) context.header('Connection', 'close');
  return facts;
}

function factsOf(error: Error, context: Context<Env>, report: Logger['error']): ProblemFacts {
  if (error instanceof OverwinterError) return refusal(error.code, error.message, error.param);
  if (error instanceof HTTPException) return malformed(error);
  // The client hung up in the middle of its body: nothing of ours failed, and nobody reads the answer.
  if (error === context.env.incoming.errored)
    return refusal('invalid', 'the request ended before its body did');
  report({ err: error, request_id: context.get('request_id') }, 'a request failed');
  if (isConnectionError(error)) return refusal('unavailable', 'the database cannot be reached; try again');
  const message = 'the server failed; the request id names the entry in its log';
  return { status: 500, type: 'internal', message };
}

/** What the body parser throws before a schema sees the request. */
function malformed(error: HTTPException): ProblemFacts {
  if (error.status !== 415) return refusal('invalid', error.message);
  return refusal('invalid', 'the body must be JSON, with Content-Type: application/json');
}

function refusal(code: ErrorCode, message: string, param?: string): ProblemFacts {
  return { status: STATUS[code], type: code, message, param };
}

function respond(context: Context<Env>, { status, type, message, param }: ProblemFacts): Response {
  const request_id = context.get('request_id');
  return context.json(
    { error: { type, message, ...(param === undefined ? {} : { param }), request_id } },
    status,
  );
}

/** The client still sends: it must not put its next request behind a body that nobody reads. */
function hasUnreadBody(incoming: HttpBindings['incoming']): boolean {
  const { 'content-length': length, 'transfer-encoding': encoding } = incoming.headers;
  return !incoming.complete && (Number(length ?? 0) > 0 || encoding !== undefined);
}
