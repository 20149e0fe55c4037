/**
 * The watch on what a container's layer holds, where the daemon's storage has no quota.
 * Invariant: a computer that is over its limit is ended within one pause and the time of one count.
 */

import { setTimeout as delay } from 'node:timers/promises';
import type { ContainerInspectInfo, ContainerInspectOptions } from 'dockerode';
import type { ComputerUsage } from '../../resource/computer/driver.ts';
import type { Log } from './awake.ts';
import type { Container } from './daemon.ts';

const PAUSE_MS = 2000;
/** A count may take this share of the time: the daemon looks at every file. */
const DUTY = 10;

export type DiskWatch = {
  id: string;
  container: Container;
  disk_bytes: number;
  ended: Promise<void>;
  kill: () => void;
  log: Log;
  now: () => number;
};

/** The last count; before the first, one of its own. */
export function watchDisk(watch: DiskWatch): { used: () => Promise<ComputerUsage['disk_bytes']> } {
  const stop = new AbortController();
  const over = (): void => stop.abort();
  watch.ended.then(over, over);
  let last: number | null = null;
  const count = async (): Promise<number | null> => (last = await sizeOf(watch.container));
  void keepCounting(watch, count, stop.signal);
  return { used: async () => last ?? (await count().catch(() => null)) };
}

async function keepCounting(
  { id, disk_bytes, kill, log, now }: DiskWatch,
  count: () => Promise<number | null>,
  signal: AbortSignal,
): Promise<void> {
  for (let pause_ms = PAUSE_MS; await paused(pause_ms, signal);) {
    const began_ms = now();
    const used_bytes = await count().catch(() => null);
    pause_ms = Math.max(PAUSE_MS, (now() - began_ms) * DUTY);
    if (signal.aborted) return;
    if (used_bytes === null) log.debug({ computer: id }, 'disk use not counted');
    if ((used_bytes ?? 0) <= disk_bytes) continue;
    log.warn({ computer: id, used_bytes, disk_bytes }, 'disk limit exceeded');
    return kill();
  }
}

async function sizeOf(container: Container): Promise<number | null> {
  const options: ContainerInspectOptions & { size: boolean } = { size: true };
  const found: ContainerInspectInfo & { SizeRw?: number } = await container.inspect(options);
  return found.SizeRw ?? null;
}

async function paused(pause_ms: number, signal: AbortSignal): Promise<boolean> {
  try {
    await delay(pause_ms, undefined, { signal, ref: false });
    return true;
  } catch {
    return false;
  }
}
