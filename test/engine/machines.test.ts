/** Computers of two machines on one database: each serves its own, and says so of the other's; nothing is lost to a wrong door. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createComputers } from '../../src/engine/computers/computers.ts';
import { makeComputer } from '../../src/engine/computers/make.ts';
import { testGround } from '../helpers/grounds.ts';
import { reply, text } from '../helpers/model/messages-api.ts';
import type { TestNode } from '../helpers/node.ts';
import { testRuntime } from '../helpers/runtime.ts';
import { eventually, makeWorld, type World } from '../helpers/world.ts';

let world: World;
let here: TestNode;
let there: TestNode;
beforeAll(async () => {
  world = await makeWorld(() => reply(text('.')), {}, 'postgres');
  // Each has a disk of its own.
  here = await world.start({ OVERWINTER_COMPUTERS_DIR: `${world.directory}/here` });
  there = await world.start({ OVERWINTER_COMPUTERS_DIR: `${world.directory}/there` });
});
afterAll(() => world.end());

type Answer = { status: number; json: { id: string; status: string; stdout: string; detail: string } };

async function ask(node: TestNode, what: string, body?: object): Promise<Answer> {
  const [method = '', route = ''] = what.split(' ');
  const response = await fetch(node.url + route, {
    method,
    headers: { authorization: `Bearer ${node.api_key}`, 'content-type': 'application/json' },
    ...(body && { body: JSON.stringify(body) }),
  });
  return { status: response.status, json: (await response.json()) as Answer['json'] };
}

describe('a computer of another machine', () => {
  it('is seen, and neither started empty nor stopped by the wrong server', async () => {
    const { id } = (await ask(here, 'POST /v1/computers', {})).json;
    await ask(here, `POST /v1/computers/${id}/exec`, { command: 'echo mine > file' });
    expect((await ask(there, `GET /v1/computers/${id}`)).json.status).toBe('running');
    for (const [what, body] of [
      [`POST /v1/computers/${id}/exec`, { command: 'true' }],
      [`POST /v1/computers/${id}/stop`, undefined],
      [`POST /v1/computers/${id}/snapshots`, {}],
    ] as const) {
      const { status, json } = await ask(there, what, body);
      expect([status, json.detail]).toEqual([
        what.includes('snap') ? 409 : 503,
        expect.stringContaining('machine'),
      ]);
    }
    await ask(here, `POST /v1/computers/${id}/stop`);
    expect((await ask(there, `POST /v1/computers/${id}/start`)).status).toBe(503);
    await ask(here, `POST /v1/computers/${id}/start`);
    const { json } = await ask(here, `POST /v1/computers/${id}/exec`, { command: 'cat file' });
    expect(json.stdout).toBe('mine\n');
  });

  it('is deleted at any door', { timeout: 40_000 }, async () => {
    const { id } = (await ask(here, 'POST /v1/computers', {})).json;
    expect((await ask(there, `DELETE /v1/computers/${id}`)).json.status).toBe('deleting');
    const gone = async (): Promise<boolean> =>
      (await ask(there, `GET /v1/computers/${id}`)).json.status === 'deleted';
    await eventually(gone, 30_000);
  });
});

describe('a computer that was just made', () => {
  it('is not started from what its maker remembers, when another node deletes it meanwhile', async () => {
    const ground = await testGround('postgres');
    const [maker, other] = [await testRuntime({}, ground), await testRuntime({}, ground)];
    const { database, settings, computer_log } = maker.runtime;
    await database.db.insertInto('org').values({ id: 'org_1', name: 'test' }).execute();
    const { id } = (await makeComputer(maker.runtime, 'org_1', {
      ...{ spec: settings.session_computer, driver: 'process' },
    }))!;
    await createComputers(other.runtime).append(id, { type: 'begin_delete' });
    expect((await computer_log.state(id, 'held')).status).toBe('creating');
    const start = createComputers(maker.runtime).start(id, { made: true });
    await expect(start).rejects.toThrow('the computer is deleting');
    expect(await computer_log.state(id)).toMatchObject({ status: 'deleting', head: 2, generation: 0 });
    for (const { close } of [maker, other]) await close();
    await ground.drop();
  });
});
