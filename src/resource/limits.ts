/** What bounds a session's work. Session limits override the agent's field by field (contract §11.1). */
import { z } from 'zod';

/** No turn outlives this, whatever its limits say (contract §11.1). */
export const TURN_SECONDS_MAX = 1800;

export const Limits = z.object({
  /** Over the whole session, all four token counts together. */
  tokens: z.int().positive().optional(),
  /** Of one turn, on the wall clock; at most 1,800 are honoured. */
  turn_seconds: z.int().positive().optional(),
  /** How many turns may run in the session. */
  turns: z.int().positive().optional(),
});
export type Limits = z.infer<typeof Limits>;

/** Merges field by field; a field that neither sets stays absent. */
export function mergeLimits(agent: Limits | null, session: Limits | null): Limits {
  const merged: Limits = {};
  for (const limits of [agent, session]) {
    if (limits?.tokens !== undefined) merged.tokens = limits.tokens;
    if (limits?.turn_seconds !== undefined) merged.turn_seconds = limits.turn_seconds;
    if (limits?.turns !== undefined) merged.turns = limits.turns;
  }
  return merged;
}
