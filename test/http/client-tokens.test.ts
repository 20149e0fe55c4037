/** Client tokens: minted, listed and revoked by the org, and what they open. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { dataOf, fieldOf, makeSession, makeToken, startServer, type TestServer } from '../helpers/http.ts';

let server: TestServer;
let session: { id: string; token: string };

beforeAll(async () => {
  server = await startServer();
  session = await makeSession(server);
});
afterAll(() => server.close());

describe('client tokens', () => {
  const mint = (body?: object) =>
    server.ask(`POST /v3/sessions/${session.id}/client-tokens`, body === undefined ? {} : { body });

  it('are minted under both names, with both scopes for an hour unless told otherwise', async () => {
    const { status, json } = await mint();
    expect([status, json['scopes'], json['client_token']]).toEqual([201, ['read', 'steer'], json['token']]);
    const ttl_s = (Date.parse(json['expires_at']!) - Date.now()) / 1000;
    expect(Math.abs(ttl_s - 3600)).toBeLessThan(60);
  });

  it.each([
    [1, 60],
    [0, 60],
    [120, 120],
    [1e9, 86_400],
  ])('bring a lifetime of %d s to %d s', async (ttl, expected) => {
    const ttl_s = (Date.parse((await mint({ ttl })).json['expires_at']!) - Date.now()) / 1000;
    expect(Math.abs(ttl_s - expected)).toBeLessThan(30);
  });

  it('have the scopes that were asked for', async () => {
    const { json } = await mint({ scopes: ['read'] });
    expect(json['scopes']).toEqual(['read']);
    expect((await mint({ scopes: ['admin'] })).status).toBe(400);
    const body = { text: 'x' };
    const sent = await server.ask(`POST /v3/sessions/${session.id}/messages`, { body, key: json['token']! });
    expect(sent.status).toBe(403);
  });
});

describe('the list of client tokens', () => {
  it('shows when each was made, expires and was revoked, and never the token', async () => {
    const { id } = await makeSession(server, { key: 'listed' });
    const path = `/v3/sessions/${id}/client-tokens`;
    const minted = (await server.ask(`POST ${path}`, { body: { scopes: ['steer'] } })).json;
    const listed = (await server.ask(`GET ${path}`)).json;
    expect(dataOf(listed)[0]).toEqual({
      ...{ id: minted['id'], scopes: ['steer'], expires_at: minted['expires_at'], revoked_at: null },
      created_at: expect.any(String) as string,
    });
    // The one that came with the session stands last.
    expect(dataOf(listed)).toHaveLength(2);
    expect(JSON.stringify(listed)).not.toContain(minted['token']);
  });

  it('has pages', async () => {
    const { id } = await makeSession(server, { key: 'paged' });
    await Promise.all([1, 2, 3].map(() => makeToken(server.runtime, server.org.id, id)));
    const path = `GET /v3/sessions/${id}/client-tokens?limit=3`;
    const first = (await server.ask(path)).json;
    const second = (await server.ask(`${path}&cursor=${first['next_cursor']}`)).json;
    const ids = [...fieldOf(dataOf(first), 'id'), ...fieldOf(dataOf(second), 'id')];
    expect([new Set(ids).size, second['next_cursor']]).toEqual([4, null]);
  });
});

describe('a revoked client token', () => {
  const statusOf = async (id: string, token: string) =>
    (await server.ask(`GET /v3/sessions/${id}/events`, { key: token })).status;

  it('opens nothing any more; the others still do', async () => {
    const { id, token } = await makeSession(server, { key: 'one' });
    const other = await makeToken(server.runtime, server.org.id, id);
    const revoke = () => server.ask(`DELETE /v3/sessions/${id}/client-tokens/${other.id}`);
    expect([(await revoke()).status, (await revoke()).status]).toEqual([204, 204]);
    expect([await statusOf(id, other.token), await statusOf(id, token)]).toEqual([401, 200]);
  });

  it('keeps the time of its first revocation', async () => {
    const { id } = await makeSession(server, { key: 'first' });
    const path = `/v3/sessions/${id}/client-tokens`;
    const revokedAt = async () => dataOf((await server.ask(`GET ${path}`)).json)[0]!['revoked_at'];
    const token_id = dataOf((await server.ask(`GET ${path}`)).json)[0]!['id'];
    await server.ask(`DELETE ${path}/${token_id}`);
    const first = await revokedAt();
    await server.ask(`DELETE ${path}/${token_id}`);
    await server.ask(`DELETE ${path}`);
    expect([typeof first, await revokedAt()]).toEqual(['string', first]);
  });

  it('may be all of a session, and of no other', async () => {
    const { id, token } = await makeSession(server, { key: 'all' });
    const other = await makeToken(server.runtime, server.org.id, id);
    expect((await server.ask(`DELETE /v3/sessions/${id}/client-tokens`)).status).toBe(204);
    expect([await statusOf(id, token), await statusOf(id, other.token)]).toEqual([401, 401]);
    expect(await statusOf(session.id, session.token)).toBe(200);
    const fresh = (await server.ask(`POST /v3/sessions/${id}/client-tokens`)).json['token']!;
    expect(await statusOf(id, fresh)).toBe(200);
  });

  it('is none of another session: 404', async () => {
    const { id } = await makeSession(server, { key: 'mine' });
    const other = await makeToken(server.runtime, server.org.id, session.id);
    for (const token_id of [other.id, 'nonsense', '%00']) {
      expect((await server.ask(`DELETE /v3/sessions/${id}/client-tokens/${token_id}`)).status).toBe(404);
    }
    expect(await statusOf(session.id, other.token)).toBe(200);
  });

  it('is every one of a deleted session, and none of an archived one', async () => {
    const { id, token } = await makeSession(server, { key: 'ends' });
    await server.ask(`POST /v3/sessions/${id}/cancel`);
    await server.ask(`POST /v3/sessions/${id}/archive`);
    expect(await statusOf(id, token)).toBe(200);
    const streams = server.runtime.database.db.updateTable('stream').where('id', '=', id);
    await streams.set({ deleted_at: new Date() }).execute();
    expect(await statusOf(id, token)).toBe(401);
  });
});
