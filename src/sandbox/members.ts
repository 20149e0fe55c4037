/**
 * The processes of a computer as the host sees them, and what they use.
 * Invariant: it only reads `/proc`; a process that ends meanwhile counts for nothing.
 */

import { readFile, readdir, readlink } from 'node:fs/promises';
import type { ComputerUsage } from '../resource/computer/driver.ts';

/** Of `/proc/PID/stat`, on every architecture that Linux has today. */
const TICKS_PER_SECOND = 100;
const PAGE_BYTES = 4096;

/** All processes of the same pid namespace. */
export async function processesLike(pid: number): Promise<string[]> {
  const namespace = await readlink(`/proc/${pid}/ns/pid`).catch(() => null);
  if (namespace === null) return [];
  const all = (await readdir('/proc')).filter((name) => /^\d+$/.test(name));
  const theirs = await Promise.all(all.map((name) => readlink(`/proc/${name}/ns/pid`).catch(() => null)));
  return all.filter((_, index) => theirs[index] === namespace);
}

/**
 * What these processes use, and used through children that ended. Memory that they share is not
 * counted; the time of an exec that has just ended is from the next one on, when the loop has taken note of its end.
 */
export async function usageOf(
  pids: string[],
): Promise<Pick<ComputerUsage, 'cpu_seconds' | 'memory_bytes' | 'processes'>> {
  const each = await Promise.all(pids.map(usageOfOne));
  const sum = (of: (one: { ticks: number; bytes: number }) => number): number =>
    each.reduce((total, one) => total + of(one), 0);
  return {
    cpu_seconds: sum(({ ticks }) => ticks) / TICKS_PER_SECOND,
    memory_bytes: sum(({ bytes }) => bytes),
    processes: pids.length,
  };
}

/** How long it has run; 0 when it is gone. */
export async function uptimeOf(pid: number): Promise<number> {
  const [fields, uptime] = await Promise.all([statOf(pid), readFile('/proc/uptime', 'utf8')]);
  const started = fields[19];
  if (started === undefined) return 0;
  return Math.max(0, Math.round((Number.parseFloat(uptime) - started / TICKS_PER_SECOND) * 1000));
}

async function usageOfOne(pid: string): Promise<{ ticks: number; bytes: number }> {
  const [fields, memory] = await Promise.all([
    statOf(pid),
    readFile(`/proc/${pid}/statm`, 'utf8').catch(() => ''),
  ]);
  const [, resident = 0, shared = 0] = memory.split(' ').map(Number);
  const [user = 0, system = 0, user_of_children = 0, system_of_children = 0] = fields.slice(11, 15);
  return {
    ticks: user + system + user_of_children + system_of_children,
    bytes: (resident - shared) * PAGE_BYTES,
  };
}

/** The fields after the program's name, which may hold blanks and parentheses; the first is the state. */
async function statOf(pid: number | string): Promise<number[]> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '');
  return stat
    .slice(stat.lastIndexOf(')') + 2)
    .split(' ')
    .map(Number);
}
