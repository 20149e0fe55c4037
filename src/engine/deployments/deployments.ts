/**
 * The deployments of this machine. Every wish is recorded before anything is done about it, and one round for one deployment brings what
 * there is to what is wanted; a round that a newer wish interrupts, or a crash, is begun anew. Computers live their own lives
 * (engine/computers/): here they are only asked for, started, stopped and removed.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { OverwinterError } from '../../resource/error.ts';
import { oneAtATime } from '../../resource/serial.ts';
import {
  deleteDeployment,
  listOwed,
  noteTrouble,
  readDeployment,
  settleWish,
  wish,
  type DeploymentRow,
} from '../../store/deployment/deployments.ts';
import {
  beginBuild,
  changeRelease,
  deleteRelease,
  listReleases,
  switchTo,
  type ReleaseRow,
} from '../../store/deployment/releases.ts';
import type { Computers } from '../computers/computers.ts';
import { publish } from '../computers/publish.ts';
import type { Runtime } from '../runtime.ts';
import { startApp, type App } from './app.ts';
import { BuildFailed, buildRelease, computerIdOf } from './build.ts';
import { createSaid, type Said } from './log.ts';
import { bundleOf, discardAbandoned } from './upload.ts';

export type Deployments = {
  /** Takes up what is owed, and what is to run. */
  begin: () => void;
  /** A wish has been recorded: it is looked after at once, where this is its machine. */
  nudge: (deployment: DeploymentRow) => void;
  /** Resolves when it is stopped. @throws OverwinterError `conflict` while it is being deleted. */
  stop: (deployment: DeploymentRow) => Promise<void>;
  /** Resolves when it answers, or has failed to. @throws as `stop` */
  start: (deployment: DeploymentRow) => Promise<void>;
  /** Resolves when nothing of it is left; where its machine is another, that will see to it. */
  remove: (deployment: DeploymentRow) => Promise<void>;
  close: () => Promise<void>;
};

type Built = ReleaseRow & { computer_id: string };
type Running = { release: string; app: App };

const ROUND_MS = 2000;
const BUILDS_AT_ONCE = 2;
/** One that has taken its node along so often is not tried again. */
const ATTEMPTS_MAX = 3;
/** For what visitors of the release before have begun. */
const DRAIN_MS = 5000;
const SENTENCE_CHARACTERS = 2000;

/** @param stopping aborts when the server stops. */
export function createDeployments(
  runtime: Runtime,
  computers: Computers,
  stopping: AbortSignal,
): Deployments {
  const { db } = runtime.database;
  const { machine, logger } = runtime;
  const serial = oneAtATime();
  const running = new Map<string, Running>();
  const rounds = new Map<string, AbortController>();
  const alive_since = new Date(Math.round(runtime.now()));
  let builds = 0;
  let timer: NodeJS.Timeout | undefined;
  let looked = Promise.resolve();

  async function lookAfterAll(which: 'owed' | 'and running'): Promise<void> {
    try {
      if (which === 'and running') await discardAbandoned(runtime, alive_since);
      for (const id of await listOwed(db, machine, which === 'and running')) {
        if (!serial.busy(id)) void round(id);
      }
    } catch (error) {
      logger.error({ err: error }, 'looking after deployments failed');
    }
    if (stopping.aborted) return;
    timer = setTimeout(() => {
      looked = lookAfterAll('owed');
    }, ROUND_MS);
    timer.unref();
  }

  /** Ends the round that is under way and begins another. Never rejects. */
  function round(id: string): Promise<void> {
    rounds.get(id)?.abort();
    const own = new AbortController();
    rounds.set(id, own);
    const signal = AbortSignal.any([own.signal, stopping]);
    return serial(id, async () => {
      if (signal.aborted) return;
      try {
        await settle(id, signal);
      } catch (error) {
        if (!signal.aborted) logger.warn({ err: error, deployment: id }, 'a deployment could not be settled');
      } finally {
        if (rounds.get(id) === own) rounds.delete(id);
      }
    });
  }

  async function settle(id: string, signal: AbortSignal): Promise<void> {
    const deployment = await readDeployment(db, id);
    if (!deployment || deployment.machine !== machine) return await letGo(id);
    const releases = await listReleases(db, id);
    switch (deployment.wanted) {
      case 'deleted':
        return await clear(deployment, releases);
      case 'stopped':
        await rest(deployment, releases);
        break;
      case 'running':
        if (!(await release(deployment, releases, signal))) return;
        await resume(deployment);
        break;
      default:
        deployment.wanted satisfies never;
    }
    await retire(await listReleases(db, id), signal);
    signal.throwIfAborted();
    await settleWish(db, id, deployment.asked);
  }

  /** Brings the newest release to its end, if it has none yet. Resolves to false when it has to wait for others. */
  async function release(
    deployment: DeploymentRow,
    [newest, ...older]: ReleaseRow[],
    signal: AbortSignal,
  ): Promise<boolean> {
    for (const each of older) {
      if (isUnfinished(each)) await changeRelease(db, each.id, { status: 'retired' });
    }
    if (!newest || !isUnfinished(newest)) return true;
    if (builds >= BUILDS_AT_ONCE) return false;
    builds += 1;
    const said = createSaid(runtime, deployment.id, newest.number);
    try {
      await beginBuild(db, newest.id);
      await runtime.fail('release.begun');
      if (newest.attempts >= ATTEMPTS_MAX)
        throw new BuildFailed(`the server ended ${newest.attempts} times while it was built or started`);
      await roll(deployment, newest, said, signal);
    } catch (error) {
      if (signal.aborted) throw error;
      await failRelease(deployment, newest, error as Error, said);
    } finally {
      builds -= 1;
      await said.flush();
    }
    return true;
  }

  /** Builds it and starts it beside the one that serves; visitors are led to it once it is healthy. */
  async function roll(
    deployment: DeploymentRow,
    newest: ReleaseRow,
    said: Said,
    signal: AbortSignal,
  ): Promise<void> {
    const { id, org } = deployment;
    const computer_id = await buildRelease(runtime, computers, newest, slug(deployment.name), said, signal);
    await runtime.fail('release.built');
    const app = run({ ...newest, computer_id }, said, 'trial');
    const stop = (): void => void app.stop();
    signal.addEventListener('abort', stop, { once: true });
    try {
      const port = await app.healthy.catch((error: Error) => {
        throw new BuildFailed(`${error.message}: ${said.tail()}`);
      });
      await publish(runtime, org, await runtime.computer_log.state(computer_id), port);
      await runtime.fail('release.published');
      signal.throwIfAborted();
      await switchTo(db, { id: newest.id, deployment_id: id, port });
      await runtime.fail('release.switched');
    } catch (error) {
      await app.stop();
      throw error;
    }
    signal.removeEventListener('abort', stop);
    const before = running.get(id);
    running.set(id, { release: newest.id, app });
    if (before) await delay(DRAIN_MS, undefined, { signal }).catch(() => undefined);
    await before?.app.stop();
  }

  async function failRelease(
    deployment: DeploymentRow,
    { id, number }: ReleaseRow,
    error: Error,
    said: Said,
  ): Promise<void> {
    const expected = error instanceof BuildFailed || error instanceof OverwinterError;
    if (!expected) logger.error({ err: error, deployment: deployment.id }, 'a release failed');
    const why = (expected ? error.message : 'the server failed').slice(-SENTENCE_CHARACTERS);
    said.write('build', 'system', `${why}\n`);
    await changeRelease(db, id, { status: 'failed' });
    await runtime.fail('release.failed');
    await noteTrouble(db, deployment.id, { last_error: `release ${number}: ${why}` });
  }

  /** Lets the release that serves run, if it does not. */
  async function resume({ id }: DeploymentRow): Promise<void> {
    const deployment = await readDeployment(db, id);
    const { serving, broken } = deployment ?? { serving: null, broken: false };
    if (serving === null || broken || running.has(id)) return;
    const found = (await listReleases(db, id)).find((each) => each.id === serving);
    if (!found || found.computer_id === null) return;
    const { computer_id } = found;
    const { status } = await computers.settled(computer_id);
    if (status === 'deleted' || status === 'deleting')
      return await noteTrouble(db, id, { broken: true, last_error: 'its computer was deleted' });
    try {
      await computers.start(computer_id);
    } catch (error) {
      if (stopping.aborted) throw error;
      const last_error = `its computer did not start: ${(error as Error).message}`;
      return await noteTrouble(db, id, { broken: true, last_error });
    }
    const app = run({ ...found, computer_id }, createSaid(runtime, id, found.number), 'lasting');
    running.set(id, { release: serving, app });
  }

  function run(release: Built, said: Said, mode: 'trial' | 'lasting'): App {
    const { id, deployment_id } = release;
    const app = startApp(runtime, computers, {
      ...{ release, said, mode },
      onRest: (why, sentence) => {
        if (running.get(deployment_id)?.release !== id) return;
        running.delete(deployment_id);
        void noteRest(release, why, `${sentence}: ${said.tail()}`).catch((error: unknown) =>
          logger.warn({ err: error, deployment: deployment_id }, 'the end of an app could not be noted'),
        );
      },
    });
    return app;
  }

  async function noteRest({ deployment_id }: Built, why: 'broken' | 'away', sentence: string): Promise<void> {
    const last_error = sentence.slice(0, SENTENCE_CHARACTERS);
    if (why === 'broken') await noteTrouble(db, deployment_id, { broken: true, last_error });
    else await noteTrouble(db, deployment_id, { wanted: 'stopped', last_error });
  }

  async function rest({ id }: DeploymentRow, releases: ReleaseRow[]): Promise<void> {
    await letGo(id);
    for (const each of releases) {
      const computer_id = await computerIdOf(runtime, each);
      if (computer_id !== undefined) await computers.stop(computer_id, 'asked');
    }
    await runtime.fail('deployment.stopped');
  }

  async function letGo(id: string): Promise<void> {
    const before = running.get(id);
    running.delete(id);
    await before?.app.stop();
  }

  /** Nothing is kept of what serves no more; but the newest, which has failed, can be deployed again. */
  async function retire(releases: ReleaseRow[], signal: AbortSignal): Promise<void> {
    for (const each of releases) {
      if (each.status !== 'retired' && each.status !== 'failed') continue;
      signal.throwIfAborted();
      await removeComputer(each);
      if (each === releases[0]) continue;
      await runtime.blobs.delete(bundleOf(each.id));
      await deleteRelease(db, each.id);
      await runtime.fail('release.forgotten');
    }
  }

  async function removeComputer(release: ReleaseRow): Promise<void> {
    const computer_id = await computerIdOf(runtime, release);
    if (computer_id === undefined) return;
    await computers.remove(computer_id);
    await runtime.fail('release.computer_removed');
  }

  async function clear({ id }: DeploymentRow, releases: ReleaseRow[]): Promise<void> {
    await letGo(id);
    for (const each of releases) {
      await removeComputer(each);
      await runtime.blobs.delete(bundleOf(each.id));
    }
    await runtime.fail('deployment.cleared');
    await deleteDeployment(db, id);
    await runtime.fail('deployment.deleted');
  }

  async function wishFor({ id }: DeploymentRow, wanted: DeploymentRow['wanted']): Promise<void> {
    const row = await wish(db, id, wanted);
    if (!row) throw new OverwinterError('conflict', 'the deployment is being deleted');
    await runtime.fail('deployment.wished');
    if (row.machine === machine) await round(id);
  }

  return {
    begin: () => {
      looked = lookAfterAll('and running');
    },
    nudge: (deployment) => {
      if (deployment.machine === machine) void round(deployment.id);
    },
    stop: (deployment) => wishFor(deployment, 'stopped'),
    start: async (deployment) => {
      await wishFor(deployment, 'running');
      await running.get(deployment.id)?.app.healthy.catch(() => undefined);
    },
    remove: (deployment) => wishFor(deployment, 'deleted'),
    close: async () => {
      clearTimeout(timer);
      await looked;
      for (const [id] of running) void serial(id, () => letGo(id));
      await serial.idle();
    },
  };
}

function isUnfinished({ status }: ReleaseRow): boolean {
  return status === 'enqueued' || status === 'building';
}

/** A name as computers have them. */
function slug(name: string): string {
  const plain = name.toLowerCase().replaceAll(/[^a-z0-9]+/g, '-');
  return `app-${plain}`.replaceAll(/-+/g, '-').replace(/-$/, '').slice(0, 50);
}
