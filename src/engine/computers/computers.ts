/**
 * The computers that are awake on this node. Every wake, sleep and removal goes through here: the intent is appended to the computer's
 * log before the driver acts, and what came of it after, so that whoever comes after a crash carries out what was meant.
 */
import type { Computer, ComputerLimits, Driver, DriverName, Woken } from '../../resource/computer/driver.ts';
import {
  decideComputer,
  expectLegal,
  isOwnBlob,
  type ComputerCommand,
  type ComputerState,
  type ComputerStatus,
} from '../../resource/computer/life.ts';
import type { ComputerSpec } from '../../resource/computer/spec.ts';
import { OverwinterError } from '../../resource/error.ts';
import { oneAtATime } from '../../resource/serial.ts';
import { forgetComputer } from '../../store/computer/computers.ts';
import { readSealedEnv } from '../../store/computer/keeping.ts';
import type { Runtime } from '../runtime.ts';
import { watched, type Watched } from './activity.ts';
import { createHistory, type History } from './history.ts';

export type StartOptions = {
  /** The epoch of the runner that wakes its session's computer; it may take over what an older runner had woken. */
  holder?: number;
  /** Whether what is on record as running or under way may be started again here: its node is known to be gone. */
  abandoned?: boolean;
  /** Whether this node has just made it: what it holds of the log will do, as no intent is appended that an old state decided. */
  made?: boolean;
};

export type Started = { computer: Computer; state: ComputerState; files: Woken['files'] | 'running' };

type StopCause = 'asked' | 'idle' | 'node_ended';
/** `saved`: the state's snapshot holds the files as they are. */
type Stopped = { state: ComputerState; saved: boolean };

export type Computers = {
  history: History;
  /**
   * Wakes it, unless it runs here already.
   * @throws OverwinterError `conflict` where its state forbids it, `fenced`, `unavailable`; ComputerLost when the wake failed.
   */
  start: (id: string, options?: StartOptions) => Promise<Started>;
  /** Ends its processes; with `save` its files are copied to a blob, also of one that is stopped. Resolves when it is stopped. */
  stop: (id: string, cause: StopCause, save?: 'save') => Promise<Stopped>;
  /** Removes every byte of it. Idempotent. */
  remove: (id: string) => Promise<ComputerState>;
  /**
   * The running computer, if this node has it; one whose processes have died is woken again, unless it is taken `as it is`, as those do
   * who only read.
   * @throws OverwinterError `conflict` when it does not run, `unavailable` when another node has it.
   */
  use: (id: string, as?: 'as it is') => Promise<Computer>;
  /**
   * Writes its files as they are to a blob; of a running computer while it stands still, where its driver can hold it. Returns the size.
   * @throws OverwinterError `conflict` when there are none on this machine.
   */
  copy: (id: string, blob: string) => Promise<number>;
  /** Its state once this node is done with what it does with it. */
  settled: (id: string) => Promise<ComputerState>;
  /** Its handle while it is awake here. */
  awake: (id: string) => Computer | undefined;
  /** Those that are awake here with nothing under way in them. */
  unused: () => string[];
  /** Stops it when it runs here and nobody has used it for so long. */
  sleepUnused: (id: string, after_ms: number, save?: 'save') => Promise<void>;
  /**
   * Stops it, makes its files those of the blob, and starts it.
   * @throws OverwinterError `conflict` unless it runs or is stopped, `not_found` when the blob is gone: it runs on then.
   */
  rewind: (id: string, blob: string) => Promise<ComputerState>;
  /** Ends its processes without a word in its log, which another runner writes by now. */
  letGo: (id: string) => Promise<void>;
  /** Whether this node is doing something with it. */
  busy: (id: string) => boolean;
  append: (id: string, command: ComputerCommand) => Promise<ComputerState>;
};

/** @param stopping aborts when the server stops: nothing is started any more, so that what it ends stays as it was. */
export function createComputers(runtime: Runtime, stopping?: AbortSignal): Computers {
  const awake = new Map<string, Watched>();
  const serial = oneAtATime();
  const { computer_log: log } = runtime;

  async function append(id: string, command: ComputerCommand): Promise<ComputerState> {
    return (await log.append(id, {}, (state) => decideComputer(state, command))).state;
  }

  /** Its handle, if it lives and is of the wake that the log knows. */
  function liveHandle(state: ComputerState): Watched | undefined {
    const handle = awake.get(state.id);
    const current = handle?.alive() === true && handle.generation === state.generation;
    return current && state.status === 'running' ? handle : undefined;
  }

  async function start(id: string, { holder, abandoned = false, made }: StartOptions): Promise<Started> {
    if (stopping?.aborted) throw new OverwinterError('unavailable', 'the server is stopping');
    const state = await log.state(id, made ? 'held' : undefined);
    const here = liveHandle(state);
    if (here && (holder ?? Infinity) >= state.holder) {
      here.touch();
      return { computer: here, state, files: 'running' };
    }
    // A session's runner has what was saved, and tells the model of the rest; others would get an empty computer.
    if (holder === undefined && state.status !== 'restorable') await expectHere(runtime, state);
    // What this process does not hold of its own node is over; so is what a session's newer runner finds.
    const over = abandoned || holder !== undefined || state.machine === runtime.machine;
    const supersedes = over ? state.generation : null;
    const intended = await append(id, {
      type: 'begin_start',
      machine: runtime.machine,
      supersedes,
      holder: holder ?? null,
    });
    await runtime.fail('computer.intended');
    return await wake(intended);
  }

  async function wake(state: ComputerState): Promise<Started> {
    const { id, generation } = state;
    const woken = await wakeWithEnv(runtime, state).catch(async (error: Error) => {
      await append(id, { type: 'start_failed', generation, message: sentenceOf(error) });
      throw error;
    });
    await runtime.fail('computer.woken');
    const { reference, files } = woken;
    const computer = watched(woken.computer, woken.env, runtime.now);
    awake.set(id, computer);
    try {
      const started = await append(id, { type: 'started', generation, reference, files });
      await runtime.fail('computer.recorded');
      return { computer, state: started, files };
    } catch (error) {
      // It was deleted, or started by another, while it woke.
      await letGo(id);
      throw error;
    }
  }

  async function letGo(id: string): Promise<void> {
    await awake.get(id)?.hibernate();
    awake.delete(id);
  }

  async function stop(id: string, cause: StopCause, save: boolean): Promise<Stopped> {
    const before = await log.state(id);
    if (!STOPPABLE.has(before.status) || (before.status === 'stopped' && !save))
      return { state: before, saved: false };
    if (cause === 'asked') await expectHere(runtime, before);
    const state = before.status === 'running' ? await append(id, { type: 'begin_stop' }) : before;
    await runtime.fail('computer.stop_intended');
    return await finishStop(state, cause, save);
  }

  async function finishStop(state: ComputerState, cause: StopCause, save: boolean): Promise<Stopped> {
    const { id, generation } = state;
    // Where this process has not woken it, a former life may have left its processes behind.
    if (awake.has(id)) await letGo(id);
    else await driverOf(runtime, state.driver).quieten(id);
    await runtime.fail('computer.slept');
    const snapshot = save ? await saveFiles(runtime, state) : null;
    await runtime.fail('computer.snapshotted');
    const stopped = await append(id, { type: 'stopped', generation, cause, snapshot });
    await runtime.fail('computer.stopped');
    const recorded = snapshot !== null && stopped.snapshot === snapshot;
    // Superseded meanwhile, the log names the old one still, and another may be reading it.
    const useless = recorded ? state.snapshot : snapshot;
    if (useless !== null && useless !== stopped.snapshot && isOwnBlob(id, useless))
      await runtime.blobs.delete(useless);
    return { state: stopped, saved: recorded };
  }

  async function remove(id: string): Promise<ComputerState> {
    const state = await append(id, { type: 'begin_delete' });
    await runtime.fail('computer.delete_intended');
    if (state.status === 'deleted') return state;
    if (await isElsewhere(runtime, state)) return state;
    await letGo(id);
    if (state.generation > 0) await driverOf(runtime, state.driver).destroy(id, state.reference);
    await runtime.fail('computer.destroyed');
    // Whatever crashes have left of earlier ones goes with the last.
    await runtime.blobs.deleteAll(`computers/${id}`);
    await runtime.fail('computer.snapshot_removed');
    await forgetComputer(runtime.database.db, id, new Date(Math.round(runtime.now())));
    await runtime.fail('computer.forgotten');
    const deleted = await append(id, { type: 'deleted' });
    await runtime.fail('computer.deleted');
    return deleted;
  }

  async function sleepUnused(id: string, after_ms: number, save: boolean): Promise<void> {
    const handle = awake.get(id);
    if (!handle || handle.idle_ms() < after_ms) return;
    // What another has woken since, or its end has not been told of, is not this one's to put to sleep.
    const is_current = liveHandle(await log.state(id)) === handle;
    if (is_current && handle.idle_ms() >= after_ms) await stop(id, 'idle', save);
  }

  async function rewind(id: string, blob: string): Promise<ComputerState> {
    const before = await log.state(id);
    expectLegal(before.status, 'rewind');
    await expectHere(runtime, before);
    const snapshot = `computers/${id}/rewound-${before.generation}.tar.zst`;
    await copyBlob(runtime, blob, snapshot);
    await runtime.fail('computer.rewind_copied');
    const { snapshot: former } = await stopForRewind(id, snapshot);
    await runtime.fail('computer.rewound');
    if (former !== null && former !== snapshot && isOwnBlob(id, former)) await runtime.blobs.delete(former);
    return (await start(id, {})).state;
  }

  /** Its state when it had stopped. What is refused leaves no copy; after another failure the log may name it. */
  async function stopForRewind(id: string, snapshot: string): Promise<ComputerState> {
    try {
      const { state } = await stop(id, 'asked', false);
      await append(id, { type: 'rewind', snapshot });
      return state;
    } catch (error) {
      if (error instanceof OverwinterError && error.code !== 'unavailable')
        await runtime.blobs.delete(snapshot);
      throw error;
    }
  }

  async function use(id: string, as?: 'as it is'): Promise<Computer> {
    const state = await log.state(id, 'held');
    const handle = liveHandle(state);
    handle?.touch();
    if (handle) return handle;
    return await serial(id, async () => {
      const now = await log.state(id);
      expectLegal(now.status, 'exec');
      await expectHere(runtime, now);
      if (as === 'as it is' && !liveHandle(now)) throw new OverwinterError('conflict', DEAD);
      return (await start(id, {})).computer;
    });
  }

  async function copy(id: string, blob: string): Promise<number> {
    const { driver, reference, status } = await log.state(id);
    expectLegal(status, 'snapshot');
    const content = reference && (await driverOf(runtime, driver).snapshot(id, reference));
    if (!content) throw new OverwinterError('conflict', 'the computer has no files on this machine');
    return await runtime.blobs.put(blob, content);
  }

  return {
    history: createHistory(runtime),
    start: (id, options = {}) => serial(id, () => start(id, options)),
    stop: (id, cause, save) => serial(id, () => stop(id, cause, save === 'save')),
    remove: (id) => serial(id, () => remove(id)),
    use,
    settled: (id) => serial(id, () => log.state(id)),
    copy: (id, blob) => serial(id, () => copy(id, blob)),
    awake: (id) => awake.get(id),
    unused: () => [...awake].filter(([, handle]) => handle.idle_ms() > 0).map(([id]) => id),
    sleepUnused: (id, after_ms, save) => serial(id, () => sleepUnused(id, after_ms, save === 'save')),
    rewind: (id, blob) => serial(id, () => rewind(id, blob)),
    letGo: (id) => serial(id, () => letGo(id)),
    busy: (id) => serial.busy(id),
    append,
  };
}

const DEAD = 'the processes of the computer have ended: a command or a start wakes it, a read does not';

/** Also what a crash left on its way: nothing is under way here while its turn has come. */
const STOPPABLE: ReadonlySet<ComputerStatus> = new Set([
  ...(['running', 'stopping', 'stopped', 'creating', 'starting', 'restoring'] as const),
]);

async function wakeWithEnv(
  runtime: Runtime,
  state: ComputerState,
): Promise<Woken & { env: Record<string, string> }> {
  const env = await openEnv(runtime, state.id);
  return { ...(await wakeByDriver(runtime, state)), env };
}

/** The variables that its owner gave it. @throws OverwinterError `unavailable` where this server has not the key for them. */
async function openEnv({ database, sealer }: Runtime, id: string): Promise<Record<string, string>> {
  const row = await readSealedEnv(database.db, id);
  if (!row) return {};
  try {
    const place = { org: row.org, table: 'computer_env', id, column: 'sealed' };
    return JSON.parse(sealer.open(row.sealed, place)) as Record<string, string>;
  } catch {
    throw new OverwinterError('unavailable', 'the variables of the computer cannot be opened by this server');
  }
}

async function wakeByDriver(runtime: Runtime, state: ComputerState): Promise<Woken> {
  const { id, reference, snapshot, generation, files_generation, spec } = state;
  if (!spec) throw new Error(`computer ${id} has no specification`);
  return await driverOf(runtime, state.driver).wake({
    ...{ id, reference, generation, from_generation: files_generation },
    snapshot: snapshot === null ? null : () => openSnapshot(runtime, snapshot),
    limits: limitsOf(spec),
    ...{ network: spec.network_policy, image: spec.base_image },
  });
}

/** @throws OverwinterError `unavailable` when this server does not run the driver that the computer was made with. */
export function driverOf({ drivers }: Pick<Runtime, 'drivers'>, name: DriverName): Driver {
  const driver = drivers.get(name);
  if (driver) return driver;
  throw new OverwinterError(
    'unavailable',
    `the computer needs the driver "${name}", which this server does not run`,
  );
}

const MIB = 1024 * 1024;

function limitsOf(spec: ComputerSpec): ComputerLimits {
  return {
    memory_bytes: spec.ram_mb * MIB,
    disk_bytes: spec.disk_size_mb * MIB,
    processes_max: spec.processes_max,
    cpu_percent: Math.round(spec.vcpus * 100),
  };
}

/** So that nothing which is done with the one it was made of reaches the computer. @throws OverwinterError `not_found` */
async function copyBlob({ blobs }: Runtime, from: string, to: string): Promise<void> {
  const content = await blobs.get(from);
  try {
    if (content) return void (await blobs.put(to, content));
  } catch (error) {
    if (await blobs.get(from)) throw error;
  }
  throw new OverwinterError('not_found', 'the snapshot was deleted meanwhile');
}

async function openSnapshot(runtime: Runtime, name: string): Promise<AsyncIterable<Uint8Array>> {
  const content = await runtime.blobs.get(name);
  if (!content) throw new Error(`the snapshot ${name} is missing from the blob store`);
  return content;
}

/** The blob's name; null when there were no files to save, or they could not be copied: a computer must come to rest all the same. */
async function saveFiles(runtime: Runtime, state: ComputerState): Promise<string | null> {
  const { id, generation, reference, driver } = state;
  try {
    const content = reference && (await driverOf(runtime, driver).snapshot(id, reference));
    if (!content) return null;
    const name = `computers/${id}/${generation}.tar.zst`;
    await runtime.blobs.put(name, content);
    return name;
  } catch (error) {
    runtime.logger.error({ err: error, computer: id }, 'a computer could not be saved');
    return null;
  }
}

/** @throws OverwinterError `unavailable` */
async function expectHere(runtime: Runtime, state: ComputerState): Promise<void> {
  if (!(await isElsewhere(runtime, state))) return;
  throw new OverwinterError(
    'unavailable',
    'the computer is on another machine of this installation: ask the server there',
  );
}

/** Whether its files lie with another machine. */
async function isElsewhere(
  runtime: Runtime,
  { id, machine, generation, driver }: ComputerState,
): Promise<boolean> {
  if (generation === 0 || machine === runtime.machine) return false;
  return !(await driverOf(runtime, driver).inventory()).includes(id);
}

/** What went wrong, for whoever asks about the computer; what the sandbox said stands in the log. */
function sentenceOf(error: Error): string {
  if (error instanceof OverwinterError) return error.message;
  const known = ['ComputerLost', 'DriverBusy', 'Unsupported'].includes(error.name);
  return known
    ? error.message.slice(0, 500)
    : 'the computer could not be started; the log of the server says why';
}
