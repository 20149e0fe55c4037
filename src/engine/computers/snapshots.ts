/** Snapshots and copies of computers: files only; processes are not part of them. */
import { expectLegal, type ComputerState } from '../../resource/computer/life.ts';
import { OverwinterError } from '../../resource/error.ts';
import {
  beginSnapshot,
  deleteSnapshot,
  finishSnapshot,
  getSnapshot,
  hideSnapshot,
  listUnfinished,
  type SnapshotRow,
} from '../../store/computer/snapshots.ts';
import type { Runtime } from '../runtime.ts';
import type { Computers } from './computers.ts';
import { makeComputer } from './make.ts';
import { startFresh } from './owner.ts';

export const COPIES_MAX = 20;
/** Copies that are unpacked at once. */
const AT_ONCE = 2;
/** A snapshot takes less, or its node has ended. */
const UNFINISHED_MS = 6 * 3_600_000;

/** @throws OverwinterError `conflict` unless it runs or is stopped. */
export async function takeSnapshot(
  runtime: Runtime,
  computers: Computers,
  org: string,
  { id: computer_id, status, spec }: ComputerState,
  name: string | null,
): Promise<SnapshotRow> {
  expectLegal(status, 'snapshot');
  if (!spec) throw new Error(`computer ${computer_id} has no specification`);
  const { db } = runtime.database;
  const id = runtime.newId('snapshot');
  const blob = `snapshots/${id}.tar.zst`;
  await beginSnapshot(db, { id, org, computer_id, name, blob, spec });
  await runtime.fail('snapshot.intended');
  try {
    const bytes = await computers.copy(computer_id, blob);
    await runtime.fail('snapshot.written');
    await finishSnapshot(db, id, bytes);
    await runtime.fail('snapshot.recorded');
  } catch (error) {
    await discard(runtime, { id, blob });
    throw error;
  }
  return await getOwn(runtime, org, id);
}

/** @throws OverwinterError `not_found` */
export async function removeSnapshot(runtime: Runtime, org: string, id: string): Promise<SnapshotRow> {
  const snapshot = await getOwn(runtime, org, id);
  await hideSnapshot(runtime.database.db, org, id);
  await runtime.fail('snapshot.hidden');
  await discard(runtime, snapshot);
  return snapshot;
}

/**
 * `count` new computers with the files that it has now, running, named after it with a number.
 * @throws OverwinterError `conflict` unless it runs or is stopped.
 */
export async function forkComputer(
  runtime: Runtime,
  computers: Computers,
  org: string,
  source: ComputerState,
  count: number,
): Promise<ComputerState[]> {
  const { spec, driver, name } = source;
  if (!spec) throw new Error(`computer ${source.id} has no specification`);
  const snapshot = await takeSnapshot(runtime, computers, org, source, null);
  const making = { spec, driver, from_snapshot: snapshot.blob, named_after: name };
  const copies: ComputerState[] = [];
  let left = count;
  const work = async (): Promise<void> => {
    while (left > 0) {
      left -= 1;
      const made = await makeComputer(runtime, org, making);
      if (!made) throw new OverwinterError('contended', 'a copy could not be made; try again');
      copies.push(await startFresh(runtime, computers, made.id, { made: true }));
    }
  };
  const one = (): Promise<void> =>
    work().catch((error: unknown) => {
      left = 0;
      throw error;
    });
  const done = await Promise.allSettled(Array.from({ length: AT_ONCE }, one));
  // Each has its own by now; one that failed cannot be helped by it.
  await removeSnapshot(runtime, org, snapshot.id);
  const failed = done.find((each) => each.status === 'rejected');
  if (failed) throw failed.reason as Error;
  return copies.toSorted((a, b) => (a.id < b.id ? -1 : 1));
}

/** Resolves when it runs with the files of the snapshot. @throws OverwinterError `conflict` unless it runs or is stopped. */
export async function rewindComputer(
  computers: Computers,
  { id }: ComputerState,
  { blob }: SnapshotRow,
): Promise<ComputerState> {
  return await computers.rewind(id, blob);
}

/** What nodes have left unfinished; for the reaper. */
export async function removeUnfinished(runtime: Runtime, alive_since: Date): Promise<void> {
  const { database, machine } = runtime;
  const left = await listUnfinished(database.db, machine, alive_since, UNFINISHED_MS);
  for (const each of left) await discard(runtime, each);
}

async function discard(runtime: Runtime, { id, blob }: Pick<SnapshotRow, 'id' | 'blob'>): Promise<void> {
  await runtime.blobs.delete(blob);
  await runtime.fail('snapshot.blob_removed');
  await deleteSnapshot(runtime.database.db, id);
}

async function getOwn(runtime: Runtime, org: string, id: string): Promise<SnapshotRow> {
  const snapshot = await getSnapshot(runtime.database.db, org, id);
  if (!snapshot) throw new OverwinterError('not_found', 'no such snapshot');
  return snapshot;
}
