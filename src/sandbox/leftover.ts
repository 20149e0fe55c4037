/**
 * Processes by their host pid. Invariant: a signal is sent only to the very process that was recorded, known by its
 * start time and the kernel's boot, because pids are reused.
 */

import { readFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import type { PlaceRecord } from './place.ts';

const GONE_MS_MAX = 20_000;
const POLL_MS = 2;

export type ProcessIdentity = NonNullable<PlaceRecord['process']>;

/** Who has this pid now, or null when nobody has. */
export function identify(pid: number): ProcessIdentity | null {
  const stat = readAtOnce(`/proc/${pid}/stat`);
  // The program's name may hold blanks and parentheses; the state follows the last one, the start time 19 later.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  const [state, started] = [fields[0], fields[19]];
  if (started === undefined || state === 'Z' || state === 'X') return null;
  boot ??= readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
  return { pid, started, boot };
}

let boot: string | undefined;

/** A file of the kernel's, which no disk keeps waiting: what else it takes to read one costs ten times as much. '' = it is not there. */
export function readAtOnce(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}

/** Kills it if it still lives, and waits until it and, being pid 1 of a namespace, all below it are gone. */
export async function endProcess(recorded: ProcessIdentity): Promise<void> {
  if (isAlive(recorded)) kill(recorded.pid);
  for (let waited_ms = 0; isAlive(recorded); waited_ms += POLL_MS) {
    if (waited_ms > GONE_MS_MAX) throw new Error(`process ${recorded.pid} does not die`);
    await delay(POLL_MS);
  }
}

function isAlive(recorded: ProcessIdentity): boolean {
  const now = identify(recorded.pid);
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
