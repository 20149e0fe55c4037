/**
 * Processes by their host pid. Invariant: a signal is sent only to the very process that was recorded, known by its
 * start time and the kernel's boot, because pids are reused.
 */

import { readFile } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import type { PlaceRecord } from './place.ts';

const GONE_MS_MAX = 20_000;
const POLL_MS = 2;

export type ProcessIdentity = NonNullable<PlaceRecord['process']>;

/** Who has this pid now, or null when nobody has. */
export async function identify(pid: number): Promise<ProcessIdentity | null> {
  const [stat, boot] = await Promise.all([
    readFile(`/proc/${pid}/stat`, 'utf8').catch(() => ''),
    readFile('/proc/sys/kernel/random/boot_id', 'utf8'),
  ]);
  // The program's name may hold blanks and parentheses; the state follows the last one, the start time 19 later.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  const [state, started] = [fields[0], fields[19]];
  if (started === undefined || state === 'Z' || state === 'X') return null;
  return { pid, started, boot: boot.trim() };
}

/** Kills it if it still lives, and waits until it and, being pid 1 of a namespace, all below it are gone. */
export async function endProcess(recorded: ProcessIdentity): Promise<void> {
  if (await isAlive(recorded)) kill(recorded.pid);
  for (let waited_ms = 0; await isAlive(recorded); waited_ms += POLL_MS) {
    if (waited_ms > GONE_MS_MAX) throw new Error(`process ${recorded.pid} does not die`);
    await delay(POLL_MS);
  }
}

async function isAlive(recorded: ProcessIdentity): Promise<boolean> {
  const now = await identify(recorded.pid);
  return now !== null && now.started === recorded.started && now.boot === recorded.boot;
}

/** Sends SIGKILL to a pid that was just seen to be the one meant. */
export function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}
