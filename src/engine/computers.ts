/**
 * The computers of this node's sessions: attached on first need, woken when a tool needs them. What happens to a computer is
 * recorded as an intent before the driver acts and in the session's log after; a generation is given to one wake only.
 */
import type { Computer } from '../resource/computer/driver.ts';
import type { ComputerState } from '../session/state.ts';
import { intendWake, recordWake } from '../store/computer/computers.ts';
import type { Runner } from './runner.ts';
import { write } from './runner.ts';
import type { Runtime } from './runtime.ts';

export type Computers = {
  /** The session's computer, awake. Creates, wakes or restores it as the log and the files ask. */
  attach: (runner: Runner) => Promise<Computer>;
  /** Ends the computer's processes, wherever this node had started them. */
  sleep: (computer_id: string) => Promise<void>;
};

export function createComputers(runtime: Runtime): Computers {
  const awake = new Map<string, Computer>();

  async function attach(runner: Runner): Promise<Computer> {
    const logged = runner.state.computer;
    const here = logged && awake.get(logged.id);
    if (here?.alive() && logged?.awake && here.generation === logged.generation) return here;
    return await wake(runner, logged);
  }

  async function wake(runner: Runner, logged: ComputerState | null): Promise<Computer> {
    const { db } = runtime.database;
    const { org } = runner.claim;
    const fresh = { id: runtime.newId('computer'), driver: runtime.driver.name };
    const intent = await intendWake(db, runner.claim, fresh, runtime.node);
    await runtime.fail('computer.intended');
    const snapshot_ref = logged?.snapshot_ref ?? null;
    const woken = await runtime.driver.wake({
      id: intent.id,
      reference: intent.reference,
      from_generation: logged?.generation ?? 0,
      generation: intent.generation,
      snapshot: snapshot_ref === null ? null : () => openSnapshot(runtime, snapshot_ref),
      limits: runtime.settings.computer,
      ...{ network: { mode: 'off' }, image: null },
    });
    await runtime.fail('computer.woken');
    awake.set(intent.id, woken.computer);
    await recordWake(db, org, intent.id, woken.reference);
    await runtime.fail('computer.recorded');
    await logWake(runner, logged, intent, woken.files);
    return woken.computer;
  }

  async function logWake(
    runner: Runner,
    logged: ComputerState | null,
    intent: { id: string; generation: number },
    files: 'kept' | 'restored' | 'empty',
  ): Promise<void> {
    const { node, driver } = runtime;
    const body = { computer_id: intent.id, node, generation: intent.generation };
    if (!logged) {
      const change = { type: 'computer.attached', body: { ...body, driver: driver.name } } as const;
      return await write(runtime, runner, { type: 'computer_changed', change });
    }
    const message = lossMessage(logged, files);
    if (message !== null) {
      const lost = { computer_id: intent.id, generation: logged.generation, message };
      await write(runtime, runner, {
        type: 'computer_changed',
        change: { type: 'computer.lost', body: lost },
      });
    }
    await write(runtime, runner, { type: 'computer_changed', change: { type: 'computer.woken', body } });
  }

  return {
    attach,
    sleep: async (computer_id) => {
      await awake.get(computer_id)?.hibernate();
      awake.delete(computer_id);
    },
  };
}

/** What the model must know of a wake that is not the continuation of what was there; null = nothing is missing. */
function lossMessage(logged: ComputerState, files: 'kept' | 'restored' | 'empty'): string | null {
  if (files === 'kept') return null;
  if (files === 'empty') return 'Your computer was lost and is new: its files are gone.';
  if (!logged.awake) return null;
  return (
    'Your computer was lost and restored from its last snapshot: ' +
    'files changed since it last slept are missing, and so are background processes.'
  );
}

async function openSnapshot(runtime: Runtime, name: string): Promise<AsyncIterable<Uint8Array>> {
  const content = await runtime.blobs.get(name);
  if (!content) throw new Error(`the snapshot ${name} is missing from the blob store`);
  return content;
}
