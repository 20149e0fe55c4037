/** Sessions over HTTP: create, replay, list, read, cancel, archive (contract §5, §7, §13). */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { AGENT, dataOf, fieldOf, makeSession, startServer, type TestServer } from '../helpers/http.ts';
import { play, playTurn } from '../helpers/runtime.ts';

let server: TestServer;
let agent: string;
beforeAll(async () => {
  server = await startServer();
  agent = (await server.ask('POST /v3/agents', { body: AGENT })).json['id']!;
});
afterAll(() => server.close());

const create = (body: object, headers: Record<string, string> = {}) =>
  server.ask('POST /v3/sessions', { body: { agent, input: 'hello', ...body }, headers });

describe('create', () => {
  it('is not undone by texts that JSON allows and a database does not', async () => {
    const odd = {
      model: 'anthropic/\ud800\u0000',
      input: 'a\ud800\u0000b',
      metadata: { '\ud800': '\u0000' },
      key: '\ud800',
    };
    const { status, json } = await create(odd);
    expect(status).toBe(201);
    expect((await server.ask('GET /v3/sessions?limit=1')).status).toBe(200);
    expect((await server.ask(`GET /v3/sessions/${json['session']!['id']}`)).status).toBe(200);
  });

  it.each(['before=0000-01-01T00:00:00Z', 'after=0001-01-01T00:00:00%2B23:59', 'after=yesterday'])(
    'refuses a list %s',
    async (query) => {
      expect((await server.ask(`GET /v3/sessions?${query}`)).status).toBe(400);
    },
  );

  it('answers 201 with a queued session and a client token', async () => {
    const { status, json } = await create({ metadata: { pull: 7 }, limits: { turns: 2 } });
    expect(status).toBe(201);
    expect(json['client_token']).toMatch(/^owct_/);
    expect(json['session']).toMatchObject({
      ...{
        status: 'queued',
        head: 2,
        input_cursor: 0,
        agent_id: agent,
        credential_id: 'managed',
        last_turn: null,
      },
      agent_snapshot: { model: AGENT.model, runtime: 'claude', revision: 1 },
      ...{ metadata: { pull: 7 }, limits: { turns: 2 }, sandboxes: { brain: null, hands: null } },
    });
    expect(json['session']).not.toHaveProperty('key');
  });

  it('puts what an envelope says into the event', async () => {
    const envelope = {
      ...{
        id: 'm1',
        source: 'slack',
        conversation: { source: 'slack', ref: 'C1' },
        text: 'hi',
        raw: { a_b: [1] },
      },
      ...{ refs: { repo: 'x/y' }, actor: { id: 'u1', display: 'Ada' }, ts: 'dropped' },
    };
    const id = (await create({ input: envelope })).json['session']!['id']!;
    const event = (await server.ask(`GET /v3/sessions/${id}/messages`)).json['data']![0]!;
    expect(event).toMatchObject({
      ...{ type: 'user.message', level: 'user', source: 'client', session: id, turn_id: null, seq: 2 },
      actor: { type: 'human', kind: 'human', id: 'u1', display: 'Ada' },
      refs: { repo: 'x/y', source: 'slack', conversation: { source: 'slack', ref: 'C1' } },
      body: { text: 'hi', raw: { a_b: [1] } },
    });
    expect(event['body']).not.toHaveProperty('ts');
  });

  it('drops unknown fields, and keys that could reach a prototype are only data', async () => {
    const raw = `{"agent":"${agent}","input":"x","revision":3,"__proto__":{"polluted":1},"metadata":{"__proto__":{"polluted":1},"a":1}}`;
    const { status, json } = await server.ask('POST /v3/sessions', { raw });
    expect(status).toBe(201);
    expect(json['session']!['metadata']).toEqual({ a: 1 });
    expect(({} as { polluted?: number }).polluted).toBeUndefined();
  });

  it('stores a NUL and a lone surrogate without losing either', async () => {
    const id = (await create({ input: 'a\u0000b\ud800' })).json['session']!['id']!;
    const event = (await server.ask(`GET /v3/sessions/${id}/messages`)).json['data']![0]!;
    expect(event['body']!['text']).toBe('a\u0000b\ud800');
    expect((await create({ key: 'nul\u0000key' })).status).toBe(201);
  });

  it.each([
    ['no agent', { agent: undefined }, 400, 'invalid', 'agent'],
    ['an agent that is not there', { agent: 'agt_none' }, 404, 'not_found', 'agent'],
    ['no input', { input: undefined }, 400, 'invalid', 'input'],
    ['a blank input', { input: ' \n' }, 400, 'invalid', 'input'],
    ['a model of another provider', { model: 'openai/gpt-5' }, 400, 'invalid', 'model'],
    ['limits that are no numbers', { limits: { turns: 'x' } }, 400, 'invalid', 'limits.turns'],
    ['metadata over 16 KiB', { metadata: { a: 'x'.repeat(16_384) } }, 400, 'invalid', 'metadata'],
    ['sources', { sources: [{ url: 'x' }] }, 422, 'sources_not_supported', 'sources'],
    ['a webhook to a private address', { webhook: 'https://10.0.0.1/' }, 400, 'invalid', 'webhook'],
    [
      'destinations to a private address',
      { destinations: [{ url: 'https://10.0.0.1/' }] },
      400,
      'invalid',
      'destinations.0.url',
    ],
    ['input over 1 MiB', { input: 'x'.repeat(1024 * 1024 + 1) }, 413, 'too_large', 'text'],
    ['a body over 2 MiB', { input: 'x'.repeat(2 * 1024 * 1024) }, 413, 'too_large', undefined],
  ])('refuses %s', async (_, body, status, type, param) => {
    const answer = await create(body);
    expect(answer.status).toBe(status);
    expect(answer.json['error']!['type']).toBe(type);
    expect(answer.json['error']!['param']).toBe(param);
    expect(answer.json['error']!['request_id']).toBe(answer.headers.get('x-request-id'));
  });

  it('takes empty lists and null for nothing', async () => {
    expect((await create({ sources: [], destinations: [], webhook: null })).status).toBe(201);
  });

  it('overrides the model for this session and keeps what the agent was', async () => {
    const made = await server.ask('POST /v3/agents', {
      body: { ...AGENT, name: 'edited', limits: { tokens: 9, turns: 9 } },
    });
    const id = made.json['id']!;
    const session = (await create({ agent: id, model: 'anthropic/other', limits: { turns: 1 } })).json[
      'session'
    ]!;
    expect(session['agent_snapshot']!['model']).toBe('anthropic/other');
    expect(session['limits']).toEqual({ tokens: 9, turns: 1 });
    await server.ask(`PATCH /v3/agents/${id}`, { body: { prompt: 'New.' } });
    const again = (await server.ask(`GET /v3/sessions/${session['id']}`)).json;
    expect(again['agent_snapshot']!['revision']).toBe(1);
  });
});

describe('idempotency', () => {
  it('makes one session of many concurrent creates with one key', async () => {
    const answers = await Promise.all(
      Array.from({ length: 12 }, () => create({ key: 'race', metadata: { n: 1 } })),
    );
    expect(new Set(answers.map(({ json }) => json['session']!['id'])).size).toBe(1);
    expect(answers.filter(({ status }) => status === 201)).toHaveLength(1);
    expect(answers.filter(({ status }) => status === 200)).toHaveLength(11);
    const listed = (await server.ask('GET /v3/sessions?key=race')).json['data']!;
    expect(listed).toHaveLength(1);
    expect(listed[0]!['key']).toBe('race');
  });

  it('does the same by header, apart from keys of the body and of other orgs', async () => {
    const headers = { 'idempotency-key': 'race' };
    const answers = await Promise.all(Array.from({ length: 6 }, () => create({}, headers)));
    expect(new Set(answers.map(({ json }) => json['session']!['id'])).size).toBe(1);
    expect(answers[0]!.json['session']!['key']).toBeUndefined();
    const theirs = await makeSession(
      { ask: (what, ask) => server.ask(what, { ...ask, key: server.stranger.key }) },
      { key: 'race' },
    );
    expect(theirs.id).not.toBe(answers[0]!.json['session']!['id']);
  });

  it('gives a replay a usable token, whatever its metadata', async () => {
    const first = await create({ key: 'replay', metadata: { a: 1 } });
    const replay = await create({ key: 'replay', metadata: { b: 2 } });
    expect(replay.status).toBe(200);
    expect(replay.json['session']!['metadata']).toEqual({ a: 1 });
    expect(replay.json['client_token']).not.toBe(first.json['client_token']);
    const path = `GET /v3/sessions/${first.json['session']!['id']}/events`;
    expect((await server.ask(path, { key: replay.json['client_token']! })).status).toBe(200);
  });

  it('refuses a key that was used with another request', async () => {
    await create({ key: 'other' });
    const answer = await create({ key: 'other', input: 'something else' });
    expect(answer.status).toBe(409);
    expect(answer.json['error']).toMatchObject({ type: 'idempotency_conflict', param: 'key' });
  });
});

describe('credentials at create', () => {
  it('takes the agent, then the default of the org, then the server, and says what is missing', async () => {
    const bare = await startServer({ managed_key: undefined });
    const { ask } = bare;
    const make = async (name: string, fields: object) =>
      (await ask('POST /v3/agents', { body: { ...AGENT, name, ...fields } })).json['id']!;
    const start = async (agent: string) => await ask('POST /v3/sessions', { body: { agent, input: 'x' } });
    const plain = await make('plain', {});
    expect((await start(plain)).json['error']!['type']).toBe('no_credential');
    const managed = await start(await make('managed', { credential: 'managed' }));
    expect([managed.status, managed.json['error']!['type']]).toEqual([422, 'managed_unavailable']);
    const own = await start(await make('own', { key: 'sk-own-key' }));
    expect(own.json['session']!['credential_id']).toMatch(/^cred_/);
    const body = { key: 'sk-default-key', is_default: true };
    const fallback = (await ask('POST /v3/credentials', { body })).json['id'];
    expect((await start(plain)).json['session']!['credential_id']).toBe(fallback);
    await bare.close();
  });
});

describe('list', () => {
  it('pages newest first and filters', async () => {
    const made: string[] = [];
    const other = (await server.ask('POST /v3/agents', { body: { ...AGENT, name: 'lister' } })).json['id']!;
    for (let index = 0; index < 5; index += 1) {
      made.push((await create({ agent: other, key: `list-${index}` })).json['session']!['id']!);
    }
    const first = (await server.ask(`GET /v3/sessions?agent=${other}&limit=3`)).json;
    const path = `GET /v3/sessions?agent=${other}&limit=3&cursor=${first['next_cursor']}`;
    const second = (await server.ask(path)).json;
    const ids = fieldOf([...dataOf(first), ...dataOf(second)], 'id');
    expect(ids).toEqual(made.toReversed());
    expect(second['next_cursor']).toBeNull();
    expect((await server.ask('GET /v3/sessions?key=list-2')).json['data']![0]!['id']).toBe(made[2]);
    expect((await server.ask(`GET /v3/sessions?agent=${other}&status=idle`)).json['data']).toEqual([]);
  });

  it('bounds by creation time', async () => {
    const { agent: bounded } = await makeSession(server);
    const list = async (query: string) =>
      (await server.ask(`GET /v3/sessions?agent=${bounded}&${query}`)).json['data'];
    expect(await list('before=2020-01-01T00:00:00Z')).toEqual([]);
    expect(await list('after=2020-01-01T00:00:00Z')).not.toEqual([]);
  });

  it.each(['limit=0', 'limit=x', 'status=sleeping', 'after=yesterday', 'cursor=garbage'])(
    'refuses %s',
    async (query) => {
      const answer = await server.ask(`GET /v3/sessions?${query}`);
      expect([answer.status, answer.json['error']!['param']]).toEqual([400, query.split('=')[0]]);
    },
  );

  it('brings a limit that is too large down', async () => {
    expect((await server.ask('GET /v3/sessions?limit=100000')).status).toBe(200);
  });
});

describe('a session that ran', () => {
  it('shows the turn, the cursor, the usage and the computer', async () => {
    const { id } = await makeSession(server);
    await play(server.runtime, id, { type: 'begin', node: 'nod_1' });
    const running = (await server.ask(`GET /v3/sessions/${id}`)).json;
    expect(running).toMatchObject({ status: 'running', input_cursor: 2, last_turn: null });
    const attached = { computer_id: 'cmp_1', driver: 'process', node: 'nod_1', generation: 1 };
    await play(server.runtime, id, {
      type: 'computer_changed',
      change: { type: 'computer.attached', body: attached },
    });
    expect((await server.ask(`GET /v3/sessions/${id}`)).json['sandboxes']).toEqual({
      brain: null,
      hands: 'cmp_1',
    });
    await playTurn(server.runtime, id, 'done');
    const session = (await server.ask(`GET /v3/sessions/${id}`)).json;
    expect(session).toMatchObject({ status: 'idle', usage: { reported_turns: 1, tokens: 8 } });
    expect(Object.keys(session['last_turn']!).sort()).toEqual([
      'id',
      'result_event_id',
      'state',
      'yield_reason',
    ]);
  });
});

describe('cancel and archive', () => {
  it('cancels nothing without complaint, and an active turn by asking for it', async () => {
    const { id } = await makeSession(server);
    const idle = await server.ask(`POST /v3/sessions/${id}/cancel`);
    expect([idle.status, idle.json['session']!['status']]).toEqual([202, 'queued']);
    await play(server.runtime, id, { type: 'begin', node: 'nod_1' });
    expect((await server.ask(`POST /v3/sessions/${id}/cancel`)).json['session']!['status']).toBe('running');
    await play(server.runtime, id, { type: 'advance' });
    expect((await server.ask(`GET /v3/sessions/${id}`)).json['last_turn']!['yield_reason']).toBe('canceled');
  });

  it('archives at once when nothing runs, twice without complaint, and takes no message then', async () => {
    const { id, token } = await makeSession(server);
    const archived = await server.ask(`POST /v3/sessions/${id}/archive`);
    expect([archived.status, archived.json['session']!['status']]).toEqual([202, 'archived']);
    expect((await server.ask(`POST /v3/sessions/${id}/archive`)).status).toBe(202);
    const refused = await server.ask(`POST /v3/sessions/${id}/messages`, { body: { text: 'more' } });
    expect([refused.status, refused.json['error']!['type']]).toEqual([409, 'conflict']);
    expect((await server.ask(`GET /v3/sessions/${id}/events`, { key: token })).status).toBe(200);
  });

  it('waits for an active turn to end', async () => {
    const { id } = await makeSession(server);
    await play(server.runtime, id, { type: 'begin', node: 'nod_1' });
    const { promise: asked, resolve } = Promise.withResolvers<void>();
    const unwatch = server.runtime.follow.watch(id, resolve);
    const archiving = server.ask(`POST /v3/sessions/${id}/archive`);
    await asked;
    unwatch();
    await play(server.runtime, id, { type: 'advance' });
    expect((await archiving).json['session']!['status']).toBe('archived');
  });

  it('answers also when the turn does not end', async () => {
    const { id } = await makeSession(server);
    await play(server.runtime, id, { type: 'begin', node: 'nod_1' });
    const answer = await server.ask(`POST /v3/sessions/${id}/archive`);
    expect([answer.status, answer.json['session']!['status']]).toEqual([202, 'running']);
  });

  it('has no sources', async () => {
    const { id } = await makeSession(server);
    expect((await server.ask(`GET /v3/sessions/${id}/sources`)).json).toEqual([]);
  });
});
