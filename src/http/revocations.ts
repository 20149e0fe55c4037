/**
 * Ends open streams whose API key or client token was revoked or has expired, on whichever node that happened: within a second. One
 * statement per round asks for all of them, and only while there are any.
 */
import type { Logger } from '../engine/runtime.ts';

export type Revocations = {
  /** Calls `end` once the key or token with this id may no longer be used; returns what stops watching. */
  watch: (id: string, end: () => void) => () => void;
  /** Looks at once: for what was revoked on this node. Never rejects. */
  check: () => Promise<void>;
};

/** From the end of one round to the start of the next: leaves half a second of the promised one for the round itself. */
const PAUSE_MS = 500;

/** @param findUsable those among the ids that may still be used. */
export function createRevocations(
  findUsable: (ids: string[]) => Promise<Set<string>>,
  debug: Logger['debug'],
): Revocations {
  const watched = new Map<string, Set<() => void>>();
  let timer: NodeJS.Timeout | undefined;
  let rounds: Promise<void> = Promise.resolve();

  async function round(): Promise<void> {
    const ids = [...watched.keys()];
    if (ids.length === 0) return;
    const usable = await findUsable(ids);
    for (const id of ids.filter((id) => !usable.has(id))) {
      for (const end of watched.get(id) ?? []) end();
    }
  }

  /** After the round that is under way, which may have looked too early. A round that fails is followed by the next. */
  function check(): Promise<void> {
    rounds = rounds
      .then(round)
      .catch((error: unknown) => debug({ err: error }, 'open streams were not checked for revoked keys'));
    return rounds;
  }

  function schedule(): void {
    if (timer !== undefined || watched.size === 0) return;
    timer = setTimeout(() => void next(), PAUSE_MS);
    timer.unref();
  }

  async function next(): Promise<void> {
    await check();
    timer = undefined;
    schedule();
  }

  function unwatch(id: string, end: () => void): void {
    const ends = watched.get(id);
    ends?.delete(end);
    if (ends?.size === 0) watched.delete(id);
  }

  return {
    check,
    watch: (id, end) => {
      watched.set(id, (watched.get(id) ?? new Set()).add(end));
      schedule();
      return () => unwatch(id, end);
    },
  };
}
