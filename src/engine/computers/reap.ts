/**
 * Carries out what a crash has left half done: every intent on record of this node's computers, and of nodes that are gone, is brought
 * to its end. What this node is doing, or another living node has, is never touched; the computers of sessions are their runners'.
 */
import { loseCommands } from '../../store/computer/commands.ts';
import { listUnrest, type Unrest } from '../../store/computer/computers.ts';
import type { Runtime } from '../runtime.ts';
import { driverOf, type Computers } from './computers.ts';
import { removeUnfinished } from './snapshots.ts';

export type Reaper = {
  /** Resolves when what is under way has ended. */
  stop: () => Promise<void>;
};

const ROUND_MS = 10_000;
const BATCH = 200;
/** So long a machine may be away before its computers are missed. */
const GRACE_MS = 60_000;

export function startReaper(runtime: Runtime, computers: Computers): Reaper {
  let timer: NodeJS.Timeout | undefined;
  let stopped = false;
  let round = reap();

  async function reap(): Promise<void> {
    await Promise.all([reapOnce(runtime, computers), removeUnfinished(runtime)]).catch((error: unknown) =>
      runtime.logger.error({ err: error }, 'looking after computers failed'),
    );
    if (stopped) return;
    timer = setTimeout(() => {
      round = reap();
    }, ROUND_MS);
    timer.unref();
  }

  void loseCommands(runtime.database.db, runtime.machine, new Date(Math.round(runtime.now()))).catch(
    () => undefined,
  );
  return {
    stop: async () => {
      stopped = true;
      clearTimeout(timer);
      await round;
    },
  };
}

/** One look at all of them. */
async function reapOnce(runtime: Runtime, computers: Computers): Promise<void> {
  for (const unrest of await listUnrest(runtime.database, runtime.machine, BATCH)) {
    const lives = computers.awake(unrest.id)?.alive() === true;
    // One that lives is only ended where another node was told to delete it.
    if (computers.busy(unrest.id) || (lives && unrest.status !== 'deleting')) continue;
    await settle(runtime, computers, unrest).catch((error: unknown) =>
      runtime.logger.warn({ err: error, computer: unrest.id }, 'a computer could not be brought to rest'),
    );
    await runtime.fail('computer.reaped');
  }
}

async function settle(runtime: Runtime, computers: Computers, unrest: Unrest): Promise<void> {
  const { id, status, machine, waiting_ms } = unrest;
  const state = await runtime.computer_log.state(id);
  if (state.status !== status || computers.busy(id)) return;
  if (status === 'deleting') return void (await computers.remove(id));
  if (state.session !== null) return;
  const ours = machine === runtime.machine;
  const here = ours || (await driverOf(runtime, state.driver).inventory()).includes(id);
  if (!ours && waiting_ms < GRACE_MS) return;
  if (!here) return void (await computers.append(id, { type: 'missed' }));
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
    default:
      throw new Error(`computer ${id} is ${status}, which needs nobody`);
  }
}
