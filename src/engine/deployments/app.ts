/**
 * The program of a release while it runs: started, watched, and started again when it ends. It comes to rest by its owner's wish, when
 * it has ended too often too soon, or when its computer was stopped or deleted by others.
 */
import { setTimeout as delay } from 'node:timers/promises';
import type { ComputerStatus } from '../../resource/computer/life.ts';
import type { ReleaseRow } from '../../store/deployment/releases.ts';
import type { Computers } from '../computers/computers.ts';
import { HOME, NO_LIMIT_MS, runCommand, type CommandEnd } from '../computers/exec.ts';
import type { Runtime } from '../runtime.ts';
import { findHealthyPort, listening } from './inside.ts';
import { isExpected, sentenceOf } from './sentence.ts';
import type { Speaker } from './voice.ts';

export type App = {
  /** The id of its release. */
  readonly release: string;
  /** The port that it answers on, once it does. Rejects when it does not in time, or has come to rest. */
  healthy: Promise<number>;
  /** Whether nothing starts it again. */
  rested: () => boolean;
  /** Resolves when its processes have ended. */
  stop: () => Promise<void>;
};

export type Rest = { why: 'broken' | 'away'; sentence: string };

export type AppOptions = {
  release: ReleaseRow & { computer_id: string };
  speaker: Speaker;
  /** `trial`: it must become healthy the first time. */
  mode: 'trial' | 'lasting';
  /** Aborts when the server stops. */
  ending: AbortSignal;
  /** Called once at most, and not for one that was stopped. */
  onRest: (rest: Rest) => void;
};

/** Where the files of a release are. */
export const FOLDER = `${HOME}/app`;
const PORT = 8000;
const HEALTHY_MS_MAX = 120_000;
/** One that has run for so long has not ended too soon. */
const SETTLED_MS = 60_000;
const SOON_ENDS_MAX = 5;
const WAIT_MS = 500;
const WAIT_MS_MAX = 30_000;

/** How one run of it ended. `counts`: it is to blame for that. */
type Outcome = { how: string; counts: boolean; is_away: boolean };

export function startApp(runtime: Runtime, computers: Computers, options: AppOptions): App {
  const { release, speaker, mode, onRest } = options;
  const { computer_id, settings } = release;
  const stopped = new AbortController();
  const over = AbortSignal.any([stopped.signal, options.ending]);
  const healthy = Promise.withResolvers<number>();
  // Whoever wants to know asks; nobody has to.
  healthy.promise.catch(() => undefined);
  let has_answered = false;
  let has_rested = false;
  const patience = setTimeout(() => giveUp('it did not answer in time'), HEALTHY_MS_MAX);

  function giveUp(sentence: string): void {
    clearTimeout(patience);
    healthy.reject(new Error(sentence));
  }

  function answered(port: number): void {
    has_answered = true;
    clearTimeout(patience);
    healthy.resolve(port);
  }

  /** Runs it once. */
  async function run(): Promise<CommandEnd> {
    const { status } = await runtime.computer_log.state(computer_id);
    // A wake that has failed may succeed the next time.
    if (status === 'error') await computers.start(computer_id);
    const computer = await computers.use(computer_id);
    const before = await listening(computer);
    const port = release.port ?? settings.port ?? PORT;
    const state = await runtime.computer_log.state(computer_id);
    const command = await runCommand(runtime, computers, release.org, state, {
      ...{ script: RUN, cwd: FOLDER, source: 'deployment', signal: over, env: { PORT: String(port) } },
      ...{ timeout_ms: NO_LIMIT_MS, output_bytes_max: Number.MAX_SAFE_INTEGER },
    });
    const ended = new AbortController();
    findHealthyPort(
      computer,
      { port, path: settings.health_path ?? '/', before, timeout_ms: HEALTHY_MS_MAX },
      AbortSignal.any([ended.signal, over]),
    ).then(answered, (error: Error) => ended.signal.aborted || giveUp(error.message));
    for await (const { stream, data } of command.output) speaker.write('run', stream, data);
    const end = await command.end;
    ended.abort();
    return end;
  }

  async function outcomeOf(error: unknown): Promise<Outcome> {
    const { status } = await runtime.computer_log.state(computer_id).catch(() => ({ status: null }));
    const is_away = status !== null && AWAY.has(status);
    if (!is_away && !isExpected(error))
      runtime.logger.warn({ err: error, computer: computer_id }, 'an app could not be run');
    return {
      how: is_away ? `its computer is ${status}` : sentenceOf(error),
      counts: isExpected(error),
      is_away,
    };
  }

  function rest(why: Rest['why'], sentence: string): void {
    has_rested = true;
    giveUp(sentence);
    onRest({ why, sentence });
  }

  async function keep(): Promise<void> {
    for (let soon = 0; ;) {
      const began = runtime.now();
      const { how, counts, is_away } = await run().then(ofEnd, outcomeOf);
      if (over.aborted) return;
      speaker.write('run', 'system', `${how}\n`);
      if (counts) soon = runtime.now() - began > SETTLED_MS ? 0 : soon + 1;
      const in_vain = soon > SOON_ENDS_MAX || (mode === 'trial' && !has_answered);
      if (is_away || in_vain) return rest(is_away ? 'away' : 'broken', how);
      const wait_ms = Math.min(WAIT_MS * 2 ** Math.max(0, soon - 1), WAIT_MS_MAX);
      await delay(wait_ms, undefined, { signal: over }).catch(() => undefined);
      if (over.aborted) return;
    }
  }

  const kept = keep();
  return {
    ...{ release: release.id, healthy: healthy.promise },
    rested: () => has_rested,
    stop: async () => {
      has_rested = true;
      stopped.abort();
      giveUp('it was stopped');
      await kept;
    },
  };
}

const AWAY: ReadonlySet<ComputerStatus> = new Set([
  'stopping',
  'stopped',
  'deleting',
  'deleted',
  'lost',
] as const);

function ofEnd({ exit_code, error_type }: CommandEnd): Outcome {
  const why = error_type === null ? '' : ` (${error_type})`;
  return { how: `it ended with exit code ${exit_code}${why}`, counts: true, is_away: false };
}

/**
 * What its owner has set comes before what most programs need. What it leaves behind in its process group ends with it: the next one
 * needs its port.
 */
const RUN = `export HOST="\${HOST-0.0.0.0}" NODE_ENV="\${NODE_ENV-production}" PYTHONUNBUFFERED="\${PYTHONUNBUFFERED-1}"
bash "$HOME/.start"
code=$?
trap '' TERM
kill -TERM 0
exit $code
`;
