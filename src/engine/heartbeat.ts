/**
 * The node's sign of life and its view of the database's clock. Both come from the same statement: the answer's time, taken at the
 * middle of the round trip, is the offset to this process's monotonic clock.
 */
import { forgetDeadNodes, heartbeat, leave } from '../store/leases.ts';
import type { Db } from '../store/ground/tables.ts';

export type Heartbeat = {
  /** The database's time, estimated, in ms since the epoch; never runs backwards. */
  now: () => number;
  stop: () => Promise<void>;
};

/** @param monotonic this process's clock in ms. @param machine where the node keeps computers. */
export async function startHeartbeat(
  db: Db,
  node: string,
  ttl_ms: number,
  monotonic: () => number,
  machine = node,
): Promise<Heartbeat> {
  let offset_ms = 0;
  let latest = 0;
  let timer: NodeJS.Timeout | undefined;
  let stopped = false;
  let beating: Promise<void> = beat();

  async function beat(): Promise<void> {
    const sent_at = monotonic();
    const database_now = await heartbeat(db, node, ttl_ms, machine);
    offset_ms = database_now - (sent_at + monotonic()) / 2;
  }

  function schedule(): void {
    if (stopped) return;
    timer = setTimeout(() => {
      // A beat that fails is tried again at the next.
      beating = beat()
        .catch(() => undefined)
        .finally(schedule);
    }, ttl_ms / 4);
    timer.unref();
  }

  await beating;
  await forgetDeadNodes(db);
  schedule();
  return {
    now: () => (latest = Math.max(latest, monotonic() + offset_ms)),
    stop: async () => {
      stopped = true;
      clearTimeout(timer);
      await beating;
      await leave(db, node).catch(() => undefined);
    },
  };
}
