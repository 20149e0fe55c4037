/**
 * Releases on their way: built and started in computers of their own, some at a time, in turn by org. A trial touches nothing of the
 * release that serves; what becomes of it is told in the end, and never to one that was called off.
 */
import type { DeploymentRow } from '../../store/deployment/deployments.ts';
import { beginBuild, callOffBuild, type ReleaseRow } from '../../store/deployment/releases.ts';
import type { Computers } from '../computers/computers.ts';
import { publish } from '../computers/publish.ts';
import type { Runtime } from '../runtime.ts';
import type { App, AppOptions } from './app.ts';
import { buildRelease } from './build.ts';
import { ReleaseFailed } from './sentence.ts';
import type { Speaker } from './voice.ts';

export type Trials = {
  /** Begins it, or lets it wait for its turn; of no effect on one that is under way. */
  begin: (deployment: DeploymentRow, release: ReleaseRow) => void;
  /** The id of the release of this deployment that is under way or waits. */
  current: (deployment_id: string) => string | undefined;
  /** Resolves when nothing of it does anything any more. */
  callOff: (deployment_id: string) => Promise<void>;
  close: () => Promise<void>;
};

export type Tried = { deployment: DeploymentRow; release: ReleaseRow; speaker: Speaker };

export type TrialEnds = {
  speakerOf: (release: ReleaseRow) => Speaker;
  start: (release: AppOptions['release'], speaker: Speaker) => App;
  /** Its app runs, and answers on the published port. */
  onHealthy: (tried: Tried, app: App, port: number) => void;
  onFailed: (tried: Tried, error: unknown) => void;
};

const AT_ONCE_MAX = 3;
/** Of one org, so that one is left for the others. */
const OF_ORG_MAX = 2;
/** One that has taken its node along so often is not tried again. */
const ATTEMPTS_MAX = 3;

type Trial = Tried & { abort: AbortController; over: Promise<void> };

export function createTrials(runtime: Runtime, computers: Computers, ends: TrialEnds): Trials {
  const { db } = runtime.database;
  const under_way = new Map<string, Trial>();
  const waiting = new Map<string, Tried>();

  function begin(deployment: DeploymentRow, release: ReleaseRow): void {
    const { id } = deployment;
    if (current(id) === release.id) return;
    waiting.set(id, { deployment, release, speaker: ends.speakerOf(release) });
    beginNext();
  }

  function current(id: string): string | undefined {
    return (under_way.get(id) ?? waiting.get(id))?.release.id;
  }

  function beginNext(): void {
    while (under_way.size < AT_ONCE_MAX) {
      const next = nextOf([...waiting.values()]);
      if (!next) return;
      waiting.delete(next.deployment.id);
      start(next);
    }
  }

  /** The one that waits longest, of the org that has the least under way. */
  function nextOf(all: Tried[]): Tried | undefined {
    const busy = [...under_way.values()].map(({ deployment }) => deployment.org);
    const countOf = ({ deployment }: Tried): number => busy.filter((org) => org === deployment.org).length;
    for (let count = 0; count < OF_ORG_MAX; count += 1) {
      const next = all.find((each) => countOf(each) === count);
      if (next) return next;
    }
    return undefined;
  }

  function start(tried: Tried): void {
    const { id } = tried.deployment;
    const abort = new AbortController();
    const trial: Trial = { ...tried, abort, over: Promise.resolve() };
    under_way.set(id, trial);
    const made = attempt(tried, abort.signal);
    const ended = (): void => {
      if (under_way.get(id) === trial) under_way.delete(id);
      beginNext();
    };
    trial.over = made.then(
      ({ app, port }) => {
        ended();
        if (abort.signal.aborted) return app.stop();
        return ends.onHealthy(tried, app, port);
      },
      async (error: unknown) => {
        ended();
        if (!abort.signal.aborted) return ends.onFailed(tried, error);
        return await callOffBuild(db, tried.release.id).catch(() => undefined);
      },
    );
  }

  async function attempt(
    { deployment, release, speaker }: Tried,
    signal: AbortSignal,
  ): Promise<{ app: App; port: number }> {
    if (release.attempts >= ATTEMPTS_MAX)
      throw new ReleaseFailed(`the server ended ${release.attempts} times while it was built or started`);
    await beginBuild(db, release.id);
    await runtime.fail('release.begun');
    const computer_id = await buildRelease(runtime, computers, release, deployment.name, speaker, signal);
    await runtime.fail('release.built');
    const app = ends.start({ ...release, computer_id }, speaker);
    const stop = (): void => void app.stop();
    signal.addEventListener('abort', stop, { once: true });
    try {
      const port = await app.healthy.catch((error: Error) => {
        throw new ReleaseFailed(`${error.message}: ${speaker.tail()}`);
      });
      await publish(runtime, deployment.org, await runtime.computer_log.state(computer_id), port);
      await runtime.fail('release.published');
      return { app, port };
    } catch (error) {
      await app.stop();
      throw error;
    } finally {
      signal.removeEventListener('abort', stop);
    }
  }

  async function callOff(id: string): Promise<void> {
    waiting.delete(id);
    const trial = under_way.get(id);
    trial?.abort.abort();
    await trial?.over;
  }

  return {
    begin,
    current,
    callOff,
    close: async () => {
      waiting.clear();
      await Promise.all([...under_way.keys()].map(callOff));
    },
  };
}
