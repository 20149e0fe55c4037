/** How many computers one org may have. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import { startComputerServer } from '../../helpers/computers.ts';
import { makeSession, type TestServer } from '../../helpers/http.ts';

const MAX = 3;
let server: TestServer;
beforeAll(async () => {
  server = await startComputerServer();
  server.runtime.settings.computers.org_max = MAX;
});
afterAll(() => server.close());

it('has an end, which others, sessions and repetitions do not feel, and a deletion makes room', async () => {
  const { ask } = server;
  const key = { 'idempotency-key': 'the-same' };
  const first = (await ask('POST /v1/computers', { body: {}, headers: key })).json['id']!;
  const answers = await Promise.all(Array.from({ length: 6 }, () => ask('POST /v1/computers', { body: {} })));
  const made = answers.filter(({ status }) => status === 201).map(({ json }) => json['id']!);
  const refused = answers.filter(({ status }) => status === 409);
  expect([made.length, refused.length]).toEqual([MAX - 1, 6 - (MAX - 1)]);
  for (const { json } of refused)
    expect(json).toEqual({ detail: expect.stringContaining(`${MAX} computers`) as string });

  expect((await ask('POST /v1/computers', { body: {}, headers: key })).json['id']).toBe(first);
  const other = { 'idempotency-key': 'another' };
  expect((await ask('POST /v1/computers', { body: {}, headers: other })).status).toBe(409);
  expect((await ask(`POST /v1/computers/${first}/fork`, { body: { count: 1 } })).status).toBe(409);
  expect((await ask('POST /api/sandboxes', { body: {} })).status).toBe(409);
  expect((await ask('POST /v1/computers', { body: {}, key: server.stranger.key })).status).toBe(201);
  await makeSession(server);

  await ask(`POST /v1/computers/${made[0]!}/stop`);
  expect((await ask('POST /v1/computers', { body: {} })).status).toBe(409);
  await ask(`DELETE /v1/computers/${made[0]!}`);
  // The refusal has not used up its key.
  expect((await ask('POST /v1/computers', { body: {}, headers: other })).status).toBe(201);
  expect((await ask('POST /v1/computers', { body: {} })).status).toBe(409);
});
