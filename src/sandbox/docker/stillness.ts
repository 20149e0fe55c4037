/**
 * Making a computer stand still while its files are read.
 * Invariant: one that stands still goes on when the last who asked is done, when its time is over, and before it is ended.
 */

import type { Container } from './daemon.ts';

/** Whoever reads longer reads files that change. */
const HELD_MS_MAX = 300_000;

export type Stillness = {
  held: () => boolean;
  /** Resolves when all stands still, or at once where that cannot be; what it returns lets go. */
  hold: () => Promise<() => Promise<void>>;
  /** Resolves when it does not stand still. */
  going: () => Promise<void>;
  /** Lets go for good: whoever ends the container thaws it. */
  end: () => void;
};

export function stillness(container: Container): Stillness {
  let holders = 0;
  let ended = false;
  let deadline: NodeJS.Timeout | undefined;
  let last: Promise<unknown> = Promise.resolve();
  let free = Promise.withResolvers<void>();
  free.resolve();
  const letGo = async (): Promise<void> => {
    clearTimeout(deadline);
    holders = 0;
    // Another hold may begin while this one ends.
    const mine = free;
    last = last.then(() => container.unpause()).catch(() => {});
    await last;
    mine.resolve();
  };
  return {
    held: () => holders > 0,
    going: () => free.promise,
    async hold() {
      if (ended) return async () => {};
      if (holders === 0) free = Promise.withResolvers<void>();
      holders += 1;
      clearTimeout(deadline);
      deadline = setTimeout(() => void letGo(), HELD_MS_MAX);
      last = last.then(() => (ended ? undefined : container.pause())).catch(() => {});
      await last;
      let done = false;
      return async () => {
        if (done) return;
        done = true;
        holders = Math.max(0, holders - 1);
        if (holders === 0) await letGo();
      };
    },
    end() {
      ended = true;
      clearTimeout(deadline);
      holders = 0;
      free.resolve();
    },
  };
}
