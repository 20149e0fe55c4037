/** Agents and credentials over HTTP (contract §15.1, §15.5). */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { getSealedCredential, setDefaultCredential } from '../../src/store/credentials.ts';
import { AGENT, dataOf, fieldOf, startServer, type Json, type TestServer } from '../helpers/http.ts';

let server: TestServer;
beforeAll(async () => {
  server = await startServer();
});
afterAll(() => server.close());

const create = (fields: object) => server.ask('POST /v3/agents', { body: { ...AGENT, ...fields } });

async function openKey(credential: string): Promise<string> {
  const { database, sealer } = server.runtime;
  const sealed = await getSealedCredential(database.db, server.org.id, credential);
  return sealer.open(sealed!, { org: server.org.id, table: 'credential', id: credential, column: 'sealed' });
}

describe('creating an agent', () => {
  it('answers 201, then 200 for the same configuration, then 409 for another', async () => {
    const limits = { turns: 4, turn_seconds: 600 };
    const made = await create({ limits });
    expect(made.status).toBe(201);
    expect(made.json).toMatchObject({
      ...AGENT,
      limits,
      runtime: 'claude',
      revision: 1,
      credential_id: null,
      invoke_url: '',
    });
    expect(made.json['active_revision']).toMatchObject({ id: made.json['active_revision_id'], number: 1 });
    const again = await create({ limits });
    expect([again.status, again.json]).toEqual([200, made.json]);
    for (const fields of [
      { prompt: 'Other.' },
      { model: 'anthropic/x' },
      {},
      { limits, credential: 'managed' },
    ]) {
      const refused = await create({ limits: null, ...fields });
      expect([refused.status, refused.json['error']!['type']]).toEqual([409, 'conflict']);
    }
  });

  it('takes an inline key once, seals it and never shows it', async () => {
    const key = 'sk-inline-secret-1234';
    const made = await create({ name: 'keyed', key });
    expect(made.text).not.toContain(key);
    const credential = made.json['credential_id']!;
    expect(await openKey(credential)).toBe(key);
    const again = await create({ name: 'keyed', key: 'sk-another-key' });
    expect([again.status, again.json['credential_id']]).toEqual([200, credential]);
    expect(await openKey(credential)).toBe(key);
    const listed = await server.ask('GET /v3/credentials');
    expect(listed.json['data']![0]!).toMatchObject({
      id: credential,
      last4: '1234',
      name: 'keyed',
      is_default: false,
    });
    expect(listed.text).not.toContain(key);
  });

  it('is one agent and one credential when it races', async () => {
    const before = (await server.ask('GET /v3/credentials?limit=100')).json['data']!.length;
    const answers = await Promise.all(
      Array.from({ length: 8 }, () => create({ name: 'race', key: 'sk-race-key' })),
    );
    expect(new Set(answers.map(({ json }) => json['id'])).size).toBe(1);
    expect(answers.filter(({ status }) => status === 201)).toHaveLength(1);
    expect((await server.ask('GET /v3/credentials?limit=100')).json['data']!.length).toBe(before + 1);
  });

  it.each([
    [
      'a runtime we do not drive',
      { runtime: 'codex', model: 'openai/gpt-5-codex' },
      422,
      'runtime_unavailable',
      'runtime',
    ],
    ['a model of another provider', { model: 'openai/gpt-5-codex' }, 400, 'invalid', 'model'],
    ['a model without provider', { model: 'claude' }, 400, 'invalid', 'model'],
    [
      'a key beside a credential',
      { key: 'sk-12345678', credential: 'managed' },
      400,
      'invalid',
      'credential',
    ],
    ['a credential that is not there', { credential: 'cred_x' }, 400, 'invalid', 'credential'],
    ['a key with blanks', { key: 'sk 12345678' }, 400, 'invalid', 'key'],
    ['no prompt', { prompt: undefined }, 400, 'invalid', 'prompt'],
    ['no name', { name: '' }, 400, 'invalid', 'name'],
  ])('refuses %s', async (_, fields, status, type, param) => {
    const answer = await create({ name: 'refused', ...fields });
    expect([answer.status, answer.json['error']!['type'], answer.json['error']!['param']]).toEqual([
      status,
      type,
      param,
    ]);
  });
});

describe('changing an agent', () => {
  const patch = (id: string, body: object) => server.ask(`PATCH /v3/agents/${id}`, { body });

  it('makes a revision of a new prompt or model, and of nothing else', async () => {
    const { id, active_revision_id } = (await create({ name: 'revised' })).json as { [field: string]: Json };
    const same = await patch(id!, { prompt: AGENT.prompt, limits: { turns: 1 } });
    expect([same.json['revision'], same.json['limits']]).toEqual([1, { turns: 1 }]);
    const changed = await patch(id!, { prompt: 'New.' });
    expect(changed.json).toMatchObject({
      revision: 2,
      prompt: 'New.',
      model: AGENT.model,
      limits: { turns: 1 },
    });
    expect(changed.json['active_revision_id']).not.toBe(active_revision_id);
    expect((await patch(id!, { model: 'anthropic/new' })).json['revision']).toBe(3);
    expect((await patch(id!, { limits: null })).json['limits']).toBeNull();
    expect((await server.ask(`GET /v3/agents/${id}`)).json).toMatchObject({
      revision: 3,
      model: 'anthropic/new',
    });
  });

  it('gives it a key, rotates that, and points it elsewhere', async () => {
    const { id } = (await create({ name: 'rekeyed' })).json as { [field: string]: Json };
    const credential = (await patch(id!, { key: 'sk-first-key' })).json['credential_id']!;
    const rotated = await patch(id!, { key: 'sk-second-key' });
    expect(rotated.json['credential_id']).toBe(credential);
    expect(await openKey(credential)).toBe('sk-second-key');
    expect((await patch(id!, { credential: 'managed' })).json['credential_id']).toBe('managed');
    expect((await patch(id!, { credential })).json['credential_id']).toBe(credential);
    expect((await patch(id!, { credential: null })).json['credential_id']).toBeNull();
  });

  it('never changes the runtime', async () => {
    const { id } = (await create({ name: 'fixed' })).json as { [field: string]: Json };
    expect((await patch(id!, { runtime: 'claude' })).status).toBe(200);
    const refused = await patch(id!, { runtime: 'codex' });
    expect([refused.status, refused.json['error']!['param']]).toEqual([400, 'runtime']);
    expect((await patch('agt_none', {})).status).toBe(404);
  });

  it('loses no edit unseen when two race', async () => {
    const { id } = (await create({ name: 'raced' })).json as { [field: string]: Json };
    const answers = await Promise.all(['a', 'b', 'c'].map((prompt) => patch(id!, { prompt })));
    const done = answers.filter(({ status }) => status === 200);
    expect((await server.ask(`GET /v3/agents/${id}`)).json['revision']).toBe(1 + done.length);
    const refused = answers.filter(({ status }) => status !== 200);
    for (const { status, headers } of refused)
      expect([status, headers.get('retry-after')]).toEqual([503, '1']);
  });
});

describe('credentials', () => {
  const add = async (body: object) => (await server.ask('POST /v3/credentials', { body })).json;
  const defaults = async () => {
    const all = dataOf((await server.ask('GET /v3/credentials?limit=100')).json);
    return fieldOf(
      all.filter((row) => row['is_default']),
      'id',
    ).toSorted();
  };

  it('have one default for each provider', async () => {
    const first = await add({ key: 'sk-default-1', is_default: true, name: 'one' });
    expect(first).toMatchObject({ provider: 'anthropic', is_default: true, name: 'one', last4: 'lt-1' });
    const other = await add({ key: 'sk-openai-key', provider: 'openai', is_default: true });
    const second = await add({ key: 'sk-default-2' });
    expect(await defaults()).toEqual([first, other].map((row) => row['id'] as string).toSorted());
    const put = (body: object) => server.ask('PUT /v3/credentials/default', { body });
    expect((await put({ credential: second['id'] })).json).toMatchObject({
      id: second['id'],
      is_default: true,
    });
    expect(await defaults()).toEqual([second, other].map((row) => row['id'] as string).toSorted());
    expect((await put({ credential: second['id'], provider: 'openai' })).status).toBe(400);
    expect((await put({ credential: 'cred_none' })).status).toBe(404);
  });

  it('have one default also when two are set at once', async () => {
    const made = await Promise.all(['a', 'b', 'c', 'd'].map((name) => add({ key: 'sk-racing-key', name })));
    const puts = made.map(({ id }) =>
      server.ask('PUT /v3/credentials/default', { body: { credential: id } }),
    );
    for (const { status } of await Promise.all(puts)) expect([200, 503]).toContain(status);
    expect((await defaults()).filter((id) => made.some((row) => row['id'] === id))).toHaveLength(1);
  });

  it('keep their default when the one that is to follow is deleted in between', async () => {
    const before = await defaults();
    const { id } = await add({ key: 'sk-short-lived' });
    await server.ask(`DELETE /v3/credentials/${id}`);
    expect(await setDefaultCredential(server.runtime.database.db, server.org.id, id!)).toBeUndefined();
    expect(await defaults()).toEqual(before);
  });

  it('rotate, page and go away; agents fall back to the default', async () => {
    const made = await add({ key: 'sk-will-rotate' });
    const id = made['id']!;
    const rotated = await server.ask(`PATCH /v3/credentials/${id}`, { body: { key: 'sk-rotated-9999' } });
    expect([rotated.status, rotated.json['last4'], await openKey(id)]).toEqual([
      200,
      '9999',
      'sk-rotated-9999',
    ]);
    const agent = (await create({ name: 'falls back', credential: id })).json['id'];
    const page = (await server.ask('GET /v3/credentials?limit=1')).json;
    const next = (await server.ask(`GET /v3/credentials?limit=1&cursor=${page['next_cursor']}`)).json;
    expect(next['data']![0]!['id']).not.toBe(page['data']![0]!['id']);
    expect((await server.ask(`DELETE /v3/credentials/${id}`)).status).toBe(204);
    expect((await server.ask(`DELETE /v3/credentials/${id}`)).status).toBe(404);
    expect((await server.ask(`GET /v3/agents/${agent}`)).json['credential_id']).toBeNull();
  });

  it.each([
    ['POST /v3/credentials', { key: 'short' }, 400],
    ['POST /v3/credentials', { key: 'sk-good-key', provider: 'acme' }, 400],
    ['PATCH /v3/credentials/cred_none', { key: 'sk-good-key' }, 404],
    ['PATCH /v3/credentials/a%7Cb', { key: 'sk-good-key' }, 404],
    ['DELETE /v3/credentials/default', undefined, 404],
  ])('%s refuses %j', async (what, body, status) => {
    expect((await server.ask(what, { body })).status).toBe(status);
  });
});

describe('agents', () => {
  it('are listed newest first', async () => {
    const all = dataOf((await server.ask('GET /v3/agents?limit=100')).json);
    const page = (await server.ask('GET /v3/agents?limit=2')).json;
    const next = (await server.ask(`GET /v3/agents?limit=100&cursor=${page['next_cursor']}`)).json;
    expect([...dataOf(page), ...dataOf(next)]).toEqual(all);
    expect(fieldOf(all, 'id')).toEqual(fieldOf(all, 'id').sort().toReversed());
    expect((await server.ask('GET /v3/agents/agt_none')).status).toBe(404);
  });
});
