/** What may end a call before its time: a cancel, the turn's deadline, or the node's leaving. */
import type { SessionState } from '../session/state.ts';
import type { Runner } from './runner.ts';
import type { Runtime } from './runtime.ts';

/** After an abort a call has this long to settle by itself; then its outcome is given up. */
const SETTLE_MS = 750;

/** `outcome` is undefined when the work had not settled in time after the interruption. */
export type Interruptible<T> = { outcome: T | undefined; interrupted: boolean };

/** Runs `work` with a signal that aborts on any interruption. */
export async function whileInterruptible<T>(
  runtime: Runtime,
  runner: Runner,
  leaving_now: AbortSignal,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<Interruptible<T>> {
  const { stream } = runner.claim;
  const controller = new AbortController();
  const { signal } = controller;
  const { promise: gaveUp, resolve: giveUp } = Promise.withResolvers<undefined>();
  let patience: NodeJS.Timeout | undefined;
  const interrupt = (): void => {
    controller.abort();
    patience ??= setTimeout(() => giveUp(undefined), SETTLE_MS);
  };
  const look = (state: SessionState): void => {
    if (state.turn?.cancel_at != null) interrupt();
  };
  // A failed read is made good by the next hint, or by the node that claims the overdue cancel.
  const refresh = (): void => void runtime.log.state(stream).then(look, () => undefined);
  const unwatch = runtime.follow.watch(stream, refresh);
  const left_ms = (runner.state.turn?.deadline_at ?? 0) - runtime.now();
  const deadline = setTimeout(interrupt, Math.max(0, left_ms));
  leaving_now.addEventListener('abort', interrupt, { once: true });
  if (leaving_now.aborted) interrupt();
  try {
    look(await runtime.log.state(stream, 'held'));
    return { outcome: await Promise.race([work(signal), gaveUp]), interrupted: signal.aborted };
  } finally {
    clearTimeout(patience);
    clearTimeout(deadline);
    leaving_now.removeEventListener('abort', interrupt);
    unwatch();
  }
}
