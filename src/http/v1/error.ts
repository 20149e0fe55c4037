/** Refusals as clients of `/v1` read them (contract §2): one sentence in `detail`; what does not fit a schema is listed besides. */
import { z, type Hook } from '@hono/zod-openapi';
import type { Context, ErrorHandler } from 'hono';
import { HTTPException } from 'hono/http-exception';
import type { Logger } from '../../engine/runtime.ts';
import type { Env } from '../api.ts';
import { problemOf, saidByDriver } from '../error.ts';

const Detail = z.object({ detail: z.string() }).openapi('ComputersError');

const Unfit = z
  .object({
    detail: z.literal('Validation error'),
    errors: z.array(
      z.object({
        loc: z.array(z.union([z.string(), z.int()])),
        msg: z.string(),
        type: z.string(),
      }),
    ),
    status_code: z.literal(422),
  })
  .openapi('ComputersValidationError');
type Fault = z.infer<typeof Unfit>['errors'][number];

/** What every route may answer besides its own. */
export const details = {
  '4XX': {
    description: 'The request was refused; 422 when it does not fit the schema.',
    content: { 'application/json': { schema: z.union([Unfit, Detail]) } },
  },
  '5XX': { description: 'The server failed.', content: { 'application/json': { schema: Detail } } },
} as const;

export function renderDetail(report: Logger['error']): ErrorHandler<Env> {
  return (error, context) => {
    const { status, message } = problemOf(saidByDriver(error), context, report);
    if (error instanceof HTTPException)
      return unfit(context, [{ loc: ['body'], msg: message, type: 'json_invalid' }]);
    return context.json({ detail: message }, status);
  };
}

/** Where the parts of a request are, in the words of the clients' server. */
const PLACES: Record<string, string> = { json: 'body', query: 'query', param: 'path', header: 'header' };
const FAULTS_MAX = 20;

export const refuseUnfit: Hook<unknown, Env, string, Response | undefined> = (result, context) => {
  if (result.success) return undefined;
  const faults = result.error.issues.slice(0, FAULTS_MAX).map((issue) => ({
    loc: [PLACES[result.target] ?? 'body', ...issue.path.filter((step) => typeof step !== 'symbol')],
    msg: issue.message,
    type: issue.code,
  }));
  return unfit(context, faults);
};

function unfit(context: Context, errors: Fault[]): Response {
  return context.json({ detail: 'Validation error', errors, status_code: 422 } as const, 422);
}
