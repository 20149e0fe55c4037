/** Snapshots and copies over `/v1`, in the real sandbox: the files as they were, for as many computers as one likes. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startComputerServer } from '../../helpers/computers.ts';
import { fieldOf, type Json, type TestServer } from '../../helpers/http.ts';
import { makeDriver, makeGround, removeGround } from '../../sandbox/grounds.ts';

const ground = makeGround();
const driver = makeDriver(ground);
let server: TestServer;
let source: Json;

beforeAll(async () => {
  server = await startComputerServer({ driver, drivers: new Map([[driver.name, driver]]) });
  const body = { network_policy: { mode: 'off' }, ram_mb: 600 };
  source = (await server.ask('POST /v1/computers', { body })).json;
  await exec(source['id']!, 'echo v1 > version; echo gone > removed; (sleep 600 &)');
});
afterAll(async () => {
  await driver.close();
  await server.close();
  removeGround(ground);
});

async function exec(id: string, command: string): Promise<string> {
  return (await server.ask(`POST /v1/computers/${id}/exec`, { body: { command } })).json['stdout']!;
}

describe('a snapshot', () => {
  it('holds the files of a running computer as they were, and the computer runs on', async () => {
    const taken = await server.ask(`POST /v1/computers/${source['id']!}/snapshots`, {
      body: { name: 'first' },
    });
    expect(taken.status).toBe(201);
    expect(taken.json).toMatchObject({ computer_id: source['id'], name: 'first' });
    expect(Number(taken.json['size_bytes'])).toBeGreaterThan(0);
    await exec(source['id']!, 'echo v2 > version; rm removed');
    expect(await exec(source['id']!, 'pgrep -c sleep')).toBe('1\n');
    const snapshot_id = taken.json['id']!;
    expect((await server.ask(`GET /v1/snapshots/${snapshot_id}`)).json).toEqual(taken.json);
    const made = await server.ask('POST /v1/computers', { body: { snapshot_id } });
    expect(made.json).toMatchObject({ status: 'running', ram_mb: 600, network_policy: { mode: 'off' } });
    expect(await exec(made.json['id']!, 'cat version removed')).toBe('v1\ngone\n');
    expect(await exec(source['id']!, 'cat version; ls removed 2>&1 | wc -l')).toBe('v2\n1\n');
  });

  it('outlives its computer, and is removed when that is asked', async () => {
    const one = (await server.ask('POST /v1/computers', { body: { network_policy: { mode: 'off' } } })).json[
      'id'
    ]!;
    await exec(one, 'echo precious > file');
    await server.ask(`POST /v1/computers/${one}/stop`);
    const { id } = (await server.ask(`POST /v1/computers/${one}/snapshots`, { body: {} })).json;
    expect((await server.ask(`DELETE /v1/computers/${one}`)).json['status']).toBe('deleted');
    const heir = (await server.ask('POST /v1/computers', { body: { snapshot_id: id } })).json['id']!;
    expect(await exec(heir, 'cat file')).toBe('precious\n');
    const listed = (await server.ask('GET /v1/snapshots')).json['snapshots']! as unknown as Json[];
    expect(fieldOf(listed, 'id')).toContain(id);
    const own = (await server.ask(`GET /v1/computers/${one}/snapshots`)).json[
      'snapshots'
    ]! as unknown as Json[];
    expect(fieldOf(own, 'id')).toEqual([id]);
    expect((await server.ask(`DELETE /v1/snapshots/${id}`)).status).toBe(200);
    expect((await server.ask(`GET /v1/snapshots/${id}`)).status).toBe(404);
    expect((await server.ask('POST /v1/computers', { body: { snapshot_id: id } })).status).toBe(404);
    await server.ask(`POST /v1/computers/${heir}/stop`);
    await server.ask(`POST /v1/computers/${heir}/start`);
    expect(await exec(heir, 'cat file')).toBe('precious\n');
  });

  it("of another org's computer is not found", async () => {
    const { id } = (await server.ask(`POST /v1/computers/${source['id']!}/snapshots`, { body: {} })).json;
    const { key } = server.stranger;
    expect((await server.ask(`GET /v1/snapshots/${id}`, { key })).status).toBe(404);
    expect((await server.ask(`DELETE /v1/snapshots/${id}`, { key })).status).toBe(404);
    expect((await server.ask('POST /v1/computers', { key, body: { snapshot_id: id } })).status).toBe(404);
    expect((await server.ask(`POST /v1/computers/${source['id']!}/fork`, { key, body: {} })).status).toBe(
      404,
    );
  });
});

describe('a fork', () => {
  it('makes copies with its files, named after it', async () => {
    const { status, json } = await server.ask(`POST /v1/computers/${source['id']!}/fork`, {
      body: { count: 3 },
    });
    expect(status).toBe(201);
    const copies = json['computers']! as unknown as Json[];
    expect(fieldOf(copies, 'name').toSorted()).toEqual(
      [1, 2, 3].map((number) => `${source['name']}-${number}`),
    );
    for (const copy of copies)
      expect(await exec(copy['id']!, 'cat version; echo own >> version')).toBe('v2\n');
    expect(await exec(source['id']!, 'cat version')).toBe('v2\n');
  });
});
