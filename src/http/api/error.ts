/** Refusals as clients of `/api` read them: one sentence in `error`, and what kind it is in `code`. */
import { z } from '@hono/zod-openapi';
import type { ErrorHandler } from 'hono';
import type { Logger } from '../../engine/runtime.ts';
import { OverwinterError } from '../../resource/error.ts';
import type { Env } from '../api.ts';
import { problemOf, saidByDriver } from '../error.ts';

const Refusal = z
  .object({
    error: z.string(),
    code: z.string(),
    waking: z.literal(true).optional().openapi({ description: 'It is on its way; ask again.' }),
  })
  .openapi('SandboxError');

/** What every route may answer besides its own. */
export const refusals = {
  '4XX': {
    description: 'The request was refused; `not_supported` where no computer here could do it.',
    content: { 'application/json': { schema: Refusal } },
  },
  '5XX': { description: 'The server failed.', content: { 'application/json': { schema: Refusal } } },
} as const;

/** Whoever asked asks again by itself. */
export class Waking extends Error {}
const WAKING = 'the sandbox is waking; ask again';

export function renderRefusal(report: Logger['error']): ErrorHandler<Env> {
  return (error, context) => {
    if (error instanceof Waking) {
      const { status, type, message } = problemOf(new OverwinterError('unavailable', WAKING), context);
      return context.json({ error: message, code: type, waking: true }, status);
    }
    const { status, type, message } = problemOf(saidByDriver(error), context, report);
    return context.json({ error: message, code: type }, status);
  };
}
