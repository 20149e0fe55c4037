/**
 * What happens to a computer, as events of its own stream (level `runtime`: no client token and no webhook sees them). An intent
 * stands in the log before its effect, so that whoever comes after a crash knows what was meant.
 */
import { z } from 'zod';
import { ComputerSpec } from './spec.ts';

export const COMPUTER_EVENTS = {
  'computer.created': z.object({
    name: z.string(),
    driver: z.string(),
    spec: ComputerSpec,
    /** Whose node makes it, and will start it. */
    machine: z.string(),
    /** The session whose hands it is; null for one of its own. */
    session: z.string().nullable(),
    /** The snapshot blob that its first files come from. */
    from_snapshot: z.string().nullable(),
    /** Of the last wake before this log began; 0 for a new one. */
    generation: z.int(),
  }),
  /** A node of the machine is about to wake it; the generation is given to this wake only. */
  'computer.starting': z.object({ machine: z.string(), generation: z.int(), holder: z.int().nullable() }),
  'computer.started': z.object({
    generation: z.int(),
    reference: z.record(z.string(), z.union([z.string(), z.number()])),
    files: z.enum(['kept', 'restored', 'empty']),
  }),
  'computer.stopping': z.object({ generation: z.int() }),
  /** `snapshot`: the blob with its files, where they were saved. */
  'computer.stopped': z.object({
    cause: z.enum(['asked', 'idle', 'node_ended']),
    snapshot: z.string().nullable(),
  }),
  /** Its files are thrown away and its next ones come from the blob; the generation is of no wake. */
  'computer.rewound': z.object({ generation: z.int(), snapshot: z.string() }),
  'computer.failed': z.object({ message: z.string() }),
  /** Its machine is away: `restorable` from the last snapshot, or lost until the machine comes back. */
  'computer.missed': z.object({ restorable: z.boolean() }),
  'computer.deleting': z.object({}),
  'computer.deleted': z.object({}),
} as const;

type ComputerEventType = keyof typeof COMPUTER_EVENTS;

export type ComputerDraft = {
  [Type in ComputerEventType]: { type: Type; body: z.infer<(typeof COMPUTER_EVENTS)[Type]> };
}[ComputerEventType];

export type ComputerEvent = ComputerDraft & { seq: number; ts: number };
