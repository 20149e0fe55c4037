/**
 * The worker of a node: claims sessions that have something to do and runs them, a bounded number at once. Woken by commits and
 * hints, by the time the next session falls due, and by a slow poll that makes good whatever wake-up was lost.
 */
import { claim, nextDueIn, type Claim } from '../store/leases.ts';
import type { Computers } from './computers/computers.ts';
import type { Runtime } from './runtime.ts';
import { runSession } from './turn.ts';

export type Worker = {
  /** Something may be claimable. */
  wake: () => void;
  /** Claims nothing more; resolves when every runner has left: at its next checkpoint, at the latest after `drain_ms`. */
  stop: () => Promise<void>;
};

/** After a runner failed for no reason of its session, so that a broken database is not asked in a tight loop. */
const PAUSE_AFTER_ERROR_MS = 500;

export function startWorker(runtime: Runtime, computers: Computers): Worker {
  const { settings } = runtime;
  const running = new Set<Promise<void>>();
  const asked = new AbortController();
  const now = new AbortController();
  const leaving = { asked: asked.signal, now: now.signal };
  let again = false;
  let claiming: Promise<void> | null = null;
  let timer: NodeJS.Timeout | undefined;

  function wake(): void {
    again = true;
    claiming ??= claimAll().finally(() => {
      claiming = null;
      // A wake-up while the next due time was being read would otherwise wait for the poll.
      if (again && !asked.signal.aborted) wake();
    });
  }

  async function claimAll(): Promise<void> {
    clearTimeout(timer);
    let wait_ms = settings.poll_ms;
    try {
      while (again && !asked.signal.aborted) {
        again = false;
        const free = settings.turns_at_once_max - running.size;
        if (free <= 0) break;
        const claims = await claim(runtime.database, runtime.node, free, runtime.machine);
        if (claims.length > 0) await runtime.fail('worker.claimed');
        claims.forEach(run);
        if (claims.length === free) again = true;
      }
      const due_in_ms = await nextDueIn(runtime.database.db);
      if (due_in_ms !== null) wait_ms = Math.min(wait_ms, Math.max(due_in_ms, 1));
    } catch (error) {
      runtime.logger.error({ err: error }, 'claiming failed');
      wait_ms = PAUSE_AFTER_ERROR_MS;
    }
    if (!asked.signal.aborted) timer = setTimeout(wake, wait_ms);
  }

  function run(taken: Claim): void {
    const session = runSession(runtime, computers, taken, leaving)
      .catch(async (error: unknown) => {
        runtime.logger.error({ err: error, session: taken.stream }, 'a runner failed');
        await new Promise((resolve) => setTimeout(resolve, PAUSE_AFTER_ERROR_MS));
      })
      .finally(() => {
        running.delete(session);
        wake();
      });
    running.add(session);
  }

  async function stop(): Promise<void> {
    asked.abort();
    clearTimeout(timer);
    const impatience = setTimeout(() => now.abort(), settings.drain_ms);
    await claiming;
    clearTimeout(timer);
    await Promise.all(running);
    clearTimeout(impatience);
  }

  wake();
  return { wake, stop };
}
