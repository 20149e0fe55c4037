/** Places in a session's log, as readers name them: the seq after which to go on (contract §9.7). */
import { z } from '@hono/zod-openapi';
import { OverwinterError } from '../resource/error.ts';

/** A seq of the query. What it may be depends on the session, so `seqCursor` checks it. */
export const Seq = z.string().optional().openapi({ description: 'An exclusive seq.' });

/**
 * The largest of the given places, 0 when there is none.
 * @throws OverwinterError `invalid` for what is not a seq or lies beyond `head`.
 */
export function seqCursor(head: number, places: Record<string, string | undefined>): number {
  const seqs = Object.entries(places).map(([name, value]) => {
    if (value === undefined || value === '') return 0;
    const seq = /^\d{1,15}$/.test(value) ? Number(value) : Number.NaN;
    if (seq <= head) return seq;
    throw new OverwinterError(
      'invalid',
      `"${name}" is not a place in this session, which has ${head} events`,
      name,
    );
  });
  return Math.max(0, ...seqs);
}
