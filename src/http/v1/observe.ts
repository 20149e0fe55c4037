/** What computers use, as their drivers count it. Samples are what was measured when someone asked; a node forgets them when it ends. */
import { z } from '@hono/zod-openapi';
import type { Computer, ComputerUsage } from '../../resource/computer/driver.ts';
import type { ComputerState } from '../../resource/computer/life.ts';
import { Time } from '../wire.ts';

const MINUTE_MS = 60_000;
const WINDOW_MS = { '1h': 60 * MINUTE_MS, '24h': 24 * 60 * MINUTE_MS };
export const WINDOWS = ['1h', '24h'] as const;
/** Of one computer, a minute apart: a day. */
const SAMPLES_MAX = 1440;
/** The one that was asked about longest ago is forgotten beyond it. */
const COMPUTERS_MAX = 1000;
const MIB = 1024 * 1024;

const amount = z.number().nullable();
const status = z.enum(['ok', 'unavailable']);

export const Metrics = z
  .object({
    observed_at: Time,
    stale: z.literal(false),
    partial: z.boolean().openapi({ description: 'Whether the driver could not tell some of it.' }),
    runtime_instance_id: z.string().openapi({ description: 'Another after each start.' }),
    uptime_seconds: z.number(),
    guest_metrics_status: status,
    host_metrics_status: status,
    cpu_used_percent: amount.openapi({
      description: 'Of its own vCPUs, since the last sample or its start.',
    }),
    ram_used_mb: amount,
    ram_total_mb: z.int(),
    disk_used_mb: amount,
    disk_total_mb: z.int(),
    network_rx_bytes: amount,
    network_tx_bytes: amount,
    disk_read_bytes: amount,
    disk_write_bytes: amount,
  })
  .openapi('ComputerMetrics');

type Sample = { at: number; cpu_seconds: number | null; metrics: z.infer<typeof Metrics> };
type Observed = { latest: z.infer<typeof Metrics> | null; samples: z.infer<typeof Metrics>[] };

export type Observe = (
  state: ComputerState,
  handle: Computer | undefined,
  window: (typeof WINDOWS)[number],
  now: number,
) => Promise<Observed>;

export function createObserver(): Observe {
  const kept = new Map<string, Sample[]>();
  return async (state, handle, window, now) => {
    const samples = kept.get(state.id) ?? [];
    const usage = await handle?.usage().catch(() => undefined);
    const sample = usage && measure(state, usage, samples.at(-1), now);
    if (sample) keep(kept, state.id, samples, sample);
    const since = now - WINDOW_MS[window];
    return {
      latest: sample?.metrics ?? null,
      samples: samples.filter(({ at }) => at >= since).map(({ metrics }) => metrics),
    };
  };
}

function keep(kept: Map<string, Sample[]>, id: string, samples: Sample[], sample: Sample): void {
  const last = samples.at(-1);
  if (!last || sample.at - last.at >= MINUTE_MS) samples.push(sample);
  if (samples.length > SAMPLES_MAX) samples.shift();
  kept.delete(id);
  kept.set(id, samples);
  const oldest = kept.size > COMPUTERS_MAX ? kept.keys().next().value : undefined;
  if (oldest !== undefined) kept.delete(oldest);
}

function measure(state: ComputerState, usage: ComputerUsage, last: Sample | undefined, now: number): Sample {
  const { id, generation, spec } = state;
  const { cpu_seconds, memory_bytes, disk_bytes, uptime_ms } = usage;
  const runtime_instance_id = `${id}:${generation}`;
  const before = last?.metrics.runtime_instance_id === runtime_instance_id ? last : undefined;
  const known = [cpu_seconds, memory_bytes, disk_bytes].filter((value) => value !== null).length;
  const metrics = {
    observed_at: new Date(now).toISOString(),
    ...{ stale: false as const, partial: known < 3, runtime_instance_id, uptime_seconds: uptime_ms / 1000 },
    // Everything is measured from outside.
    ...{
      guest_metrics_status: 'unavailable' as const,
      host_metrics_status: known > 0 ? ('ok' as const) : ('unavailable' as const),
    },
    cpu_used_percent: percentOf(usage, before, now, spec?.vcpus ?? 1),
    ...{ ram_used_mb: inMib(memory_bytes), ram_total_mb: spec?.ram_mb ?? 0 },
    ...{ disk_used_mb: inMib(disk_bytes), disk_total_mb: spec?.disk_size_mb ?? 0 },
    ...{ network_rx_bytes: null, network_tx_bytes: null, disk_read_bytes: null, disk_write_bytes: null },
  };
  return { at: now, cpu_seconds, metrics };
}

function percentOf(
  usage: ComputerUsage,
  before: Sample | undefined,
  now: number,
  vcpus: number,
): number | null {
  if (usage.cpu_seconds === null) return null;
  const used_s = usage.cpu_seconds - (before?.cpu_seconds ?? 0);
  const passed_s = (before ? now - before.at : usage.uptime_ms) / 1000;
  return passed_s <= 0 ? null : (100 * used_s) / passed_s / vcpus;
}

function inMib(bytes: number | null): number | null {
  return bytes === null ? null : bytes / MIB;
}
