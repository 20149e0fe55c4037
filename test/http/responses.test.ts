/** Answers that no other test asks for, and how a change of the master key waits for requests that are under way. */
import { once } from 'node:events';
import http from 'node:http';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Poster } from '../../src/net/post.ts';
import { makeOperator, makeSession, startServer, type TestServer } from '../helpers/http.ts';
import { startReceiver, type Receiver } from '../helpers/receiver.ts';

let server: TestServer;
let receiver: Receiver;
let operator: string;
let session: { id: string; agent: string };

beforeAll(async () => {
  [server, receiver] = await Promise.all([startServer(), startReceiver()]);
  operator = (await makeOperator(server.runtime)).key;
  session = await makeSession(server);
});
afterAll(async () => {
  await server.close();
  await receiver.close();
});

describe('a destination', () => {
  it.each([
    ['the org', (): string => '/v3/destinations'],
    ['an agent', (): string => `/v3/agents/${session.agent}/destinations`],
    ['a session', (): string => `/v3/sessions/${session.id}/destinations`],
  ] as const)('of %s is tried, and is gone once it is deleted', async (_, at) => {
    const { id } = (await server.ask(`POST ${at()}`, { body: { url: `${receiver.url}/` } })).json;
    const tried = await server.ask(`POST ${at()}/${id}/test`);
    expect([tried.status, tried.json['ok']]).toEqual([200, true]);
    expect((await server.ask(`DELETE ${at()}/${id}`)).status).toBe(204);
    expect((await server.ask(`GET ${at()}/${id}`)).status).toBe(404);
  });
});

describe('a URL that is written', () => {
  const write = (on: TestServer, url: string) => on.ask('POST /v3/destinations', { body: { url } });

  it('to an address that may not be sent to is 400', async () => {
    const { status, json } = await write(server, 'https://10.0.0.1/');
    expect([status, json['error']!['type'], json['error']!['param']]).toEqual([400, 'invalid', 'url']);
  });

  it('is 503 with Retry-After while its name cannot be resolved', async () => {
    // No nameserver of this machine is asked by a test, so the resolver's answer is given.
    const refusal: Poster['refusal'] = () =>
      Promise.resolve({ kind: 'failed', reason: 'The name could not be resolved (ETIMEOUT).' });
    const own = await startServer({ poster: { ...server.runtime.poster, refusal } });
    const { status, json, headers } = await write(own, 'https://example.com/');
    expect([status, headers.get('retry-after')]).toEqual([503, '1']);
    expect(json['error']).toMatchObject({
      ...{ type: 'unavailable', param: 'url' },
      message: 'the name of the URL cannot be resolved now: The name could not be resolved (ETIMEOUT).',
    });
    await own.close();
  });
});

describe('a change of the master key', () => {
  const rotate = (key = operator) => server.ask('POST /v3/master-key/rotation', { key });

  it('says what was done and what is left to do', async () => {
    await server.ask('POST /v3/credentials', { body: { key: 'sk-some-key' } });
    const [key_id] = server.runtime.master_keys.ids();
    const { status, json } = await rotate();
    expect([status, json]).toEqual([200, { key_id, rewrapped: 0, remaining: 0, other_key_ids: [] }]);
  });

  it('is for the operator alone', async () => {
    expect((await rotate(server.org.key)).status).toBe(403);
  });

  it('waits for requests that may have sealed with the old key and have not stored yet', async () => {
    const order: string[] = [];
    const slow = http.request(`${server.url}/v3/credentials`, {
      method: 'POST',
      headers: {
        authorization: `Bearer ${server.org.key}`,
        'content-type': 'application/json',
        // The server says when it has the request.
        expect: '100-continue',
      },
    });
    const answered = once(slow, 'response').then(([response]) => {
      (response as http.IncomingMessage).resume();
      order.push(`${(response as http.IncomingMessage).statusCode}`);
    });
    slow.flushHeaders();
    await once(slow, 'continue');
    const rotated = rotate().then(() => order.push('rotated'));
    // Who only reads is served meanwhile.
    expect((await server.ask('GET /v3/credentials')).status).toBe(200);
    expect(order).toEqual([]);
    slow.end('{"key":"sk-slow-key"}');
    await Promise.all([answered, rotated]);
    expect(order).toEqual(['201', 'rotated']);
  });
});
