/**
 * The deployments of this machine. Every wish is recorded before anything is done about it, and a round for one deployment, one at a
 * time, brings what there is to what is wanted; a crash leaves it to the next. Computers live their own lives (engine/computers/): here
 * they are only asked for, started, stopped and removed.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { OverwinterError } from '../../resource/error.ts';
import { oneAtATime } from '../../resource/serial.ts';
import {
  adoptDeleted,
  deleteDeployment,
  listOwed,
  noteRest,
  readDeployment,
  settleWish,
  wish,
  type DeploymentRow,
} from '../../store/deployment/deployments.ts';
import {
  changeRelease,
  deleteRelease,
  failRelease,
  listReleases,
  switchTo,
  type ReleaseRow,
} from '../../store/deployment/releases.ts';
import type { Computers } from '../computers/computers.ts';
import { publish } from '../computers/publish.ts';
import type { Runtime } from '../runtime.ts';
import { startApp, type App, type AppOptions, type Rest } from './app.ts';
import { computerIdOf } from './build.ts';
import { isExpected, sentenceOf, shortened } from './sentence.ts';
import { createTrials, type Tried } from './trials.ts';
import { bundleOf, discardAbandoned } from './upload.ts';
import { createVoice, type Speaker, type Voice } from './voice.ts';

export type Deployments = {
  /** Takes up what is owed, and what is to run. */
  begin: () => void;
  /** A release has been recorded: it is looked after at once, where this is its machine. @param said for its log. */
  nudge: (deployment: DeploymentRow, said?: string[]) => void;
  /** Resolves when it is stopped. @throws OverwinterError `conflict` while it is being deleted, `unavailable` when it is not done yet. */
  stop: (deployment: DeploymentRow) => Promise<void>;
  /** Resolves when it answers, or has failed to, or is still being built. @throws as `stop` */
  start: (deployment: DeploymentRow) => Promise<void>;
  /** Resolves when nothing of it is left; where its machine is another, that will see to it. @throws as `stop` */
  remove: (deployment: DeploymentRow) => Promise<void>;
  close: () => Promise<void>;
};

const ROUND_MS = 2000;
const ROUNDS_AT_ONCE = 4;
/** For what visitors of the release before have begun. */
const DRAIN_MS = 5000;
/** So long a machine may be away before what was to be deleted there is deleted here. */
const GRACE_MS = 60_000;
const SENTENCES_MAX = 100;

/** @param stopping aborts when the server stops. */
export function createDeployments(
  runtime: Runtime,
  computers: Computers,
  stopping: AbortSignal,
): Deployments {
  const { db } = runtime.database;
  const { machine, logger } = runtime;
  const serial = oneAtATime();
  const running = new Map<string, App>();
  /** Releases whose visitors may finish what they have begun. */
  const draining = new Set<string>();
  const voices = new Map<string, Voice>();
  const alive_since = new Date(Math.round(runtime.now()));
  const trials = createTrials(runtime, computers, {
    speakerOf: ({ deployment_id, number }) => voiceOf(deployment_id).speaker(number),
    start: (release, speaker) => run(release, speaker, 'trial'),
    onHealthy: (tried, app, port) => void inTurn(tried, () => switchOver(tried, app, port)),
    onFailed: (tried, error) => void inTurn(tried, () => fail(tried, error)),
  });
  let timer: NodeJS.Timeout | undefined;
  let looked = Promise.resolve();

  async function lookAfterAll(which: 'owed' | 'and running'): Promise<void> {
    try {
      if (which === 'and running') await discardAbandoned(runtime, alive_since);
      await adoptDeleted(db, machine, GRACE_MS);
      const owed = await listOwed(db, machine, which === 'and running');
      const work = async (): Promise<void> => {
        for (let id = owed.shift(); id !== undefined && !stopping.aborted; id = owed.shift())
          if (!serial.busy(id)) await round(id);
      };
      await Promise.all(Array.from({ length: ROUNDS_AT_ONCE }, work));
    } catch (error) {
      logger.error({ err: error }, 'looking after deployments failed');
    }
    if (stopping.aborted) return;
    timer = setTimeout(() => {
      looked = lookAfterAll('owed');
    }, ROUND_MS);
    timer.unref();
  }

  function voiceOf(id: string): Voice {
    const voice = voices.get(id) ?? createVoice(runtime, id);
    voices.set(id, voice);
    return voice;
  }

  /** Resolves to whether all that was wanted is done, or under way. Never rejects: what could not be done stays owed. */
  async function round(id: string): Promise<boolean> {
    try {
      await serial(id, () => settle(id));
      return true;
    } catch (error) {
      if (!stopping.aborted) logger.warn({ err: error, deployment: id }, 'a deployment could not be settled');
      return false;
    }
  }

  /** What became of a trial, after what is being done with its deployment. A round follows. */
  async function inTurn({ deployment: { id } }: Tried, act: () => Promise<void>): Promise<void> {
    await serial(id, act).catch((error: unknown) =>
      logger.error({ err: error, deployment: id }, 'the end of a release could not be recorded'),
    );
    if (!stopping.aborted) await round(id);
  }

  async function settle(id: string): Promise<void> {
    if (stopping.aborted) return;
    const deployment = await readDeployment(db, id);
    if (!deployment || deployment.machine !== machine) return await letGo(id);
    const releases = await listReleases(db, id);
    const { wanted, asked } = deployment;
    const [newest] = releases;
    const is_tried = wanted === 'running' && newest !== undefined && isUnfinished(newest);
    if (!is_tried || trials.current(id) !== newest.id) await trials.callOff(id);
    if (wanted === 'deleted') return await clear(deployment, releases);
    if (wanted === 'stopped') await rest(deployment, releases);
    else await resume(deployment, releases);
    await retire(deployment, releases);
    // Owed until it has ended, whatever becomes of the trial.
    if (is_tried) trials.begin(deployment, newest);
    else await settleWish(db, id, asked);
  }

  async function switchOver({ deployment, release, speaker }: Tried, app: App, port: number): Promise<void> {
    const { id } = deployment;
    const now = await readDeployment(db, id);
    const is_newest = now?.releases === release.number && now.machine === machine;
    if (!is_newest || now.wanted !== 'running' || app.rested()) {
      await app.stop();
      // It may be tried again by now.
      if (trials.current(id) === release.id) return;
      if (is_newest && now.wanted === 'running')
        await fail({ deployment, release, speaker }, new Error('it ended'));
      return;
    }
    await switchTo(db, { id: release.id, deployment_id: id, port });
    await runtime.fail('release.switched');
    const before = running.get(id);
    running.set(id, app);
    if (before) void drain(id, before);
  }

  async function drain(id: string, app: App): Promise<void> {
    draining.add(app.release);
    await delay(DRAIN_MS, undefined, { signal: stopping }).catch(() => undefined);
    await app.stop();
    draining.delete(app.release);
    await round(id);
  }

  async function fail({ deployment, release, speaker }: Tried, error: unknown): Promise<void> {
    if (stopping.aborted) return;
    const { id } = deployment;
    if (!isExpected(error)) logger.error({ err: error, deployment: id }, 'a release failed');
    const why = shortened(sentenceOf(error));
    speaker.write('build', 'system', `${why}\n`);
    await failRelease(db, release, `release ${release.number}: ${why}`);
    await runtime.fail('release.failed');
    await voiceOf(id).flush();
  }

  /** Lets the release that serves run, if it does not. */
  async function resume({ id, org, serving, broken }: DeploymentRow, releases: ReleaseRow[]): Promise<void> {
    const found = releases.find((each) => each.id === serving);
    const app = running.get(id);
    if (app && (app.release !== serving || app.rested())) await letGo(id);
    if (!found || broken || found.computer_id === null) return;
    const { computer_id } = found;
    const { status } = await computers.settled(computer_id);
    if (running.has(id) && status === 'running') return;
    await letGo(id);
    try {
      await computers.start(computer_id);
    } catch (error) {
      if (stopping.aborted || !isExpected(error)) throw error;
      const last_error = shortened(`its computer does not start: ${sentenceOf(error)}`);
      return await noteRest(db, { id, serving: found.id, machine }, { broken: true, last_error });
    }
    // Its owner may have taken the port back meanwhile.
    if (found.port !== null)
      await publish(runtime, org, await runtime.computer_log.state(computer_id), found.port);
    running.set(id, run({ ...found, computer_id }, voiceOf(id).speaker(found.number), 'lasting'));
  }

  function run(release: AppOptions['release'], speaker: Speaker, mode: AppOptions['mode']): App {
    const { deployment_id: id } = release;
    const app = startApp(runtime, computers, {
      ...{ release, speaker, mode, ending: stopping },
      onRest: (rested) => {
        serial(id, () => noteAppRest(app, id, rested, speaker)).catch((error: unknown) =>
          logger.warn({ err: error, deployment: id }, 'the end of an app could not be noted'),
        );
      },
    });
    if (mode === 'lasting') app.healthy.then((port) => follow(release, port)).catch(() => undefined);
    return app;
  }

  /** One that has come up on another port than before is reached there. */
  async function follow({ id, org, port, computer_id }: AppOptions['release'], now: number): Promise<void> {
    if (now === port) return;
    await publish(runtime, org, await runtime.computer_log.state(computer_id), now);
    await changeRelease(db, id, { port: now });
  }

  async function noteAppRest(app: App, id: string, { why, sentence }: Rest, speaker: Speaker): Promise<void> {
    if (running.get(id) !== app || stopping.aborted) return;
    running.delete(id);
    const last_error = shortened(why === 'broken' ? `${sentence}: ${speaker.tail()}` : sentence);
    const trouble = why === 'broken' ? ({ broken: true } as const) : ({ wanted: 'stopped' } as const);
    await noteRest(db, { id, serving: app.release, machine }, { ...trouble, last_error });
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
    const app = running.get(id);
    running.delete(id);
    await app?.stop();
  }

  /** Nothing is kept of what neither serves nor is newest; the newest, where it has failed, can be deployed again. */
  async function retire({ serving }: DeploymentRow, releases: ReleaseRow[]): Promise<void> {
    for (const each of releases) {
      const is_newest = each === releases[0];
      if (each.id === serving || (is_newest && each.status !== 'failed')) continue;
      if (draining.has(each.id)) continue;
      await removeComputer(each);
      if (is_newest) continue;
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
    await voices.get(id)?.flush();
    voices.delete(id);
    await deleteDeployment(db, id);
    await runtime.fail('deployment.deleted');
  }

  async function wishFor({ id }: DeploymentRow, wanted: DeploymentRow['wanted']): Promise<void> {
    const row = await wish(db, id, wanted);
    if (!row) throw new OverwinterError('conflict', 'the deployment is being deleted');
    await runtime.fail('deployment.wished');
    if (row.machine !== machine || (await round(id))) return;
    throw new OverwinterError('unavailable', 'it is not done yet, and will be: ask for its status');
  }

  return {
    begin: () => {
      looked = lookAfterAll('and running');
    },
    nudge: ({ id, machine: own, releases }, said = []) => {
      if (own !== machine) return;
      const speaker = voiceOf(id).speaker(releases);
      for (const sentence of said.slice(0, SENTENCES_MAX)) speaker.write('build', 'system', `${sentence}\n`);
      void round(id);
    },
    stop: (deployment) => wishFor(deployment, 'stopped'),
    start: async (deployment) => {
      await wishFor(deployment, 'running');
      await running.get(deployment.id)?.healthy.catch(() => undefined);
    },
    remove: (deployment) => wishFor(deployment, 'deleted'),
    close: async () => {
      clearTimeout(timer);
      await looked;
      await trials.close();
      await serial.idle();
      await Promise.all([...running.values()].map((app) => app.stop()));
      await Promise.all([...voices.values()].map((voice) => voice.flush()));
    },
  };
}

function isUnfinished({ status }: ReleaseRow): boolean {
  return status === 'enqueued' || status === 'building';
}
