/** Events, messages and turns over HTTP (contract §8 to §10). */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { insertClientToken } from '../../src/store/client-tokens.ts';
import { digest } from '../../src/secret/key.ts';
import { dataOf, fieldOf, makeSession, startServer, type Json, type TestServer } from '../helpers/http.ts';
import { play, playTurn } from '../helpers/runtime.ts';

let server: TestServer;
beforeAll(async () => {
  server = await startServer();
});
afterAll(() => server.close());

const types = (page: Json): unknown[] => page['data']!.map((event: Json) => event['type']);

async function ranSession(text = 'the answer'): Promise<{ id: string; token: string }> {
  const made = await makeSession(server);
  await playTurn(server.runtime, made.id, text);
  return made;
}

describe('pages of events', () => {
  it('show the level that is asked for, internal by default, runtime to org keys alone', async () => {
    const { id, token } = await ranSession();
    const read = async (query: string, key?: string) =>
      types(
        (await server.ask(`GET /v3/sessions/${id}/events?${query}`, key === undefined ? {} : { key })).json,
      );
    const user = ['user.message', 'agent.message', 'turn.completed'];
    expect(await read('level=user')).toEqual(user);
    const progress = ['user.message', 'turn.started', 'agent.message', 'agent.message', 'turn.completed'];
    expect(await read('level=progress')).toEqual(progress);
    const internal = [...progress.slice(0, 3), 'agent.result', ...progress.slice(3)];
    expect(await read('')).toEqual(internal);
    expect(await read('', token)).toEqual(internal);
    expect(await read('level=runtime')).toContain('session.created');
    const refused = await server.ask(`GET /v3/sessions/${id}/events?level=runtime`, { key: token });
    expect([refused.status, refused.json['error']!['type']]).toEqual([403, 'forbidden']);
  });

  it('filter by type, turn and place, all together', async () => {
    const { id } = await ranSession();
    const all = (await server.ask(`GET /v3/sessions/${id}/events`)).json['data']!;
    const turn = all.find((event: Json) => event['turn_id'] !== null)!['turn_id'];
    const read = async (query: string) =>
      types((await server.ask(`GET /v3/sessions/${id}/events?${query}`)).json);
    expect(await read('type=turn.*')).toEqual(['turn.started', 'turn.completed']);
    expect(await read('type=*.message')).toEqual(['user.message', 'agent.message', 'agent.message']);
    expect(await read('type=agent.result')).toEqual(['agent.result']);
    expect(await read('type=agent_result')).toEqual([]);
    expect(await read(`turn_id=${turn}&type=*.message&level=user`)).toEqual(['agent.message']);
    expect(await read(`after=${all.at(-2)!['seq']}`)).toEqual(['turn.completed']);
  });

  it('go on where the last one ended, without gap or duplicate', async () => {
    const { id } = await ranSession();
    const whole = (await server.ask(`GET /v3/sessions/${id}/events?level=runtime`)).json['data']!;
    const seen: Json[] = [];
    for (let cursor: string | null = '0'; cursor !== null;) {
      const path: string = `GET /v3/sessions/${id}/events?level=runtime&limit=2&after=${cursor}`;
      const page = (await server.ask(path)).json;
      seen.push(...dataOf(page));
      cursor = page['next_cursor'] as string | null;
    }
    expect(seen).toEqual(whole);
    expect(seen.map((event) => event['seq'])).toEqual(seen.map((_, index) => index + 1));
  });

  it('bring a limit down to 500', async () => {
    const { id } = await makeSession(server);
    const messages = Array.from({ length: 510 }, (_, index) => `m${index}`);
    await Promise.all(
      messages.map((text) => play(server.runtime, id, { type: 'message', text, actor: { type: 'human' } })),
    );
    const page = (await server.ask(`GET /v3/sessions/${id}/events?limit=100000`)).json;
    expect(page['data']).toHaveLength(500);
    expect(page['next_cursor']).toBe('501');
    expect((await server.ask(`GET /v3/sessions/${id}/events`)).json['data']).toHaveLength(100);
  });

  it.each([
    'after=-1',
    'after=1.5',
    'after=x',
    'after=3',
    'cursor=99',
    'limit=0',
    'level=secret',
    'type=%27',
    'stream=ws',
  ])('refuse %s', async (query) => {
    const { id } = await makeSession(server);
    const answer = await server.ask(`GET /v3/sessions/${id}/events?${query}`);
    expect([answer.status, answer.json['error']!['type']]).toEqual([400, 'invalid']);
    expect(answer.json['error']!['param']).toBe(query.split('=')[0]);
  });
});

describe('one event', () => {
  it('is served alone, and its content is the body as it was written', async () => {
    const { id, token } = await makeSession(server, { input: { text: 'hi', raw: { b: 1, a: 2 } } });
    const event = (await server.ask(`GET /v3/sessions/${id}/messages`)).json['data']![0]!;
    const path = `GET /v3/sessions/${id}/events/${event['id']}`;
    expect((await server.ask(path, { key: token })).json).toEqual(event);
    const content = await server.ask(`${path}/content`, { key: token });
    expect(content.text).toBe('{"text":"hi","raw":{"b":1,"a":2}}');
    expect(content.headers.get('content-type')).toBe('application/json');
  });

  it('of a large body shows a preview, and the whole is its content', async () => {
    const text = 'é'.repeat(40_000);
    const { id } = await makeSession(server, { input: text });
    const event = (await server.ask(`GET /v3/sessions/${id}/messages`)).json['data']![0]!;
    expect(event).toMatchObject({
      body_truncated: true,
      body_bytes: 80_011,
      content_ref: `events/${event['id']}`,
    });
    expect(event['body']!['text']!.length).toBeLessThan(text.length);
    const content = await server.ask(`GET /v3/sessions/${id}/events/${event['id']}/content`);
    expect(JSON.parse(content.text)).toEqual({ text });
  });

  it('of a command whose output was cut gives the whole output', async () => {
    const { id } = await makeSession(server);
    const { runtime } = server;
    await runtime.blobs.put(
      'out/1',
      (async function* () {
        yield await Promise.resolve(Buffer.from('line 1\nline 2\n'));
      })(),
    );
    await play(runtime, id, { type: 'begin', node: 'nod_1' });
    const actor = { type: 'agent' } as const;
    const body = { command: 'make', exit_code: 0, summary: 'line', content_ref: 'out/1', bytes: 14 };
    const draft = { type: 'exec.completed', level: 'progress', actor, turn_id: null, body } as const;
    const { rows } = await runtime.log.append(id, {}, () => [draft]);
    const content = await server.ask(`GET /v3/sessions/${id}/events/${rows[0]!.id}/content`);
    expect([content.text, content.headers.get('content-type')]).toEqual([
      'line 1\nline 2\n',
      'text/plain; charset=utf-8',
    ]);
  });

  it('is 404 when it is hidden, missing or of another session', async () => {
    const { id, token } = await makeSession(server);
    const other = await makeSession(server, { key: 'x-other' });
    const created = (await server.ask(`GET /v3/sessions/${id}/events?level=runtime&limit=1`)).json[
      'data'
    ]![0]!['id'];
    const status = async (path: string, key?: string) =>
      (await server.ask(`GET /v3/sessions/${path}`, key === undefined ? {} : { key })).status;
    expect(await status(`${id}/events/${created}`)).toBe(404);
    expect(await status(`${id}/events/${created}/content`, token)).toBe(404);
    expect(await status(`${id}/events/${created}?level=runtime`, token)).toBe(403);
    expect(await status(`${id}/events/${created}?level=runtime`)).toBe(200);
    expect(await status(`${other.id}/events/${created}?level=runtime`)).toBe(404);
    expect(await status(`${id}/events/evt_000000000000000000000000`)).toBe(404);
    expect(await status(`${id}/events/%00`)).toBe(404);
  });
});

describe('messages', () => {
  it('are accepted with 202 and wake the session', async () => {
    const { id, token } = await ranSession();
    const sent = await server.ask(`POST /v3/sessions/${id}/messages`, { body: { text: 'more' }, key: token });
    expect(sent.status).toBe(202);
    const { event, session } = sent.json;
    expect(session).toEqual({ id, status: 'queued', head: event!['seq'] });
    const listed = (await server.ask(`GET /v3/sessions/${id}/messages`, { key: token })).json;
    expect(listed['data']!.map((message: Json) => message['body']!['text'])).toEqual([
      'hello',
      'the answer',
      'more',
    ]);
    expect(listed['data']!.at(-1)!['id']).toBe(event!['id']);
  });

  it('never interrupt a running turn', async () => {
    const { id } = await makeSession(server);
    await play(server.runtime, id, { type: 'begin', node: 'nod_1' });
    const sent = await server.ask(`POST /v3/sessions/${id}/messages`, {
      body: { envelope: { text: 'and' } },
    });
    expect(sent.json['session']!['status']).toBe('running');
  });

  it('with one key are one message, also when they race', async () => {
    const { id } = await makeSession(server);
    const body = { text: 'once', idempotency_key: 'k1' };
    const path = `POST /v3/sessions/${id}/messages`;
    const answers = await Promise.all(Array.from({ length: 10 }, () => server.ask(path, { body })));
    expect(answers.filter(({ status }) => status === 202)).toHaveLength(1);
    expect(answers.filter(({ status }) => status === 200)).toHaveLength(9);
    expect(new Set(answers.map(({ json }) => json['event']!['id'])).size).toBe(1);
    const byEnvelope = await server.ask(path, { body: { envelope: { id: 'k1', text: 'once' } } });
    expect([byEnvelope.status, byEnvelope.json['event']]).toEqual([200, answers[0]!.json['event']]);
    const other = await server.ask(path, { body: { text: 'twice', idempotency_key: 'k1' } });
    expect([other.status, other.json['error']!['type']]).toEqual([409, 'idempotency_conflict']);
    const elsewhere = await makeSession(server, { key: 'elsewhere' });
    expect((await server.ask(`POST /v3/sessions/${elsewhere.id}/messages`, { body })).status).toBe(202);
  });

  it('do not let a browser speak in the name of someone else', async () => {
    const { id, token } = await makeSession(server);
    const envelope = { text: 'hi', actor: { id: 'boss' } };
    await server.ask(`POST /v3/sessions/${id}/messages`, { body: { envelope }, key: token });
    const last = (await server.ask(`GET /v3/sessions/${id}/messages`)).json['data']!.at(-1)!;
    expect(last['actor']).toEqual({ type: 'human', kind: 'human' });
  });

  it.each([
    ['nothing', {}, 400, 'text'],
    ['a blank text', { text: ' ' }, 400, 'text'],
    ['an envelope without text', { envelope: {} }, 400, 'envelope.text'],
    ['too long a text', { text: 'é'.repeat(600_000) }, 413, 'text'],
  ])('refuse %s', async (_, body, status, param) => {
    const { id } = await makeSession(server);
    const answer = await server.ask(`POST /v3/sessions/${id}/messages`, { body });
    expect([answer.status, answer.json['error']!['param']]).toEqual([status, param]);
  });

  it('need the scope to steer', async () => {
    const { id } = await makeSession(server);
    const { db } = server.runtime.database;
    const token = `owct_${'a'.repeat(43)}`;
    const row = {
      id: server.runtime.newId('client_token'),
      session_id: id,
      digest: digest(token),
      ttl_s: 60,
      minted_by: null,
    };
    await insertClientToken(db, server.org.id, { ...row, scopes: ['read'] });
    const sent = await server.ask(`POST /v3/sessions/${id}/messages`, { body: { text: 'x' }, key: token });
    expect([sent.status, sent.json['error']!['type']]).toEqual([403, 'forbidden']);
    expect((await server.ask(`GET /v3/sessions/${id}/messages`, { key: token })).status).toBe(200);
  });
});

describe('turns', () => {
  it('are listed newest first, page by page, and served alone', async () => {
    const { id } = await ranSession('one');
    const say = (text: string) =>
      play(server.runtime, id, { type: 'message', text, actor: { type: 'human' } });
    for (const text of ['two', 'three']) {
      await say(text);
      await playTurn(server.runtime, id, text);
    }
    const first = (await server.ask(`GET /v3/sessions/${id}/turns?limit=2`)).json;
    const second = (await server.ask(`GET /v3/sessions/${id}/turns?limit=2&cursor=${first['next_cursor']}`))
      .json;
    const turns = [...dataOf(first), ...dataOf(second)];
    expect([turns.length, second['next_cursor']]).toEqual([3, null]);
    expect(fieldOf(turns, 'started_at')).toEqual(fieldOf(turns, 'started_at').sort().toReversed());
    expect(turns[0]).toMatchObject({
      state: 'ok',
      yield_reason: 'completed',
      attempt: 1,
      usage: { tokens: 8 },
    });
    for (const turn of turns) {
      expect((await server.ask(`GET /v3/sessions/${id}/turns/${turn['id']}`)).json).toEqual(turn);
    }
  });

  it('give the result: both keys before the first turn, the last message after it', async () => {
    const { id } = await makeSession(server);
    expect((await server.ask(`GET /v3/sessions/${id}/result`)).json).toEqual({
      last_turn: null,
      result: null,
    });
    await playTurn(server.runtime, id, 'forty-two');
    const { last_turn, result } = (await server.ask(`GET /v3/sessions/${id}/result`)).json;
    expect(last_turn).toMatchObject({
      state: 'ok',
      yield_reason: 'completed',
      result_event_id: result!['id'],
    });
    expect(result).toMatchObject({ type: 'agent.message', level: 'user', body: { text: 'forty-two' } });
    await play(
      server.runtime,
      id,
      { type: 'message', text: 'x', actor: { type: 'human' } },
      { type: 'begin', node: 'n' },
    );
    expect((await server.ask(`GET /v3/sessions/${id}/result`)).json).toEqual({ last_turn, result });
    const running = (await server.ask(`GET /v3/sessions/${id}/turns`)).json['data']![0]!;
    expect([running['state'], running['completed_at']]).toEqual(['running', undefined]);
  });

  it('are 404 when unknown, and a foreign cursor is refused', async () => {
    const { id } = await ranSession();
    const other = await ranSession();
    const theirs = (await server.ask(`GET /v3/sessions/${other.id}/turns`)).json['data']![0]!['id'];
    expect((await server.ask(`GET /v3/sessions/${id}/turns/${theirs}`)).status).toBe(404);
    expect((await server.ask(`GET /v3/sessions/${id}/turns/nonsense`)).status).toBe(404);
    expect((await server.ask(`GET /v3/sessions/${id}/turns?cursor=${theirs}`)).status).toBe(400);
  });
});
