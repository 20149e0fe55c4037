/** A destination: where the events of a session, an agent or a whole org are sent, and which of them (contract §12.1). */
import { z } from 'zod';

/** Events of `runtime` level never leave by webhook. */
export const DestinationLevel = z.enum(['user', 'progress', 'internal']);
export type DestinationLevel = z.infer<typeof DestinationLevel>;

/** An exact event type, or `prefix.*`. */
const TypePattern = z
  .string()
  .max(100)
  .regex(/^[a-z0-9_]+(\.[a-z0-9_]+)*(\.\*)?$/, 'must be an event type or "prefix.*"');

/** Types to send; null or empty = all. */
export const TypePatterns = z
  .array(TypePattern)
  .max(50)
  .nullable()
  .transform((types) => (types?.length === 0 ? null : types));

/** How many destinations a session, an agent or an org may have. */
export const DESTINATIONS_MAX = 20;

/** How many tests of destinations an org may have under way on a node, beside what it is owed. */
export const TESTS_AT_ONCE_MAX = 4;

/** How long a rotated secret goes on signing beside its successor. */
export const SECRET_OVERLAP_S = 24 * 3600;

/** Whose events a destination gets. */
export type DestinationScope =
  | { kind: 'session'; stream: string }
  | { kind: 'agent'; agent_id: string }
  | { kind: 'org' };
