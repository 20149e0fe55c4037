/** What surrounds a request, whatever it asks for: where its credential may stand, its envelope, and what every answer says. */
import { sql } from 'kysely';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openDatabase, type Ground } from '../../src/store/ground/database.ts';
import { startTcpProxy, testGround } from '../helpers/grounds.ts';
import { makeSession, startServer, type TestServer } from '../helpers/http.ts';
import { eventually } from '../helpers/world.ts';

const SLEEPING = `select from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database()`;

const problems: unknown[] = [];
let server: TestServer;
let session: { id: string; token: string };

beforeAll(async () => {
  const logger = {
    debug: () => undefined,
    warn: () => undefined,
    error: (fields: object) => void problems.push(fields),
  };
  server = await startServer({ logger });
  session = await makeSession(server);
});
afterAll(() => server.close());

describe('credentials of a request', () => {
  it('may come as X-API-Key; a bearer counts first', async () => {
    const header = { 'x-api-key': server.org.key };
    expect((await server.ask('GET /v3/agents', { key: null, headers: header })).status).toBe(200);
    expect((await server.ask('GET /v3/agents', { key: 'bad', headers: header })).status).toBe(401);
  });

  it('may not come in the query, except a client token on a stream', async () => {
    const path = `GET /v3/sessions/${session.id}`;
    const status = async (rest: string) => (await server.ask(path + rest, { key: null })).status;
    expect(await status(`/events?token=${session.token}`)).toBe(401);
    expect(await status(`/messages?stream=sse&token=${session.token}`)).toBe(401);
    expect(await status(`/events?stream=sse&token=${server.org.key}`)).toBe(401);
    expect(await status(`/events?stream=sse&token=${session.token}&after=x`)).toBe(400);
  });
});

describe('a request while the database cannot be reached', () => {
  it('is 503 with Retry-After, and served again once it can be', async () => {
    const ground = await testGround('postgres');
    const proxy = await startTcpProxy(Number(new URL(ground.url!).port));
    const url = new URL(ground.url!);
    url.port = String(proxy.port);
    const direct: Ground = { kind: 'postgres', url: url.href, migration_url: ground.url! };
    const own = await startServer({}, {}, { ...ground, open: () => openDatabase(direct) });
    const { id, token } = await makeSession(own);
    const owner = new pg.Client({ connectionString: ground.url });
    // Under a statement as well, and the node outlives it.
    const cut = expect(sql`select pg_sleep(60)`.execute(own.runtime.database.db)).rejects.toThrow(
      'terminated',
    );
    await owner.connect();
    await eventually(async () => (await owner.query(SLEEPING)).rowCount === 1);
    await owner.end();
    await proxy.close();
    await cut;
    for (const [what, key] of [
      ['GET /v3/agents', own.org.key],
      ['POST /v3/agents', own.org.key],
      [`GET /v3/sessions/${id}/events`, token],
    ] as const) {
      const answer = await own.ask(what, { key });
      expect([what, answer.status, answer.json['error']!['type']]).toEqual([what, 503, 'unavailable']);
      expect(answer.headers.get('retry-after')).toBe('1');
    }
    await proxy.open();
    expect((await own.ask('GET /v3/agents')).status).toBe(200);
    await own.close();
    await proxy.close();
    await ground.drop();
  });
});

describe('around a request', () => {
  it('errors have one envelope, also for what no route takes', async () => {
    for (const what of ['GET /nowhere', 'GET /v3/nowhere', 'DELETE /v3/agents', 'PUT /v3/sessions']) {
      const answer = await server.ask(what);
      expect([what, answer.status, answer.json['error']!['type']]).toEqual([what, 404, 'not_found']);
      expect(answer.json['error']!['request_id']).toBe(answer.headers.get('x-request-id'));
    }
  });

  it.each([
    ['malformed JSON', { raw: '{"agent":' }],
    ['an empty body', { raw: '' }],
    ['no body', {}],
    [
      'another content type',
      { raw: 'agent=1', headers: { 'content-type': 'application/x-www-form-urlencoded' } },
    ],
    ['a list', { raw: '[]' }],
    ['JSON that nests too deep', { raw: `{"metadata":${'['.repeat(5000)}${']'.repeat(5000)}}` }],
  ])('%s is 400', async (_, sent) => {
    const answer = await server.ask('POST /v3/sessions', sent);
    expect([answer.status, answer.json['error']!['type']]).toEqual([400, 'invalid']);
  });

  it('a bug is 500 and says nothing; the log has it under the request id', async () => {
    const broken = await startServer({
      logger: {
        debug: () => undefined,
        warn: () => undefined,
        error: (fields) => void problems.push(fields),
      },
      newId: (kind) => {
        if (kind === 'session') throw new Error('secret detail');
        return server.runtime.newId(kind);
      },
    });
    const agent = (
      await broken.ask('POST /v3/agents', { body: { name: 'a', prompt: 'p', model: 'anthropic/m' } })
    ).json['id'];
    const answer = await broken.ask('POST /v3/sessions', { body: { agent, input: 'x' } });
    expect([answer.status, answer.json['error']!['type']]).toEqual([500, 'internal']);
    expect(answer.text).not.toContain('secret');
    expect(problems).toContainEqual(
      expect.objectContaining({ request_id: answer.json['error']!['request_id'] }),
    );
    await broken.close();
  });

  it('pages of any origin may read, and preflights are 204', async () => {
    const headers = { origin: 'https://app.example', 'access-control-request-method': 'POST' };
    const preflight = await server.ask('OPTIONS /v3/sessions', { key: null, headers });
    expect(preflight.status).toBe(204);
    const header = (name: string) => preflight.headers.get(`access-control-${name}`);
    expect(header('allow-origin')).toBe('https://app.example');
    expect(header('allow-methods')).toBe('GET,POST,PATCH,PUT,DELETE,OPTIONS');
    expect(header('allow-headers')).toBe(
      'Authorization,Content-Type,Idempotency-Key,Last-Event-ID,X-API-Key,X-Current-Organization',
    );
    const refused = await server.ask('GET /v3/agents', { key: null, headers });
    expect(refused.headers.get('access-control-allow-origin')).toBe('https://app.example');
    expect(refused.headers.get('access-control-expose-headers')).toBe('X-Request-Id,X-Trace-Id,Retry-After');
    expect(refused.headers.get('vary')).toBe('Origin');
  });

  it("names the request, and keeps the caller's trace", async () => {
    const trace = 'a'.repeat(32);
    const answer = await server.ask('GET /healthz', {
      key: null,
      headers: { traceparent: `00-${trace}-${'b'.repeat(16)}-01` },
    });
    expect(answer.headers.get('x-trace-id')).toBe(trace);
    expect(answer.headers.get('x-request-id')).toMatch(/^req_[0-9a-f]{24}$/);
    expect((await server.ask('GET /healthz')).headers.get('x-trace-id')).toMatch(/^[0-9a-f]{32}$/);
  });

  it('a NUL anywhere is only a name that does not exist', async () => {
    const { id } = session;
    for (const what of [
      'GET /v3/agents/%00',
      'GET /v3/sessions/%00',
      `GET /v3/sessions/${id}/turns/%00`,
      'DELETE /v3/credentials/%00',
    ]) {
      expect([what, (await server.ask(what)).status]).toEqual([what, 404]);
    }
    expect((await server.ask('GET /v3/sessions?agent=%00&key=%00')).json['data']).toEqual([]);
    expect((await server.ask(`GET /v3/sessions/${id}/events?turn_id=%00`)).json['data']).toEqual([]);
    expect((await server.ask('POST /v3/sessions', { body: { agent: '\u0000', input: 'x' } })).status).toBe(
      404,
    );
  });

  it('says that it is healthy, to all', async () => {
    const { status, json } = await server.ask('GET /healthz', { key: null });
    const { node } = server.runtime;
    expect(status).toBe(200);
    expect(json).toEqual({ status: 'ok', version: '0.0.0', node, sandbox: {}, database: 'embedded' });
  });

  it('has logged no bug of its own', () => {
    expect(
      problems.filter((problem) => !String((problem as { err: Error }).err).includes('secret detail')),
    ).toEqual([]);
  });
});
