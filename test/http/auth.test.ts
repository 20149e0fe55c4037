/** Who may do what: every route against every kind of credential, other tenants, and what surrounds a request (contract §2, §4). */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { digest } from '../../src/secret/key.ts';
import { insertClientToken } from '../../src/store/client-tokens.ts';
import { makeSession, startServer, type Answer, type TestServer } from '../helpers/http.ts';
import { playTurn } from '../helpers/runtime.ts';

type Route = { name: string; path: string; method: string; client: boolean };

const problems: unknown[] = [];
let server: TestServer;
let session: { id: string; token: string };
let names: Record<string, string>;
let routes: Route[];

beforeAll(async () => {
  const logger = {
    debug: () => undefined,
    warn: () => undefined,
    error: (fields: object) => void problems.push(fields),
  };
  server = await startServer({ logger });
  session = await makeSession(server);
  await playTurn(server.runtime, session.id, 'done');
  const { ask } = server;
  names = {
    session_id: session.id,
    agent_id: (await ask('GET /v3/agents')).json['data']![0]!['id']!,
    credential_id: (await ask('POST /v3/credentials', { body: { key: 'sk-some-key' } })).json['id']!,
    event_id: (await ask(`GET /v3/sessions/${session.id}/messages`)).json['data']![0]!['id']!,
    turn_id: (await ask(`GET /v3/sessions/${session.id}/turns`)).json['data']![0]!['id']!,
  };
  routes = await documentedRoutes();
});
afterAll(() => server.close());

async function documentedRoutes(): Promise<Route[]> {
  const { paths } = (await server.ask('GET /openapi.json', { key: null })).json;
  return Object.entries(paths!).flatMap(([name, methods]) =>
    Object.entries(methods as Record<string, { security?: object[] }>)
      .filter(() => name.startsWith('/v3/'))
      .map(([method, { security = [] }]) => ({
        ...{ name: `${method} ${name}`, method: method.toUpperCase() },
        path: name.replaceAll(/\{(\w+)\}/g, (_, param: string) => names[param]!),
        client: security.some((scheme) => 'client_token' in scheme),
      })),
  );
}

const ask = (route: Route, key: string | null, headers: Record<string, string> = {}): Promise<Answer> =>
  server.ask(`${route.method} ${route.path}`, {
    key,
    headers,
    ...(route.method === 'GET' ? {} : { body: {} }),
  });

describe('every route', () => {
  it('is in the document, which has them all', () => {
    expect(routes.map(({ name }) => name).sort()).toMatchInlineSnapshot(`
      [
        "delete /v3/credentials/{credential_id}",
        "get /v3/agents",
        "get /v3/agents/{agent_id}",
        "get /v3/credentials",
        "get /v3/sessions",
        "get /v3/sessions/{session_id}",
        "get /v3/sessions/{session_id}/events",
        "get /v3/sessions/{session_id}/events/{event_id}",
        "get /v3/sessions/{session_id}/events/{event_id}/content",
        "get /v3/sessions/{session_id}/messages",
        "get /v3/sessions/{session_id}/result",
        "get /v3/sessions/{session_id}/sources",
        "get /v3/sessions/{session_id}/turns",
        "get /v3/sessions/{session_id}/turns/{turn_id}",
        "patch /v3/agents/{agent_id}",
        "patch /v3/credentials/{credential_id}",
        "post /v3/agents",
        "post /v3/credentials",
        "post /v3/sessions",
        "post /v3/sessions/{session_id}/archive",
        "post /v3/sessions/{session_id}/cancel",
        "post /v3/sessions/{session_id}/client-tokens",
        "post /v3/sessions/{session_id}/messages",
        "put /v3/credentials/default",
      ]
    `);
  });

  it('is closed without a credential, and to a wrong one', async () => {
    const wrong = [
      null,
      'ow_00000000_' + 'a'.repeat(43),
      server.org.key.slice(0, -4) + 'AAAA',
      `owct_${'b'.repeat(43)}`,
      'x',
    ];
    for (const route of routes) {
      for (const key of wrong) {
        const answer = await ask(route, key);
        expect([route.name, answer.status, answer.json['error']!['type']]).toEqual([
          route.name,
          401,
          'unauthorized',
        ]);
      }
    }
  });

  it('opens to a client token only where the document says so', async () => {
    for (const route of routes) {
      const { status } = await ask(route, session.token);
      if (route.client) expect([route.name, status]).not.toEqual([route.name, 403]);
      else expect([route.name, status]).toEqual([route.name, 403]);
    }
  });

  it('is 404 about what belongs to another org, and lists show none of it', async () => {
    for (const route of routes.filter(({ name }) => name.includes('{'))) {
      const answer = await ask(route, server.stranger.key);
      // A body that is refused first tells nothing of the resource.
      if (answer.status === 400) continue;
      expect([route.name, answer.status, answer.json['error']!['type']]).toEqual([
        route.name,
        404,
        'not_found',
      ]);
    }
    for (const list of ['sessions', 'agents', 'credentials']) {
      expect((await server.ask(`GET /v3/${list}`, { key: server.stranger.key })).json['data']).toEqual([]);
    }
    const body = { agent: names['agent_id'], input: 'x' };
    expect((await server.ask('POST /v3/sessions', { body, key: server.stranger.key })).status).toBe(404);
    const patch = { body: { key: 'sk-stolen-key' }, key: server.stranger.key };
    expect((await server.ask(`PATCH /v3/credentials/${names['credential_id']}`, patch)).status).toBe(404);
    expect(
      (await server.ask(`PATCH /v3/agents/${names['agent_id']}`, { body: {}, key: server.stranger.key }))
        .status,
    ).toBe(404);
    const put = { body: { credential: names['credential_id'] }, key: server.stranger.key };
    expect((await server.ask('PUT /v3/credentials/default', put)).status).toBe(404);
  });
});

describe('credentials of a request', () => {
  it('may come as X-API-Key; a bearer counts first', async () => {
    const header = { 'x-api-key': server.org.key };
    expect((await server.ask('GET /v3/agents', { key: null, headers: header })).status).toBe(200);
    expect((await server.ask('GET /v3/agents', { key: 'bad', headers: header })).status).toBe(401);
  });

  it('open one session to a client token, and no other', async () => {
    const other = await makeSession(server, { key: 'another' });
    const answer = await server.ask(`GET /v3/sessions/${other.id}/events`, { key: session.token });
    expect([answer.status, answer.json['error']!['type']]).toEqual([404, 'not_found']);
  });

  it('may not come in the query, except a client token on a stream', async () => {
    const path = `GET /v3/sessions/${session.id}`;
    const status = async (rest: string) => (await server.ask(path + rest, { key: null })).status;
    expect(await status(`/events?token=${session.token}`)).toBe(401);
    expect(await status(`/messages?stream=sse&token=${session.token}`)).toBe(401);
    expect(await status(`/events?stream=sse&token=${server.org.key}`)).toBe(401);
    expect(await status(`/events?stream=sse&token=${session.token}&after=x`)).toBe(400);
  });

  it('end with the lifetime of a client token', async () => {
    const token = `owct_${'c'.repeat(43)}`;
    const row = { id: server.runtime.newId('client_token'), session_id: session.id, digest: digest(token) };
    await insertClientToken(server.runtime.database.db, server.org.id, {
      ...row,
      scopes: ['read'],
      ttl_s: -1,
    });
    expect((await server.ask(`GET /v3/sessions/${session.id}/events`, { key: token })).status).toBe(401);
  });
});

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
      'Authorization,Content-Type,Idempotency-Key,Last-Event-ID,X-API-Key',
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
