/**
 * Deployments, proved by crashing: the server kills itself after a named effect; the next one brings the app to what was wanted, once, and
 * leaves neither a computer nor a bundle that nothing needs.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import failpoints from '../../fixtures/failpoints.json' with { type: 'json' };
import {
  archive,
  ask,
  kept,
  settled,
  upload,
  visit,
  type App,
  type Door,
  type Files,
} from '../conformance/deploy.ts';
import { reply, text } from '../helpers/model/messages-api.ts';
import type { TestNode } from '../helpers/node.ts';
import { eventually, makeWorld, type World } from '../helpers/world.ts';

const RECEIVE = ['release.intended', 'release.received', 'release.bundled', 'release.recorded'];
const ROLL = [
  ...['release.begun', 'release.computer_recorded', 'release.built', 'release.published'],
  ...['release.switched', 'release.computer_removed', 'release.forgotten'],
];
const FAIL = ['release.failed'];
const REFUSE = ['release.upload_removed'];
const STOP = ['deployment.wished', 'deployment.stopped'];
const DELETE = ['deployment.cleared', 'deployment.deleted'];

/** `npm run test:crash` kills at each of them. */
const WHOLE = process.env['OVERWINTER_CRASH_ROUNDS'] !== undefined;
const SOME = [
  ...['release.received', 'release.recorded', 'release.computer_recorded', 'release.switched'],
  ...['release.failed', 'release.upload_removed', 'deployment.wished', 'deployment.cleared'],
];
const picked = (failpoints: string[]): string[] => failpoints.filter((name) => WHOLE || SOME.includes(name));

const server = (word: string): Files => ({
  'index.txt': word,
  Procfile: 'web: exec python3 -m http.server "$PORT"\n',
});

it('the places to be killed at are all that deployments have', () => {
  const named = failpoints.filter((name) => /^(release|deployment)\./.test(name));
  expect([...RECEIVE, ...ROLL, ...FAIL, ...REFUSE, ...STOP, ...DELETE].toSorted()).toEqual(named.toSorted());
});

describe('killed after', () => {
  let world: World;
  let node: TestNode;
  beforeAll(async () => {
    world = await makeWorld(() => reply(text('.')), { OVERWINTER_SANDBOX: 'bwrap' });
    node = await world.start();
  }, 60_000);
  afterAll(() => world.end());

  /** Does it on a node that dies there, and starts the next one. */
  async function dieAt(failpoint: string, act: (doomed: TestNode) => Promise<unknown>): Promise<void> {
    await node.stop();
    const doomed = await world.start({ OVERWINTER_FAILPOINT: failpoint });
    await act(doomed).catch(() => undefined);
    await eventually(() => doomed.process.signalCode === 'SIGKILL', 30_000);
    node = await world.start();
  }

  it.each(picked([...RECEIVE, ...ROLL]))(
    '%s an app is redeployed all the same',
    { timeout: 90_000 },
    async (failpoint) => {
      const before = await deploy(node, server(`before ${failpoint}`));
      const number = before.release!.number + 1;
      const files = server(`after ${failpoint}`);
      await dieAt(failpoint, (doomed) => send(doomed, files));
      // What was not recorded was not promised.
      if (RECEIVE.includes(failpoint) && failpoint !== 'release.recorded') await send(node, files);
      const { url } = await settled(node, 'app');
      await eventually(async () => (await visit({ url }, '/index.txt')) === `200 after ${failpoint}`, 30_000);
      const app = await settled(node, 'app');
      expect(app).toMatchObject({
        status: 'READY',
        release: { number },
        serving: { number },
        last_error: null,
      });
      await eventually(async () => (await computers(node)).length === 1, 20_000);
      await eventually(() => kept(world).length === 1);
    },
  );

  it.each(picked(FAIL))('%s a release that fails has failed', { timeout: 60_000 }, async (failpoint) => {
    await ask(node, 'DELETE /v1/deploy/apps/app');
    await dieAt(failpoint, (doomed) => send(doomed, { 'README.md': '' }));
    await eventually(async () => (await computers(node)).length === 0, 20_000);
    const { status, last_error } = await settled(node, 'app');
    expect([status, last_error]).toEqual(['FAILED', expect.stringContaining('Nothing says how')]);
    await ask(node, 'DELETE /v1/deploy/apps/app');
  });

  it.each(picked(REFUSE))('%s a refused upload leaves nothing', { timeout: 60_000 }, async (failpoint) => {
    await dieAt(failpoint, (doomed) => upload(doomed, { name: 'app' }, Buffer.from('no archive')));
    expect((await ask(node, 'GET /v1/deploy/apps')).json).toEqual([]);
    await eventually(() => kept(world).length === 0);
  });

  it.each(picked([...STOP, ...DELETE]))(
    '%s what was wished comes true',
    { timeout: 60_000 },
    async (failpoint) => {
      const { id } = await deploy(node, server(failpoint));
      const stops = STOP.includes(failpoint);
      const wish = stops ? 'POST /v1/deploy/apps/app/stop' : 'DELETE /v1/deploy/apps/app';
      await dieAt(failpoint, (doomed) => ask(doomed, wish));
      if (stops) {
        await eventually(async () => (await computers(node)).every(({ status }) => status === 'stopped'));
        expect(await ask(node, `GET /v1/deploy/apps/${id}`)).toMatchObject({ json: { status: 'STOPPED' } });
        expect(await computers(node)).toHaveLength(1);
        const started = await ask(node, `POST /v1/deploy/apps/${id}/start`);
        expect(started.json).toMatchObject({ status: 'READY' });
        return;
      }
      await eventually(async () => (await ask(node, `GET /v1/deploy/apps/${id}`)).status === 404);
      expect([await computers(node), kept(world)]).toEqual([[], []]);
    },
  );
});

async function send(door: Door, files: Files): Promise<void> {
  await upload(door, { name: 'app', config: '{}' }, await archive(files));
}

async function deploy(door: Door, files: Files): Promise<App> {
  await send(door, files);
  return await settled(door, 'app');
}

async function computers(door: Door): Promise<App[]> {
  return ((await ask(door, 'GET /v1/computers')).json as { computers: App[] }).computers;
}
