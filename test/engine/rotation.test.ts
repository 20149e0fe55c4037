/**
 * The master key is changed under a running server: whoever works goes on, whatever dies in the middle starts and opens everything,
 * and afterwards the old key opens nothing.
 */
import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { promisify } from 'node:util';
import { sql } from 'kysely';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import failpoints from '../../fixtures/failpoints.json' with { type: 'json' };
import { createRotation } from '../../src/engine/keys/rotate-master-key.ts';
import { modelKey } from '../../src/engine/model-key.ts';
import type { Runtime } from '../../src/engine/runtime.ts';
import { givenKeys, type MasterKeys } from '../../src/secret/master-keys.ts';
import { masterKey, sealer } from '../../src/secret/seal.ts';
import { insertOrg } from '../../src/store/orgs.ts';
import { SEALED_TABLES } from '../../src/store/sealed.ts';
import { GROUNDS, testGround, type TestGround } from '../helpers/grounds.ts';
import { reply, text } from '../helpers/model/messages-api.ts';
import type { TestNode } from '../helpers/node.ts';
import { startReceiver, type Receiver } from '../helpers/receiver.ts';
import { testRuntime, type TestRuntime } from '../helpers/runtime.ts';
import { eventually, makeWorld, streamUntil, type World } from '../helpers/world.ts';

const [OLD, NEW] = [randomBytes(32), randomBytes(32)];
const SCRIPT = path.join(import.meta.dirname, '../../scripts/rotate-master-key.ts');
const settledAtOnce = () => Promise.resolve(true);

type Rotation = { key_id: string; rewrapped: number; remaining: number; other_key_ids: string[] };

async function rotate(node: TestNode): Promise<Rotation> {
  const response = await fetch(`${node.url}/v3/master-key/rotation`, {
    method: 'POST',
    headers: { authorization: `Bearer ${node.api_key}` },
  });
  expect(response.status).toBe(200);
  return (await response.json()) as Rotation;
}

describe('a server with keys of its own', { timeout: 60_000 }, () => {
  let world: World;
  let receiver: Receiver;
  beforeEach(async () => {
    const settings = { OVERWINTER_WEBHOOK_ALLOW: '127.0.0.0/8', OVERWINTER_POLL_MS: '50' };
    world = await makeWorld(() => reply(text('Done.')), settings);
    receiver = await startReceiver();
  });
  afterEach(async () => {
    await world.end();
    await receiver.close();
  });

  const keyFile = () => path.join(world.directory, 'master-key');
  const keptKeys = () => fs.readFileSync(keyFile(), 'utf8').trim().split('\n');

  /** A session whose model key and webhook secret are both sealed. */
  async function makeSession(node: TestNode): Promise<string> {
    const { agents, sessions } = node.client;
    const agent = await agents.create({
      ...{ name: randomBytes(4).toString('hex'), prompt: 'p', model: 'anthropic/claude-test' },
      key: 'sk-rotated-canary',
    });
    const session = await sessions.create({ agent: agent.id, input: 'go' });
    await session.destinations.create({ url: receiver.url, secret: 'whsec_cm90YXRlZC1jYW5hcnk=' });
    await streamUntil(session, 'turn.completed');
    return session.id;
  }

  /** A turn more, which asks for the model key, and its webhook, which asks for the secret. */
  async function works(node: TestNode, id: string): Promise<void> {
    const [session, before] = [await node.client.sessions.get(id), receiver.received.length];
    const { seq } = await session.steer('again');
    const [end] = (await streamUntil(session, 'turn.completed', { after: seq })).slice(-1);
    expect(end!.body).toMatchObject({ yieldReason: 'completed' });
    await eventually(() => receiver.received.length > before);
    expect(receiver.received.at(-1)!.headers['webhook-signature']).toMatch(/^v1,/);
  }

  it('makes a new key, and sessions go on meanwhile', async () => {
    const node = await world.start();
    const ids = [await makeSession(node), await makeSession(node)];
    const [old] = keptKeys();
    const rotated = new AbortController();
    const working = ids.map(async (id) => {
      do await works(node, id);
      while (!rotated.signal.aborted);
    });
    const answers = [await rotate(node), await rotate(node)];
    rotated.abort();
    await Promise.all(working);
    for (const answer of answers)
      expect(answer).toMatchObject({ rewrapped: 4, remaining: 0, other_key_ids: [] });
    expect(answers[0]!.key_id).not.toBe(answers[1]!.key_id);
    expect(keptKeys()).toHaveLength(1);
    expect(keptKeys()).not.toContain(old);
    expect(fs.statSync(keyFile()).mode & 0o777).toBe(0o600);
    for (const id of ids) await works(node, id);
  });

  it('opens nothing with the old key any more', async () => {
    const node = await world.start();
    const id = await makeSession(node);
    const [old] = keptKeys();
    await rotate(node);
    await node.stop();
    const behind = await world.start({ OVERWINTER_MASTER_KEY: old! });
    const session = await behind.client.sessions.get(id);
    const { seq } = await session.steer('again');
    const [end] = (await streamUntil(session, 'turn.completed', { after: seq })).slice(-1);
    expect(end!.body).toMatchObject({ yieldReason: 'error' });
    expect(await rotate(behind)).toMatchObject({ rewrapped: 0, remaining: 2 });
    await behind.stop();
    await works(await world.start(), id);
  });

  it('is none the worse for many who ask at once', async () => {
    const node = await world.start();
    const id = await makeSession(node);
    const answers = await Promise.all([rotate(node), rotate(node), rotate(node)]);
    expect(answers.map(({ remaining }) => remaining)).toEqual([0, 0, 0]);
    expect(keptKeys()).toHaveLength(1);
    await works(node, id);
  });

  it('is asked for from the command line, which says what was done or what is wrong', async () => {
    const node = await world.start();
    await makeSession(node);
    const run = (settings: Record<string, string>) =>
      promisify(execFile)(process.execPath, [SCRIPT], {
        env: { OVERWINTER_URL: node.url, OVERWINTER_DATA_DIR: world.directory, ...settings },
      });
    const { stdout } = await run({});
    expect(stdout).toContain('put under it now: 2');
    expect(stdout).toContain('the server keeps no other');
    const nowhere = path.join(world.directory, 'nowhere');
    await expect(run({ OVERWINTER_DATA_DIR: nowhere })).rejects.toThrow(/There is no API key in/);
    await expect(run({ OVERWINTER_API_KEY: 'x' })).rejects.toThrow(/answered 401: a valid API key/);
    await expect(run({ OVERWINTER_URL: 'http://127.0.0.1:1' })).rejects.toThrow(/No server answers at/);
  });

  const OWN = failpoints.filter((name) => name.startsWith('secret.'));
  it.each(OWN)(
    'killed after %s starts again, opens everything and finishes the change',
    async (failpoint) => {
      const id = await makeSession(await stopped(world));
      await dies(failpoint);
      await works(await stopped(world), id);
      await finishes(id);
    },
  );

  const LATE = OWN.filter((name) => name !== 'secret.key_added');
  it.each(LATE)(
    'killed again after %s, with the change begun, opens everything and finishes it',
    async (failpoint) => {
      const id = await makeSession(await stopped(world));
      await dies('secret.rewrapped');
      expect(keptKeys()).toHaveLength(2);
      await dies(failpoint);
      await finishes(id);
    },
  );

  /** A node on the data directory after the last one is gone. */
  async function stopped(of: World): Promise<TestNode> {
    await running?.stop();
    return (running = await of.start());
  }
  let running: TestNode | undefined;
  afterEach(() => (running = undefined));

  async function dies(failpoint: string): Promise<void> {
    await running?.stop();
    running = undefined;
    const doomed = await world.start({ OVERWINTER_FAILPOINT: failpoint });
    await expect(rotate(doomed)).rejects.toThrow();
    await doomed.ended;
    expect(doomed.process.signalCode).toBe('SIGKILL');
  }

  async function finishes(id: string): Promise<void> {
    const node = await stopped(world);
    await works(node, id);
    expect(await rotate(node)).toMatchObject({ remaining: 0, other_key_ids: [] });
    expect(keptKeys()).toHaveLength(1);
    expect(fs.existsSync(`${keyFile()}.new`)).toBe(false);
    await works(await stopped(world), id);
  }
});

describe.each(GROUNDS)('stored secrets on %s', (kind) => {
  let ground: TestGround;
  let nodes: TestRuntime[];
  beforeEach(async () => {
    ground = await testGround(kind);
    nodes = [];
  });
  afterEach(async () => {
    for (const node of nodes) await node.close();
    await ground.drop();
  });

  async function nodeWith(keys: MasterKeys): Promise<Runtime> {
    const node = await testRuntime({ sealer: keys.sealer, master_keys: keys }, ground);
    nodes.push(node);
    return node.runtime;
  }
  const given = (...keys: Buffer[]) => givenKeys(keys.map(masterKey));

  it('are put under the first of the given keys, a great many of them, by two nodes at once', async () => {
    const one = await nodeWith(given(NEW, OLD));
    const two = kind === 'embedded' ? one : await nodeWith(given(NEW, OLD));
    const org = await makeOrg(one);
    await insertSealed(one, org, 1500);
    const answers = await Promise.all([one, two].map((node) => createRotation(node, settledAtOnce)()));
    expect(answers.reduce((sum, { rewrapped }) => sum + rewrapped, 0)).toBe(1500);
    const last = await createRotation(one, settledAtOnce)();
    expect(last).toEqual({
      ...{ key_id: masterKey(NEW).id, rewrapped: 0, remaining: 0 },
      other_key_ids: [masterKey(OLD).id],
    });
    // Whoever has the new key alone opens all, and whoever has the old one alone opens none.
    expect(await modelKey({ ...one, sealer: sealer(NEW) }, org, idOf(1))).toBe('sk-secret-1');
    expect(await modelKey({ ...one, sealer: sealer(OLD) }, org, idOf(1))).toBe(undefined);
  });

  it('are all there are: every column that holds sealed values is known', async () => {
    const { database } = await nodeWith(given(NEW));
    const { rows } = await sql<{ name: string }>`
      select table_name as name from information_schema.columns
      where table_schema = 'public' and column_name = 'sealed' order by 1`.execute(database.db);
    expect(rows.map(({ name }) => name)).toEqual([...SEALED_TABLES].toSorted());
  });

  it('are rewrapped once for two who ask while it is done', async () => {
    const node = await nodeWith(given(NEW, OLD));
    await insertSealed(node, await makeOrg(node), 3);
    const rotation = createRotation(node, settledAtOnce);
    const [one, two] = await Promise.all([rotation(), rotation()]);
    expect([one.rewrapped, two]).toEqual([3, one]);
    expect(await rotation()).toMatchObject({ rewrapped: 0, remaining: 0 });
  });

  it('that change meanwhile keep the change, and none is put back', async () => {
    const keys = given(NEW, OLD);
    const node = await nodeWith(keys);
    const org = await makeOrg(node);
    await insertSealed(node, org, 1);
    const changed = sealer(OLD).seal('sk-changed', {
      org,
      table: 'credential',
      id: idOf(1),
      column: 'sealed',
    });
    let raced = false;
    const racing: MasterKeys['sealer'] = {
      ...keys.sealer,
      rewrap: (sealed, place) => {
        const rewrapped = keys.sealer.rewrap(sealed, place);
        if (!raced)
          racers.push(node.database.db.updateTable('credential').set({ sealed: changed }).execute());
        raced = true;
        return rewrapped;
      },
    };
    const racers: Promise<unknown>[] = [];
    await createRotation({ ...node, master_keys: { ...keys, sealer: racing } }, settledAtOnce)();
    await Promise.all(racers);
    expect(await createRotation(node, settledAtOnce)()).toMatchObject({ remaining: 0 });
    expect(await modelKey(node, org, idOf(1))).toBe('sk-changed');
  });

  it('swapped between two orgs open for neither, and count as left', async () => {
    const node = await nodeWith(given(NEW, OLD));
    const [org, other] = [await makeOrg(node), await makeOrg(node)];
    await insertSealed(node, org, 1);
    await node.database.db.updateTable('credential').set({ org: other }).execute();
    expect(await modelKey(node, other, idOf(1))).toBe(undefined);
    expect(await createRotation(node, settledAtOnce)()).toMatchObject({ rewrapped: 0, remaining: 1 });
    expect(await modelKey(node, other, idOf(1))).toBe(undefined);
    await node.database.db.updateTable('credential').set({ org }).execute();
    expect(await createRotation(node, settledAtOnce)()).toMatchObject({ rewrapped: 1, remaining: 0 });
    expect(await modelKey(node, org, idOf(1))).toBe('sk-secret-1');
  });

  it('keep their old key as long as a request that sealed with it may still store', async () => {
    const keys = given(NEW, OLD);
    const gone: string[][] = [];
    const watched = { ...keys, retire: (ids: string[]) => Promise.resolve(void gone.push(ids)) };
    const node = await nodeWith(watched);
    await createRotation(node, () => Promise.resolve(false))();
    expect(gone).toEqual([]);
    await createRotation(node, async () => {
      await insertSealed(node, await makeOrg(node), 1);
      return true;
    })();
    expect(gone).toEqual([[masterKey(OLD).id]]);
    expect(await createRotation(node, settledAtOnce)()).toMatchObject({ remaining: 0 });
  });
});

async function makeOrg({ database, newId }: Runtime): Promise<string> {
  const id = newId('org');
  await insertOrg(
    database.db,
    { id, name: 'o' },
    {
      ...{ id: newId('api_key'), name: 'k', scopes: ['admin'] },
      ...{ public_id: randomBytes(4).toString('hex'), digest: randomBytes(32) },
    },
  );
  return id;
}

function idOf(number: number): string {
  return `cred_${number.toString(16).padStart(24, '0')}`;
}

/** Credentials 1 to `count`, sealed with the old key. */
async function insertSealed({ database }: Runtime, org: string, count: number): Promise<void> {
  const ids = Array.from({ length: count }, (_, index) => idOf(index + 1));
  const old = sealer(OLD);
  const sealed = ids.map((id, index) =>
    old.seal(`sk-secret-${index + 1}`, { org, table: 'credential', id, column: 'sealed' }),
  );
  await sql`
    insert into credential (id, org, provider, last4, sealed)
    select id, ${org}, 'anthropic', 'xxxx', sealed from unnest(${ids}::text[], ${sealed}::text[]) n (id, sealed)`.execute(
    database.db,
  );
}
