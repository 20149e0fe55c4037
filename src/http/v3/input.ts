/** What people say to a session: plain text or an envelope, and the event that it becomes (contract §10.2). */
import { z } from '@hono/zod-openapi';
import { OverwinterError } from '../../resource/error.ts';
import type { Input } from '../../session/command.ts';
import { text } from '../api.ts';
import type { Caller } from '../authorize.ts';

const INPUT_BYTES_MAX = 1024 * 1024;

/** Its length is checked in bytes, below: too long is 413, not 400. */
export const InputText = z.string().regex(/\S/, 'must not be blank');

export const Envelope = z
  .object({
    id: text(256).optional().openapi({ description: 'An idempotency key.' }),
    source: z.string().max(256).optional(),
    conversation: z.object({ source: z.string().max(256), ref: z.string().max(1024) }).optional(),
    text: InputText,
    refs: z.record(z.string(), z.unknown()).optional(),
    raw: z.unknown().optional(),
    actor: z
      .object({ id: z.string().max(256).optional(), display: z.string().max(256).optional() })
      .optional(),
  })
  .openapi('Envelope');

/** @throws OverwinterError `too_large` above 1 MiB of text. */
export function toInput(envelope: z.infer<typeof Envelope>, caller: Caller): Input {
  if (Buffer.byteLength(envelope.text) > INPUT_BYTES_MAX) {
    throw new OverwinterError('too_large', `the text exceeds ${INPUT_BYTES_MAX} bytes`, 'text');
  }
  const refs = refsOf(envelope);
  return {
    text: envelope.text,
    actor: actorOf(envelope, caller),
    ...(envelope.raw === undefined ? {} : { raw: envelope.raw }),
    ...(Object.keys(refs).length === 0 ? {} : { refs }),
    ...(envelope.id === undefined ? {} : { idempotency_key: envelope.id }),
  };
}

function refsOf({ refs, source, conversation }: z.infer<typeof Envelope>): Record<string, unknown> {
  return { ...refs, ...(source === undefined ? {} : { source }), ...(conversation ? { conversation } : {}) };
}

/** Whoever holds the org's key may say for whom they speak; a browser may not. */
function actorOf({ actor }: z.infer<typeof Envelope>, caller: Caller): Input['actor'] {
  if (caller.kind === 'client' || !actor) return { type: 'human' };
  const { id, display } = actor;
  return {
    type: 'human',
    ...(id === undefined ? {} : { id }),
    ...(display === undefined ? {} : { display }),
  };
}
