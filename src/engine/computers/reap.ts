/**
 * Carries out what a crash has left half done: every intent on record of this machine's computers, and of machines that are gone, is
 * brought to its end. What this node is doing, or another living node has, is never touched; the computers of sessions are their runners'.
 */
import { pruneClientTokens } from '../../store/client-tokens.ts';
import { loseCommands, pruneCommands } from '../../store/computer/commands.ts';
import { listUnrest, type Unrest } from '../../store/computer/computers.ts';
import type { Runtime } from '../runtime.ts';
import { driverOf, type Computers } from './computers.ts';
import { removeUnfinished } from './snapshots.ts';

export type Reaper = {
  /** Resolves when the computer that is being looked after is at rest. */
  stop: () => Promise<void>;
};

const ROUND_MS = 10_000;
const BATCH = 200;
/** So long a machine may be away before its computers are missed. */
const GRACE_MS = 60_000;
const HISTORY_MS = 30 * 86_400_000;

export function startReaper(runtime: Runtime, computers: Computers): Reaper {
  const { db } = runtime.database;
  const stopping = new AbortController();
  const alive_since = new Date(Math.round(runtime.now()));
  let timer: NodeJS.Timeout | undefined;
  let round = lookAfterAll();

  async function lookAfterAll(): Promise<void> {
    const work = [
      reap(runtime, computers, stopping.signal),
      removeUnfinished(runtime, alive_since),
      pruneCommands(db, HISTORY_MS),
      pruneClientTokens(db, HISTORY_MS),
    ];
    for (const done of await Promise.allSettled(work)) {
      if (done.status === 'rejected')
        runtime.logger.error({ err: done.reason as unknown }, 'looking after computers failed');
    }
    if (stopping.signal.aborted) return;
    timer = setTimeout(() => {
      round = lookAfterAll();
    }, ROUND_MS);
    timer.unref();
  }

  loseCommands(db, runtime.machine, alive_since).catch((error: unknown) =>
    runtime.logger.warn({ err: error }, 'commands of an earlier life are still on record as running'),
  );
  return {
    stop: async () => {
      stopping.abort();
      clearTimeout(timer);
      await round;
    },
  };
}

/** One look at all of them. */
async function reap(runtime: Runtime, computers: Computers, stopping: AbortSignal): Promise<void> {
  const { machine } = runtime;
  for (let after = ''; ;) {
    const batch = await listUnrest(runtime.database, { machine, grace_ms: GRACE_MS, after, limit: BATCH });
    for (const unrest of batch) {
      if (stopping.aborted) return;
      await lookAfter(runtime, computers, unrest);
    }
    if (batch.length < BATCH) return;
    after = batch.at(-1)!.id;
  }
}

async function lookAfter(runtime: Runtime, computers: Computers, { id, status }: Unrest): Promise<void> {
  // What this process has woken is its own: whoever needs it wakes it again. It is only ended where another node was told to delete it.
  const own = computers.awake(id) !== undefined && status !== 'deleting';
  if (own || computers.busy(id)) return;
  await settle(runtime, computers, { id, status }).catch((error: unknown) =>
    runtime.logger.warn({ err: error, computer: id }, 'a computer could not be brought to rest'),
  );
  await runtime.fail('computer.reaped');
}

async function settle(
  runtime: Runtime,
  computers: Computers,
  { id, status }: Pick<Unrest, 'id' | 'status'>,
): Promise<void> {
  const state = await runtime.computer_log.state(id);
  if (state.status !== status || computers.busy(id)) return;
  if (status === 'deleting') return void (await computers.remove(id));
  const { generation, machine, driver } = state;
  const here = machine === runtime.machine || (await driverOf(runtime, driver).inventory()).includes(id);
  if (!here && generation > 0) return void (await computers.append(id, { type: 'missed' }));
  switch (status) {
    case 'creating':
    case 'starting':
    case 'restoring':
      await computers.start(id, { abandoned: true });
      break;
    case 'running':
    case 'stopping':
      await computers.stop(id, 'node_ended');
      break;
    case 'restorable':
    case 'lost':
      // Its machine is back, and so are its files.
      await computers.append(id, { type: 'stopped', generation, cause: 'node_ended', snapshot: null });
      break;
    case 'stopped':
      break;
    default:
      throw new Error(`computer ${id} is ${status}, which needs nobody`);
  }
}
