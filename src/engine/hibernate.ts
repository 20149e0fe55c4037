/**
 * An idle session's computer goes to sleep: its processes end, its files are saved as a blob that outlives the directory, and only
 * then does the log say so. Until it does, the files in place are what counts.
 */
import type { ComputerState } from '../session/state.ts';
import { getReference, recordHibernation } from '../store/computer/computers.ts';
import type { Computers } from './computers.ts';
import { write, type Runner } from './runner.ts';
import type { Runtime } from './runtime.ts';

export async function hibernate(runtime: Runtime, computers: Computers, runner: Runner): Promise<void> {
  const { computer } = runner.state;
  if (!computer) return;
  const { org } = runner.claim;
  const { db } = runtime.database;
  await computers.sleep(computer.id);
  await runtime.fail('computer.slept');
  const snapshot_ref = await newSnapshot(runtime, runner, computer);
  await runtime.fail('computer.snapshotted');
  await recordHibernation(db, org, computer.id, snapshot_ref ?? computer.snapshot_ref);
  const change = snapshot_ref === null ? unsaved(computer) : saved(computer, snapshot_ref);
  await write(runtime, runner, { type: 'computer_changed', change });
  if (snapshot_ref !== null && computer.snapshot_ref !== null && computer.snapshot_ref !== snapshot_ref) {
    await runtime.blobs.delete(computer.snapshot_ref);
  }
}

function saved(computer: ComputerState, snapshot_ref: string) {
  const body = { computer_id: computer.id, generation: computer.generation, snapshot_ref };
  return { type: 'computer.hibernated', body } as const;
}

/** Its node is gone with the files, or they could not be copied: what comes back may be older, and the model must know. */
function unsaved(computer: ComputerState) {
  const message =
    'Your computer went to sleep and could not be saved: files changed since it slept before may be missing.';
  return {
    type: 'computer.lost',
    body: { computer_id: computer.id, generation: computer.generation, message },
  } as const;
}

/** The name of the new snapshot; null when there is none. */
async function newSnapshot(
  runtime: Runtime,
  runner: Runner,
  computer: ComputerState,
): Promise<string | null> {
  const { org, stream } = runner.claim;
  try {
    return await takeSnapshot(runtime, org, computer);
  } catch (error) {
    // A session must not stay awake, or be tried for ever, because its files cannot be copied.
    runtime.logger.error({ err: error, session: stream }, 'a computer could not be saved');
    return null;
  }
}

/** Null when there are no files to save. */
async function takeSnapshot(runtime: Runtime, org: string, computer: ComputerState): Promise<string | null> {
  const reference = await getReference(runtime.database.db, org, computer.id);
  const content = reference && (await runtime.driver.snapshot(computer.id, reference));
  if (!content) return null;
  const name = `computers/${computer.id}/${computer.generation}.tar.zst`;
  await runtime.blobs.put(name, content);
  return name;
}
