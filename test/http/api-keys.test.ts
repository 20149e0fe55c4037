/** API keys over HTTP: made with scopes and an end, listed without their secret, revoked for good; and how one is looked up. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { KyselyPlugin } from 'kysely';
import pg from 'pg';
import { revokeApiKey } from '../../src/store/api-keys.ts';
import { testGround } from '../helpers/grounds.ts';
import { AGENT, dataOf, fieldOf, makeKey, startServer, type Json, type TestServer } from '../helpers/http.ts';
import { testRuntime } from '../helpers/runtime.ts';
import { eventually } from '../helpers/world.ts';

let server: TestServer;
beforeAll(async () => {
  server = await startServer();
});
afterAll(() => server.close());

const make = (body: object) => server.ask('POST /v3/api-keys', { body });
const listed = async (id: string): Promise<Json | undefined> =>
  dataOf((await server.ask('GET /v3/api-keys?limit=100')).json).find((key) => key['id'] === id);
const makeOrg = async ({ runtime } = server): Promise<{ id: string }> =>
  await runtime.database.db
    .insertInto('org')
    .values({ id: runtime.newId('org'), name: 'race' })
    .returning('id')
    .executeTakeFirstOrThrow();
const inMs = (ms: number) => new Date(Date.now() + ms).toISOString();

describe('a new key', () => {
  it('is shown once; the list has all but the secret', async () => {
    const { status, json } = await make({ name: 'ci', scopes: ['write', 'read', 'write'] });
    expect(status).toBe(201);
    const { key, ...rest } = json as Record<string, Json>;
    expect(json['id']).toMatch(/^key_[0-9a-f]{24}$/);
    expect(rest).toMatchObject({
      name: 'ci',
      scopes: ['read', 'write'],
      expires_at: null,
      last_used_at: null,
    });
    expect(rest['prefix']).toBe(String(key).slice(0, 11));
    expect(await listed(json['id']!)).toEqual(rest);
    const text = (await server.ask('GET /v3/api-keys?limit=100')).text;
    expect(text).not.toContain(String(key).slice(12));
    expect(text).not.toContain('digest');
  });

  it('may do what its scopes say, and an inline model key of an agent counts as a credential', async () => {
    const { json } = await make({ name: 'writer', scopes: ['write'] });
    const as = (body: object) => server.ask('POST /v3/agents', { key: json['key']!, body });
    expect((await as({ ...AGENT, name: 'w' })).status).toBe(201);
    const refused = await as({ ...AGENT, name: 'v', key: 'sk-inline-key' });
    expect([refused.status, refused.json['error']!['type']]).toEqual([403, 'forbidden']);
    const agent = dataOf((await server.ask('GET /v3/agents')).json)[0]!['id']!;
    const patch = { key: json['key']!, body: { key: 'sk-inline-key' } };
    expect((await server.ask(`PATCH /v3/agents/${agent}`, patch)).status).toBe(403);
  });

  it.each([
    [{ scopes: ['read'] }, 'name'],
    [{ name: '', scopes: ['read'] }, 'name'],
    [{ name: 'x' }, 'scopes'],
    [{ name: 'x', scopes: [] }, 'scopes'],
    [{ name: 'x', scopes: ['steer'] }, 'scopes.0'],
    [{ name: 'x', scopes: ['operator'] }, 'scopes.0'],
    [{ name: 'x', scopes: ['read'], expires_at: 'soon' }, 'expires_at'],
    [{ name: 'x', scopes: ['read'], expires_at: '2001-01-01T00:00:00Z' }, 'expires_at'],
    [{ name: 'x', scopes: ['read'], expires_at: '9999-12-31T23:59:59-14:00' }, 'expires_at'],
  ])('%j is 400 about %s', async (body, param) => {
    const { status, json } = await make(body);
    expect([status, json['error']!['param']]).toEqual([400, param]);
  });

  it('works until it expires, and not after', async () => {
    const { json } = await make({ name: 'brief', scopes: ['read'], expires_at: inMs(600) });
    const status = async () => (await server.ask('GET /v3/agents', { key: json['key']! })).status;
    expect(await status()).toBe(200);
    await eventually(async () => (await status()) === 401, 5000);
  });

  it('may last until the end of the year 9999', async () => {
    const expires_at = '9999-12-31T23:59:59.000Z';
    const { json } = await make({ name: 'long', scopes: ['read'], expires_at });
    expect([json['expires_at'], (await listed(json['id']!))!['expires_at']]).toEqual([
      expires_at,
      expires_at,
    ]);
  });
});

describe('the list of keys', () => {
  it('has pages, newest first, and shows when a key was used', async () => {
    const ids: string[] = [];
    for (const name of ['a', 'b', 'c']) ids.push((await make({ name, scopes: ['read'] })).json['id']!);
    const first = (await server.ask('GET /v3/api-keys?limit=2')).json;
    const next = (await server.ask(`GET /v3/api-keys?limit=1&cursor=${first['next_cursor']}`)).json;
    expect([...fieldOf(dataOf(first), 'id'), ...fieldOf(dataOf(next), 'id')]).toEqual(ids.toReversed());
    await eventually(async () => (await listed(server.org.key_id))!['last_used_at']);
  });

  it('notes a use at most once a minute', async () => {
    const { json } = await make({ name: 'used', scopes: ['read'] });
    const use = () => server.ask('GET /v3/agents', { key: json['key']! });
    await use();
    const first = await eventually(async () => (await listed(json['id']!))!['last_used_at']);
    await Promise.all(Array.from({ length: 20 }, use));
    expect((await listed(json['id']!))!['last_used_at']).toBe(first);
  });
});

describe('a revoked key', () => {
  it('opens nothing from then on; again is 204, and the row stays', async () => {
    const { json } = await make({ name: 'gone', scopes: ['read'] });
    const revoke = () => server.ask(`DELETE /v3/api-keys/${json['id']}`);
    expect((await revoke()).status).toBe(204);
    const revoked_at = (await listed(json['id']!))!['revoked_at'];
    expect(revoked_at).toMatch(/^\d{4}-/);
    expect((await revoke()).status).toBe(204);
    expect((await listed(json['id']!))!['revoked_at']).toBe(revoked_at);
    expect((await server.ask('GET /v3/agents', { key: json['key']! })).status).toBe(401);
  });

  it.each(['key_000000000000000000000000', 'nonsense', '%00'])('is not %s: 404', async (id) => {
    expect((await server.ask(`DELETE /v3/api-keys/${id}`)).status).toBe(404);
  });

  it('is never the last usable admin key of its org', async () => {
    const { key, key_id } = server.stranger;
    const as = { key };
    await makeKey(server.runtime, server.stranger.id, { scopes: ['read', 'write'] });
    await makeKey(server.runtime, server.stranger.id, { expires_at: new Date(Date.now() - 1) });
    const refused = await server.ask(`DELETE /v3/api-keys/${key_id}`, as);
    expect([refused.status, refused.json['error']!['type']]).toEqual([409, 'conflict']);
    const other = await makeKey(server.runtime, server.stranger.id);
    expect((await server.ask(`DELETE /v3/api-keys/${key_id}`, as)).status).toBe(204);
    expect((await server.ask(`DELETE /v3/api-keys/${other.key_id}`, { key: other.key })).status).toBe(409);
  });

  it('is never the last admin key that does not expire, whatever keys with an end there are', async () => {
    const { id } = await makeOrg();
    const revoke = async ({ key_id }: { key_id: string }) =>
      await revokeApiKey(server.runtime.database.db, id, key_id).then(
        () => 'revoked',
        (error: { code: string }) => error.code,
      );
    const soon = { expires_at: new Date(Date.now() + 60_000) };
    const [lasting, first, second] = [
      await makeKey(server.runtime, id),
      await makeKey(server.runtime, id, soon),
      await makeKey(server.runtime, id, soon),
    ];
    expect(await revoke(lasting)).toBe('conflict');
    expect([await revoke(first), await revoke(second)]).toEqual(['revoked', 'revoked']);
    const another = await makeKey(server.runtime, id);
    expect([await revoke(lasting), await revoke(another)]).toEqual(['revoked', 'conflict']);
  });

  it('leaves one admin key when two nodes revoke the last two at once', async () => {
    const ground = await testGround('postgres');
    const nodes = [await testRuntime({}, ground), await testRuntime({}, ground)];
    const own = await startServer({}, {}, ground);
    for (let round = 0; round < 20; round += 1) {
      const { id } = await makeOrg(own);
      const keys = [await makeKey(own.runtime, id), await makeKey(own.runtime, id)];
      const ends = await Promise.allSettled(
        nodes.map(({ runtime }, at) => revokeApiKey(runtime.database.db, id, keys[at]!.key_id)),
      );
      expect(ends.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected']);
      expect(ends.find(({ status }) => status === 'rejected')).toMatchObject({
        reason: { code: 'conflict' },
      });
    }
    await own.close();
    for (const node of nodes) await node.close();
    await ground.drop();
  });
});

describe('the lookup of a key', () => {
  it('takes the same steps for an unknown id, a wrong secret and a revoked key, and says the same', async () => {
    const statements: string[] = [];
    const counting: KyselyPlugin = {
      transformQuery: ({ node }) => {
        statements.push(node.kind);
        return node;
      },
      transformResult: ({ result }) => Promise.resolve(result),
    };
    const { runtime, close } = await testRuntime();
    const db = runtime.database.db.withPlugin(counting);
    const own = await startServer({ database: { ...runtime.database, db } });
    const revoked = await makeKey(runtime, own.org.id);
    await revokeApiKey(runtime.database.db, own.org.id, revoked.key_id);
    const secret = 'A'.repeat(43);
    const seen: unknown[] = [];
    for (const key of [`ow_00000000_${secret}`, own.org.key.slice(0, 12) + secret, revoked.key]) {
      statements.length = 0;
      const { status, json } = await own.ask('GET /v3/agents', { key });
      const { request_id: _, ...error } = json['error']! as unknown as Record<string, string>;
      seen.push({ status, error, statements: [...statements] });
    }
    expect(seen[0]).toMatchObject({ status: 401, statements: ['SelectQueryNode'] });
    expect([seen[1], seen[2]]).toEqual([seen[0], seen[0]]);
    await own.close();
    await close();
  });

  it('does not wait for the note of its use, nor fail with it', async () => {
    const ground = await testGround('postgres');
    const own = await startServer({}, {}, ground);
    const owner = new pg.Client({ connectionString: ground.url });
    await owner.connect();
    const usedAt = async () =>
      (await owner.query('select last_used_at from api_key where id = $1', [own.org.key_id])).rows[0];
    await owner.query('begin; select 1 from api_key for update');
    expect((await own.ask('GET /v3/agents')).status).toBe(200);
    expect(await usedAt()).toEqual({ last_used_at: null });
    await owner.query('rollback');
    await eventually(async () => (await usedAt()).last_used_at);
    await owner.query('revoke update on api_key from overwinter_runtime');
    await owner.query('update api_key set last_used_at = null');
    expect((await own.ask('GET /v3/agents')).status).toBe(200);
    expect(await usedAt()).toEqual({ last_used_at: null });
    await owner.end();
    await own.close();
    await ground.drop();
  });
});
