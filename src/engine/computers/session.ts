/**
 * The computer of a session: made on first need, woken when a tool needs it, asleep when the session idles. The session's log names it
 * and says what the model must know; the rest stands in the computer's own log.
 */
import type { Computer } from '../../resource/computer/driver.ts';
import { OverwinterError } from '../../resource/error.ts';
import type { ComputerState as LoggedComputer } from '../../session/state.ts';
import { findComputer, ofSession } from '../../store/computer/computers.ts';
import { write, type Runner } from '../runner.ts';
import type { Runtime } from '../runtime.ts';
import type { Computers, Started } from './computers.ts';
import { makeComputer } from './make.ts';

/** The session's computer, awake: created, woken or restored as the logs and the files ask. */
export async function attach(runtime: Runtime, computers: Computers, runner: Runner): Promise<Computer> {
  const logged = runner.state.computer;
  const here = logged && computers.awake(logged.id);
  if (here?.alive() && logged?.awake && here.generation === logged.generation) return here;
  const id = await idOf(runtime, runner, logged);
  const started = await computers.start(id, { holder: runner.claim.epoch });
  await logWake(runtime, runner, logged, started);
  return started.computer;
}

/** Its computer, or a new one: the one that its log names may have been deleted, or be older than the logs of computers. */
async function idOf(runtime: Runtime, runner: Runner, logged: LoggedComputer | null): Promise<string> {
  const { stream, org, epoch } = runner.claim;
  const { db } = runtime.database;
  const there = await ofSession(db, stream);
  if (there) return there.id;
  const adopts = logged !== null && (await findComputer(db, org, logged.id)) === undefined;
  const made = await makeComputer(runtime, org, {
    spec: runtime.settings.session_computer,
    session: { id: stream, epoch },
    driver: runtime.driver.name,
    ...(adopts ? { known: logged, from_snapshot: logged.snapshot_ref } : {}),
  });
  if (made) return made.id;
  throw new OverwinterError('fenced', 'another runner holds the session');
}

async function logWake(
  runtime: Runtime,
  runner: Runner,
  logged: LoggedComputer | null,
  { state, files }: Started,
): Promise<void> {
  const { machine, driver } = runtime;
  const { id, generation } = state;
  const body = { computer_id: id, node: machine, generation };
  if (logged?.id !== id) {
    const change = { type: 'computer.attached', body: { ...body, driver: driver.name } } as const;
    if (logged) await logLoss(runtime, runner, logged, EMPTY);
    return await write(runtime, runner, { type: 'computer_changed', change });
  }
  const message = lossMessage(logged, files);
  if (message !== null) await logLoss(runtime, runner, logged, message);
  await write(runtime, runner, { type: 'computer_changed', change: { type: 'computer.woken', body } });
}

async function logLoss(
  runtime: Runtime,
  runner: Runner,
  { id, generation }: LoggedComputer,
  message: string,
): Promise<void> {
  const change = { type: 'computer.lost', body: { computer_id: id, generation, message } } as const;
  await write(runtime, runner, { type: 'computer_changed', change });
}

const EMPTY = 'Your computer was lost and is new: its files are gone.';

/** What the model must know of a wake that is not the continuation of what was there; null = nothing is missing. */
function lossMessage(logged: LoggedComputer, files: Started['files']): string | null {
  if (files === 'kept' || files === 'running') return null;
  if (files === 'empty') return EMPTY;
  if (!logged.awake) return null;
  return (
    'Your computer was lost and restored from its last snapshot: ' +
    'files changed since it last slept are missing, and so are background processes.'
  );
}
