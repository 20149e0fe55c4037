/**
 * The watch on what a computer has on disk, where no quota of the kernel does it.
 * Invariant: a computer that is over its limit is ended within one interval and the time of one count; in between, one
 * file is bounded by RLIMIT_FSIZE.
 */

import { readdir, stat } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { processesLike } from '../members.ts';

const INTERVAL_MS = 1000;
/** A count may take this share of the time, so that many small files cost the host no more than few large ones. */
const DUTY = 20;
const BLOCK_BYTES = 512;

export type DiskWatch = {
  disk_bytes: number;
  /** The host's pid of the computer's pid 1. */
  pid: number;
  /** Where the computer's files are, to know its file system. */
  workspace: string;
  /** Bytes of all files that have a name. */
  measure: () => Promise<number>;
  /** Told after each count. */
  counted: (used_bytes: number) => void;
  over: (used_bytes: number) => void;
  failed: (error: unknown) => void;
  now: () => number;
  signal: AbortSignal;
};

/** Counts until the signal, or until it was over once. Never rejects. */
export async function watchDisk(watch: DiskWatch): Promise<void> {
  let pause_ms = INTERVAL_MS;
  while (await paused(pause_ms, watch.signal)) {
    const began_ms = watch.now();
    try {
      const used_bytes = (await watch.measure()) + (await unlinkedBytes(watch));
      if (watch.signal.aborted) return;
      watch.counted(used_bytes);
      if (used_bytes > watch.disk_bytes) return watch.over(used_bytes);
    } catch (error) {
      if (!watch.signal.aborted) watch.failed(error);
    }
    pause_ms = Math.max(INTERVAL_MS, (watch.now() - began_ms) * DUTY);
  }
}

/** Files that have lost their name and are held open: `du` does not see them, the disk does. An overlay is a device of its own. */
async function unlinkedBytes({ pid, workspace }: DiskWatch): Promise<number> {
  const root = await stat(`/proc/${pid}/root`).catch(() => null);
  const devices = [(await stat(workspace)).dev, root?.dev];
  const found = new Map<number, number>();
  for (const member of await processesLike(pid)) {
    for (const name of await readdir(`/proc/${member}/fd`).catch(() => [])) {
      const file = await stat(`/proc/${member}/fd/${name}`).catch(() => null);
      if (file?.isFile() && file.nlink === 0 && devices.includes(file.dev))
        found.set(file.ino, file.blocks * BLOCK_BYTES);
    }
  }
  return [...found.values()].reduce((sum, bytes) => sum + bytes, 0);
}

async function paused(pause_ms: number, signal: AbortSignal): Promise<boolean> {
  try {
    await delay(pause_ms, undefined, { signal, ref: false });
    return true;
  } catch {
    return false;
  }
}
