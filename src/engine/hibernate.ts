/**
 * An idle session's computer goes to sleep: its processes end, its files are saved as a blob that outlives the directory, and only
 * then does the log say so. Until it does, the files in place are what counts.
 */
import { getReference, recordHibernation } from '../store/computers.ts';
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
  const snapshot_ref =
    (await snapshot(runtime, org, computer.id, computer.generation)) ?? computer.snapshot_ref;
  await runtime.fail('computer.snapshotted');
  await recordHibernation(db, org, computer.id, snapshot_ref);
  const body = { computer_id: computer.id, generation: computer.generation, snapshot_ref };
  await write(runtime, runner, {
    type: 'computer_changed',
    change: { type: 'computer.hibernated', body },
  });
  if (computer.snapshot_ref && computer.snapshot_ref !== snapshot_ref) {
    await runtime.blobs.delete(computer.snapshot_ref);
  }
}

/** The new snapshot's name; null when there are no files to save. */
async function snapshot(
  runtime: Runtime,
  org: string,
  computer_id: string,
  generation: number,
): Promise<string | null> {
  const reference = await getReference(runtime.database.db, org, computer_id);
  const content = reference && (await runtime.driver.snapshot(computer_id, reference));
  if (!content) return null;
  const name = `computers/${computer_id}/${generation}.tar.zst`;
  await runtime.blobs.put(name, content);
  return name;
}
