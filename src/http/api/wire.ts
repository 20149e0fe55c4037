/** Sandboxes as they go over the wire (contract §17): computers, in the words of OpenComputer's clients. */
import { z } from '@hono/zod-openapi';
import type { ComputerState, ComputerStatus } from '../../resource/computer/life.ts';
import { RANGES, Variables as ComputerVariables } from '../../resource/computer/spec.ts';
import type { Keeping } from '../../store/computer/keeping.ts';
import { text } from '../api.ts';
import { Time } from '../wire.ts';

export const SandboxPath = z.object({
  sandbox_id: text(256).openapi({ description: 'The id or the name of a computer.' }),
});

const STATUSES = ['running', 'hibernated', 'stopped', 'error'] as const;

/** What is on its way up counts as running, as every request waits for it; what is on its way down as hibernated. */
const STATUS: Record<ComputerStatus, (typeof STATUSES)[number]> = {
  ...{ creating: 'running', starting: 'running', restoring: 'running', running: 'running' },
  ...{ stopping: 'hibernated', stopped: 'hibernated', restorable: 'hibernated' },
  ...{ deleting: 'stopped', deleted: 'stopped' },
  ...{ error: 'error', lost: 'error' },
};

export const Sandbox = z
  .object({
    sandboxID: z.string(),
    name: z.string(),
    status: z.enum(STATUSES),
    region: z.literal('local'),
    workerID: z.string().openapi({ description: 'The machine that has its files.' }),
    templateID: z.string(),
    cpuCount: z.number(),
    memoryMB: z.int(),
    diskMB: z.int(),
    timeout: z.int().openapi({ description: 'Unused for so many seconds it hibernates; 0 = never.' }),
    metadata: z.record(z.string(), z.string()),
    tags: z.record(z.string(), z.string()).openapi({ description: 'None: they are not served.' }),
    sandboxDomain: z.string().openapi({ description: 'What the hosts of its preview URLs end with.' }),
    agentSessionID: z.string().nullable().openapi({ description: 'The session whose computer it is.' }),
    startedAt: Time,
    lastError: z.string().optional().openapi({ description: 'Why it is in `error`.' }),
  })
  .openapi('Sandbox');

function statusOf({ status }: Pick<ComputerState, 'status'>): (typeof STATUSES)[number] {
  return STATUS[status];
}

export function renderSandbox(
  state: ComputerState,
  { idle_timeout_s, metadata }: Keeping,
  sandboxDomain: string,
): z.infer<typeof Sandbox> {
  const { id, name, spec, machine, session, created_at, last_error } = state;
  if (!spec) throw new Error(`computer ${id} has no specification`);
  return {
    ...{ sandboxID: id, name, status: statusOf(state), region: 'local', workerID: machine },
    ...{
      templateID: spec.template_id,
      cpuCount: spec.vcpus,
      memoryMB: spec.ram_mb,
      diskMB: spec.disk_size_mb,
    },
    ...{
      timeout: idle_timeout_s,
      metadata: metadata ?? {},
      tags: {},
      sandboxDomain,
      agentSessionID: session,
    },
    startedAt: new Date(created_at).toISOString(),
    ...(last_error !== null && { lastError: last_error }),
  };
}

export const Variables = z
  .lazy(() => ComputerVariables)
  .openapi({
    type: 'object',
    additionalProperties: { type: 'string' },
    example: { LANG: 'C.UTF-8' },
  });

/** A year. */
const TIMEOUT_S_MAX = 31_536_000;
export const Timeout = z
  .int()
  .min(0)
  .max(TIMEOUT_S_MAX)
  .openapi({ description: 'In seconds; unused for so long it hibernates. 0 = never.' });

const whole = ({ min, max }: { min: number; max: number }) => z.int().min(min).max(max).optional();
export const SIZES = {
  cpuCount: whole(RANGES.vcpus),
  memoryMB: whole(RANGES.ram_mb),
  diskMB: whole(RANGES.disk_size_mb),
};
