/**
 * An idle session's computer goes to sleep: its processes end, its files are saved as a blob that outlives the directory, and only
 * then do the logs say so. Until they do, the files in place are what counts.
 */
import { write, type Runner } from '../runner.ts';
import type { Runtime } from '../runtime.ts';
import type { Computers } from './computers.ts';

export async function hibernate(runtime: Runtime, computers: Computers, runner: Runner): Promise<void> {
  const { computer } = runner.state;
  if (!computer) return;
  const snapshot_ref = await sleep(computers, computer.id);
  const body = { computer_id: computer.id, generation: computer.generation };
  const change =
    snapshot_ref === null
      ? ({ type: 'computer.lost', body: { ...body, message: UNSAVED } } as const)
      : ({ type: 'computer.hibernated', body: { ...body, snapshot_ref } } as const);
  await write(runtime, runner, { type: 'computer_changed', change });
}

/** Its node is gone with the files, or they could not be copied: what comes back may be older, and the model must know. */
const UNSAVED =
  'Your computer went to sleep and could not be saved: files changed since it slept before may be missing.';

/** The blob with its files; null when they are not saved as they are. */
async function sleep(computers: Computers, id: string): Promise<string | null> {
  const { state, saved } = await computers.stop(id, 'idle', 'save');
  return saved ? state.snapshot : null;
}
