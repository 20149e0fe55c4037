/**
 * The program of a release while it runs: started, watched, and started again when it ends. Invariant: one of its own accord ends for
 * good only by its owner's wish, or when it has ended too often too soon.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { ComputerLost } from '../../resource/computer/driver.ts';
import { OverwinterError } from '../../resource/error.ts';
import type { ReleaseRow } from '../../store/deployment/releases.ts';
import type { Computers } from '../computers/computers.ts';
import { HOME, NO_LIMIT_MS, runCommand, type CommandEnd } from '../computers/exec.ts';
import type { Runtime } from '../runtime.ts';
import { findHealthyPort, listening } from './inside.ts';
import type { Said } from './log.ts';

export type App = {
  /** The port that it answers on, once it does. Rejects when it comes to rest before. */
  healthy: Promise<number>;
  /** Resolves when its processes have ended and nothing of this starts them again. */
  stop: () => Promise<void>;
};

export type AppOptions = {
  release: ReleaseRow & { computer_id: string };
  said: Said;
  /** `trial`: it must become healthy the first time. */
  mode: 'trial' | 'lasting';
  /** It comes to rest: `broken` with what it said last, or `away` when its computer was stopped or deleted by others. */
  onRest: (why: 'broken' | 'away', sentence: string) => void;
};

const PORT = 8000;
export const FOLDER = `${HOME}/app`;
const HEALTHY_MS_MAX = 120_000;
/** One that has run for so long has not ended too soon. */
const SETTLED_MS = 60_000;
const SOON_ENDS_MAX = 5;
const WAIT_MS = 500;
const WAIT_MS_MAX = 30_000;

export function startApp(runtime: Runtime, computers: Computers, options: AppOptions): App {
  const { release, said, mode, onRest } = options;
  const { computer_id, org, settings } = release;
  const stopping = new AbortController();
  const healthy = Promise.withResolvers<number>();
  // Whoever wants to know asks; nobody has to.
  healthy.promise.catch(() => undefined);
  let has_answered = false;

  function answered(port: number): void {
    has_answered = true;
    healthy.resolve(port);
  }

  /** Runs it once. Resolves with how it ended. */
  async function run(): Promise<CommandEnd> {
    const computer = await computers.use(computer_id);
    const before = await listening(computer);
    const port = release.port ?? settings.port ?? PORT;
    const command = await runCommand(runtime, computers, org, await runtime.computer_log.state(computer_id), {
      ...{ script: RUN, cwd: FOLDER, source: 'deployment', signal: stopping.signal },
      ...{ timeout_ms: NO_LIMIT_MS, output_bytes_max: Number.MAX_SAFE_INTEGER },
      env: { HOST: '0.0.0.0', NODE_ENV: 'production', PORT: String(port), PYTHONUNBUFFERED: '1' },
    });
    const over = new AbortController();
    const looking = findHealthyPort(
      computer,
      { port, path: settings.health_path ?? '/', before, timeout_ms: HEALTHY_MS_MAX },
      AbortSignal.any([over.signal, stopping.signal]),
    );
    looking.then(answered, (error: Error) => {
      if (mode === 'trial' && !over.signal.aborted) healthy.reject(error);
    });
    for await (const { stream, data } of command.output) said.write('run', stream, data);
    const end = await command.end;
    over.abort();
    return end;
  }

  async function keep(): Promise<void> {
    for (let soon = 0; !stopping.signal.aborted;) {
      const began = runtime.now();
      const how = await run().then(sentenceOf, orLost);
      if (stopping.signal.aborted) return;
      said.write('run', 'system', `${how}\n`);
      soon = runtime.now() - began > SETTLED_MS ? 0 : soon + 1;
      const is_trial = mode === 'trial' && !has_answered;
      if (is_trial || soon > SOON_ENDS_MAX) {
        healthy.reject(new Error(how));
        return onRest('broken', how);
      }
      await delay(Math.min(WAIT_MS * 2 ** (soon - 1), WAIT_MS_MAX), undefined, { signal: stopping.signal });
    }
  }

  const kept = keep().catch((error: Error) => {
    healthy.reject(error);
    if (stopping.signal.aborted) return;
    // Its computer is not what it was: its owner has stopped or deleted it, or it cannot be woken.
    const away =
      error instanceof OverwinterError && (error.code === 'conflict' || error.code === 'not_found');
    if (!away) runtime.logger.warn({ err: error, computer: computer_id }, 'an app could not be run');
    onRest(away ? 'away' : 'broken', error.message);
  });

  return {
    healthy: healthy.promise,
    stop: async () => {
      stopping.abort();
      healthy.reject(new Error('it was stopped'));
      await kept;
      await said.flush();
    },
  };
}

function sentenceOf({ exit_code, error_type }: CommandEnd): string {
  return `it ended with exit code ${exit_code}${error_type === null ? '' : ` (${error_type})`}`;
}

/** A computer that cannot be woken now may be woken later. */
function orLost(error: Error): string {
  if (error instanceof ComputerLost) return error.message;
  throw error;
}

/** What it leaves behind in its process group ends with it: the next one needs its port. */
const RUN = `bash "$HOME/.start"
code=$?
trap '' TERM
kill -TERM 0
exit $code
`;
