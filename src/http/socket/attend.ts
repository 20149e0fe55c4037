/** An answer that takes a while. Invariant: what is done for a caller lives no longer than the caller's connection and key. */
import type { HttpBindings } from '@hono/node-server';
import type { Caller } from '../authorize.ts';
import type { StreamLimit } from '../rate-limit.ts';
import type { Revocations } from '../revocations.ts';

export type Attended = {
  /** Aborts when the caller has hung up. */
  signal: AbortSignal;
  /** Gives back what was taken of the caller's limits. */
  leave: () => void;
};

export type Streams = { revocations: Revocations; enter: StreamLimit };

/** Takes a place among the caller's streams. @throws OverwinterError `rate_limited` */
export function attend(
  { outgoing }: HttpBindings,
  { revocations, enter }: Streams,
  holder: Pick<Caller, 'id' | 'org'>,
): Attended {
  const exit = enter(holder);
  const gone = new AbortController();
  const hungUp = (): void => gone.abort();
  outgoing.once('close', hungUp);
  if (outgoing.destroyed) hungUp();
  const unwatch = revocations.watch(holder.id, () => outgoing.destroy());
  return {
    signal: gone.signal,
    leave: () => {
      outgoing.off('close', hungUp);
      unwatch();
      exit();
    },
  };
}
