/** What may end a call before its time: a cancel, the turn's deadline, or the node's leaving. */
import type { SessionState } from '../session/state.ts';
import type { Runner } from './runner.ts';
import type { Runtime } from './runtime.ts';

/** After an abort a call has this long to settle by itself; then its outcome is given up. */
const SETTLE_MS = 1000;

/**
 * Runs `work` with a signal that aborts on any interruption. Resolves to what `work` gave, or to undefined when it had not
 * settled within a second of the abort.
 */
export async function whileInterruptible<T>(
  runtime: Runtime,
  runner: Runner,
  leaving_now: AbortSignal,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T | undefined> {
  const interrupt = new AbortController();
  const { stream } = runner.claim;
  const look = (state: SessionState): void => {
    if (state.turn?.cancel_at != null) interrupt.abort();
  };
  const refresh = (): void => {
    // A failed read is made good by the next hint, or by the node that claims the overdue cancel.
    runtime.log.state(stream).then(look, () => undefined);
  };
  const leave = (): void => interrupt.abort();
  const unwatch = runtime.follow.watch(stream, refresh);
  const deadline = setTimeout(leave, Math.max(0, (runner.state.turn?.deadline_at ?? 0) - runtime.now()));
  leaving_now.addEventListener('abort', leave, { once: true });
  if (leaving_now.aborted) leave();
  let giveUp: NodeJS.Timeout | undefined;
  try {
    look(await runtime.log.state(stream, 'held'));
    const gaveUp = new Promise<undefined>((resolve) => {
      interrupt.signal.addEventListener('abort', () => {
        giveUp = setTimeout(() => resolve(undefined), SETTLE_MS);
      });
    });
    return await Promise.race([work(interrupt.signal), gaveUp]);
  } finally {
    clearTimeout(giveUp);
    clearTimeout(deadline);
    leaving_now.removeEventListener('abort', leave);
    unwatch();
  }
}
