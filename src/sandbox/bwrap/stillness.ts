/**
 * Making a computer stand still while its files are read, where control groups can.
 * Invariant: one that stands still goes on when the last who asked is done, when its time is over, and before it is
 * ended: a held process of version 1 would not die.
 */

import type { Cgroups } from './cgroup.ts';

/** Whoever reads longer reads files that change. */
const HELD_MS_MAX = 300_000;

export type Stillness = {
  held: () => boolean;
  /** Resolves when all stands still, or at once where that cannot be; what it returns lets go. */
  hold: () => Promise<() => Promise<void>>;
  /** Lets go for good. */
  end: () => Promise<void>;
};

export function stillness(cgroups: Cgroups | null, group: string): Stillness {
  let holders = 0;
  let ended = false;
  let deadline: NodeJS.Timeout | undefined;
  let last: Promise<void> = Promise.resolve();
  const set = (still: boolean): Promise<void> => {
    last = last.then(() => cgroups?.hold(group, still && !ended)).catch(() => {});
    return last;
  };
  const letGo = async (): Promise<void> => {
    clearTimeout(deadline);
    holders = 0;
    await set(false);
  };
  return {
    held: () => holders > 0,
    async hold() {
      if (cgroups === null || ended) return async () => {};
      holders += 1;
      clearTimeout(deadline);
      deadline = setTimeout(() => void letGo(), HELD_MS_MAX);
      await set(true);
      let done = false;
      return async () => {
        if (done) return;
        done = true;
        holders = Math.max(0, holders - 1);
        if (holders === 0) await letGo();
      };
    },
    async end() {
      ended = true;
      await cgroups?.thaw(group);
      await letGo();
    },
  };
}
