/** Orgs over HTTP: made by the operator with a key of their own, and apart from then on. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { dataOf, fieldOf, makeOperator, startServer, type Json, type TestServer } from '../helpers/http.ts';

let server: TestServer;
let key: string;

beforeAll(async () => {
  server = await startServer();
  ({ key } = await makeOperator(server.runtime));
});
afterAll(() => server.close());

describe('an org', () => {
  it('is made with its first admin key, which works at once and is shown once', async () => {
    const made = await server.ask('POST /v3/orgs', { key, body: { name: 'Acme' } });
    expect(made.status).toBe(201);
    const { api_key, ...org } = made.json as Record<string, Json>;
    expect(org).toEqual({
      id: expect.any(String) as string,
      name: 'Acme',
      created_at: expect.any(String) as string,
    });
    expect(org['id']).toMatch(/^org_[0-9a-f]{24}$/);
    expect(api_key).toMatchObject({ name: 'first', scopes: ['admin'], expires_at: null, revoked_at: null });
    const first = api_key!['key']!;
    expect(first.startsWith(`${api_key!['prefix']}_`)).toBe(true);
    const listed = await server.ask('GET /v3/api-keys', { key: first });
    expect(fieldOf(dataOf(listed.json), 'id')).toEqual([api_key!['id']]);
    expect(listed.text).not.toContain(first.slice(12));
    expect((await server.ask('GET /v3/orgs', { key })).text).not.toContain(first.slice(12));
  });

  it('may have the name of another', async () => {
    const make = () => server.ask('POST /v3/orgs', { key, body: { name: 'Twin' } });
    const [one, two] = [await make(), await make()];
    expect([one.status, two.status]).toEqual([201, 201]);
    expect(one.json['id']).not.toBe(two.json['id']);
  });

  it.each([[{}], [{ name: '' }], [{ name: 'x'.repeat(257) }], [{ name: 7 }]])(
    'has a name of 1 to 256 characters: %j is 400',
    async (body) => {
      expect((await server.ask('POST /v3/orgs', { key, body })).status).toBe(400);
    },
  );

  it('holds nothing of another and sees nothing of it', async () => {
    const made = (await server.ask('POST /v3/orgs', { key, body: { name: 'Apart' } })).json;
    const own = made['api_key']!['key']!;
    const body = { name: 'mine', prompt: 'p', model: 'anthropic/m' };
    const agent = (await server.ask('POST /v3/agents', { key: own, body })).json['id']!;
    expect((await server.ask(`GET /v3/agents/${agent}`, { key: own })).status).toBe(200);
    expect((await server.ask(`GET /v3/agents/${agent}`, { key })).status).toBe(404);
    expect((await server.ask(`GET /v3/agents/${agent}`)).status).toBe(404);
  });
});

describe('the list of orgs', () => {
  it('has pages, newest first', async () => {
    for (const name of ['a', 'b', 'c']) await server.ask('POST /v3/orgs', { key, body: { name } });
    const first = (await server.ask('GET /v3/orgs?limit=2', { key })).json;
    const second = (await server.ask(`GET /v3/orgs?limit=1&cursor=${first['next_cursor']}`, { key })).json;
    const names = [...fieldOf(dataOf(first), 'name'), ...fieldOf(dataOf(second), 'name')];
    expect(names).toEqual(['c', 'b', 'a']);
  });

  it('is for admin keys of the default org only: others are 403', async () => {
    for (const what of ['GET /v3/orgs', 'POST /v3/orgs']) {
      const answer = await server.ask(what, what.startsWith('POST') ? { body: { name: 'x' } } : {});
      expect([answer.status, answer.json['error']!['type']]).toEqual([403, 'forbidden']);
    }
  });
});
