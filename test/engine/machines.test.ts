/** Computers of two machines on one database: each serves its own, and says so of the other's; nothing is lost to a wrong door. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { reply, text } from '../helpers/model/messages-api.ts';
import type { TestNode } from '../helpers/node.ts';
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
