/**
 * Secrets stay where they belong. A real node with real computers is given secrets of every kind and lives through everything that
 * might spill them; then all that came out of it and all that it stored is searched, in every encoding.
 */
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { tarOf } from '../bundle/archives.ts';
import { FORM_TYPE, formOf } from '../conformance/deploy.ts';
import type { Json } from '../helpers/http.ts';
import { GROUNDS, type TestGround } from '../helpers/grounds.ts';
import { reply, text, toolUse, type Script } from '../helpers/model/messages-api.ts';
import { startNode, type TestNode } from '../helpers/node.ts';
import { startReceiver, type Receiver } from '../helpers/receiver.ts';
import { recordedFetch } from '../helpers/records.ts';
import { eventually, makeWorld, type World } from '../helpers/world.ts';
import { findIn, needlesOf } from './encodings.ts';
import { dumpTables, findInFiles, withPassword } from './stored.ts';
import { plant, prying, secretsOf, type Planted } from './planted.ts';

/** Put where it is stored and shown, so that the search has something to find. */
const CONTROL = 'control-canary-5d41402abc4b2a76b9719d911017c592';

function appConfig({ variable }: Planted): string {
  const start_command = 'test -n "$PLANTED" && echo has 1 variable; exit 1';
  return JSON.stringify({ env: { PLANTED: variable }, start_command });
}

type Ask = { key?: string | null; body?: unknown; raw?: string; headers?: Record<string, string> };

describe.each(GROUNDS)('secrets on %s', { timeout: 120_000 }, (kind) => {
  let planted: Planted;
  let world: World;
  let ground: TestGround | undefined;
  let receiver: Receiver;
  let node: TestNode;
  let port = 0;
  let credential_now = '';
  /** What was shown once, to whom it belongs. */
  const shown: Record<string, string> = {};
  /** Everything that came out, by where. */
  const out: Record<string, string> = { answers: '', streams: '', output: '', refusals: '' };

  beforeAll(async () => {
    planted = plant();
    credential_now = planted.credential;
    receiver = await startReceiver((_, count) => (count % 2 === 1 ? { status: 500, body: 'no' } : 204));
    world = await makeWorld((request, index) => script(request, index), settings());
    if (kind === 'postgres') ground = await withPassword(planted.password);
    node = await world.start(await database());
    port = Number(new URL(node.url).port);
    await live();
  }, 120_000);
  afterAll(async () => {
    await world.end();
    await ground?.drop();
    await receiver.close();
  });

  function settings(): Record<string, string> {
    return {
      ...{
        OVERWINTER_SANDBOX: 'bwrap',
        OVERWINTER_COMPUTER_DISK_MB: '512',
        OVERWINTER_LOG_LEVEL: 'debug',
        OVERWINTER_OUTPUT_BYTES: '1000000',
      },
      ...{
        OVERWINTER_WEBHOOK_ALLOW: '127.0.0.0/8',
        OVERWINTER_WEBHOOK_DELAYS: '0',
        OVERWINTER_POLL_MS: '50',
      },
      ...{ OVERWINTER_WEBHOOK_ATTEMPTS: '3', OVERWINTER_HIBERNATE_AFTER_MS: '100' },
      ...{ ANTHROPIC_API_KEY: planted.managed, OVERWINTER_API_KEY: planted.api_key },
      OVERWINTER_MASTER_KEY: planted.master_keys[1].toString('base64'),
    };
  }

  async function database(): Promise<Record<string, string>> {
    return await Promise.resolve(ground?.url === undefined ? {} : { DATABASE_URL: ground.url });
  }

  /** The model looks around in its computer, or its provider fails with the key in the message. */
  const script: Script = (request) => {
    const said = JSON.stringify(request.messages);
    const keys = { ...planted, credential: credential_now };
    const key = /fail with (\w+)/.exec(said)?.[1] as keyof typeof keys | undefined;
    if (key !== undefined) {
      const message = `invalid x-api-key: ${String(keys[key])} (Bearer ${String(keys[key])})`;
      if (said.includes('in the stream') && !said.includes('again'))
        return {
          ...reply(text('Hm.')),
          sse_error_after: { events: 2, type: 'authentication_error', message },
        };
      return { error: { status: 401, type: 'authentication_error', message } };
    }
    if (said.includes('tool_result') || !said.includes('look around')) return reply(text('Done.'));
    return reply(toolUse('bash', { command: prying(port) }));
  };

  async function ask(what: string, { key = planted.api_key, body, raw, headers }: Ask = {}): Promise<Json> {
    const [method, target] = what.split(' ') as [string, string];
    const sent = raw ?? (body === undefined ? undefined : JSON.stringify(body));
    const response = await recordedFetch(node.url + target, {
      method,
      headers: {
        ...(key === null ? {} : { authorization: `Bearer ${key}` }),
        ...(sent === undefined ? {} : { 'content-type': 'application/json' }),
        ...headers,
      },
      ...(sent === undefined ? {} : { body: sent }),
    });
    const answer = await response.text();
    const json = parse(answer);
    // Shown once, and searched for everywhere else from then on.
    for (const field of ['client_token', 'token', 'key'])
      if (typeof json[field] === 'string' && response.ok)
        shown[`${field} ${Object.keys(shown).length} of ${what}`] = json[field];
    const head = [...response.headers].map(([name, value]) => `${name}: ${value}\n`).join('');
    const is_own_url = /destinations/.test(target) ? 'urls' : 'answers';
    out[is_own_url] = `${out[is_own_url] ?? ''}${head}${withoutShown(json, answer)}\n`;
    return json;
  }

  /** Its program ends at once, so its computer is gone when the search begins. */
  async function deployed(what: string, request: Ask = {}): Promise<void> {
    await ask(what, request);
    await eventually(async () => (await ask('GET /v1/deploy/apps/app'))['status'] === 'FAILED');
    const { last_error } = await ask('GET /v1/deploy/apps/app');
    expect(last_error).toMatch(/has 1 variable\n?$/);
    await ask('GET /v1/deploy/apps/app/logs');
  }

  async function live(): Promise<void> {
    const credential = await ask('POST /v3/credentials', { body: { key: planted.credential } });
    await ask('PUT /v3/credentials/default', { body: { credential: credential['id'] } });
    await ask('POST /v3/api-keys', { body: { name: 'second', scopes: ['read'] } });
    const agents = {
      managed: await makeAgent({ credential: 'managed' }),
      credential: await makeAgent({ credential: credential['id'] }),
      inline: await makeAgent({ key: planted.inline }),
    };
    const sessions: string[] = [];
    for (const [name, agent] of Object.entries(agents)) {
      for (const input of ['look around', `fail with ${name}`, `fail with ${name} in the stream`])
        sessions.push(await makeSession(agent, input));
    }
    await tryDestinations(sessions[0]!);
    await askWrongly(sessions[0]!);
    await ask(`PATCH /v3/credentials/${credential['id']}`, { body: { key: planted.rotated } });
    credential_now = planted.rotated;
    await deployed('POST /v1/deploy/agent', {
      raw: formOf({ name: 'app', config: appConfig(planted) }, tarOf([{ name: 'x', body: 'y' }])).toString(
        'latin1',
      ),
      headers: { 'content-type': FORM_TYPE },
    });
    await restartWithNewMasterKey();
    expect(await ask('POST /v3/master-key/rotation')).toMatchObject({ remaining: 0 });
    for (const id of sessions) await ask(`POST /v3/sessions/${id}/messages`, { body: { text: 'again' } });
    for (const id of sessions) await settled(id);
    await deployed('POST /v1/deploy/apps/app/redeploy');
    await readEverything(sessions);
    await failToStart();
  }

  async function makeAgent(fields: object): Promise<string> {
    const name = `agent ${JSON.stringify(Object.keys(fields))} ${Object.values(fields).join().slice(0, 4)}`;
    const made = await ask('POST /v3/agents', {
      body: { name, prompt: `You pry. ${CONTROL}`, model: 'anthropic/claude-test', ...fields },
    });
    expect(made['id']).toMatch(/^agt_/);
    return made['id']!;
  }

  async function makeSession(agent: string, input: string): Promise<string> {
    const url = `${receiver.url}/hook?token=${planted.webhook_token}`;
    const made = await ask('POST /v3/sessions', {
      body: { agent, input, destinations: [{ url, level: 'internal' }, { url: closedUrl() }] },
    });
    const id = made['session']!['id']!;
    await settled(id);
    return id;
  }

  function closedUrl(): string {
    return `http://127.0.0.1:1/?token=${planted.webhook_token}`;
  }

  async function settled(id: string): Promise<void> {
    await eventually(async () => {
      const response = await fetch(`${node.url}/v3/sessions/${id}`, {
        headers: { authorization: `Bearer ${planted.api_key}` },
      });
      const { status } = (await response.json()) as { status: string };
      return ['idle', 'failed', 'awaiting_input'].includes(status);
    }, 40_000);
  }

  async function tryDestinations(session: string): Promise<void> {
    const at = `/v3/sessions/${session}/destinations`;
    const url = `${receiver.url}/signed?token=${planted.webhook_token}`;
    for (const [target, to] of [
      [at, url],
      [at, closedUrl()],
      ['/v3/destinations', url],
    ] as const) {
      const made = await ask(`POST ${target}`, { body: { url: to, secret: planted.webhook_secret } });
      await ask(`POST ${target}/${made['id']}/test`);
      await ask(`GET ${target}/${made['id']}`);
    }
    await ask(`GET ${at}`);
    const bad = { url: `ftp://u:${planted.password}@127.0.0.1/`, secret: planted.webhook_secret };
    out['refusals'] += JSON.stringify(await ask(`POST ${at}`, { body: bad }));
  }

  /** Keys where they do not belong: the caller's own mistake must not end up in a log, nor be said back. */
  async function askWrongly(session: string): Promise<void> {
    const { api_key, credential } = planted;
    const token = Object.values(shown).find((one) => one.startsWith('owct_'))!;
    await ask(`GET /v3/agents?token=${api_key}`, { key: null });
    await ask(`GET /v3/agents/${api_key}`);
    await ask(`GET /v3/${api_key}`);
    await ask(`GET /v3/sessions/${session}/events?stream=sse&token=${api_key}`, { key: null });
    await ask(`GET /v3/sessions?cursor=${api_key}&limit=${api_key}`);
    await ask('GET /v3/agents', { key: null, headers: { authorization: `Basic ${btoa(`u:${api_key}`)}` } });
    await ask('GET /v3/agents', { key: `${api_key}x`, headers: { 'x-api-key': token } });
    await ask('POST /v3/agents', { raw: `{"key": ${credential}}` });
    await ask('POST /v3/agents', { raw: `{"key": "${credential}` });
    await ask(`DELETE /v3/credentials/${credential}`);
    await ask(`GET /reference/${credential}`, { key: null });
    await ask(`GET /${credential}?${credential}`, {
      headers: { traceparent: credential, 'x-request-id': token },
    });
    await ask(`POST /v3/sessions/${session}/${token}`, { body: {} });
    const agent = { name: 'wrong', prompt: 'p', model: 'anthropic/m' };
    for (const field of ['credential', 'runtime', 'model', 'limits'])
      await ask('POST /v3/agents', { body: { ...agent, [field]: credential } });
    await ask('POST /v3/agents', { body: { ...agent, key: [credential] } });
    await ask('POST /v3/credentials', { body: { key: { [credential]: credential } } });
    await ask('POST /v3/credentials', { body: { key: credential, provider: api_key } });
    await ask('PUT /v3/credentials/default', { body: { credential, provider: api_key } });
    await ask('POST /v3/api-keys', { body: { name: 'x', scopes: [api_key], expires_at: api_key } });
    await ask('POST /v3/sessions', { body: { agent: credential, input: 'x', [credential]: 1 } });
    for (const field of ['limits', 'webhook', 'destinations', 'metadata', 'key'])
      await ask('POST /v3/sessions', { body: { agent: 'agt_0', input: 'x', [field]: [credential] } });
    for (const field of ['url', 'level', 'types', 'secret'])
      await ask('POST /v3/destinations', { body: { url: 'x', [field]: credential } });
    for (const field of ['level', 'after', 'type', 'turn_id', 'limit', 'deltas'])
      await ask(`GET /v3/sessions/${session}/events?${field}=${credential}`);
    await ask(`POST /v3/sessions/${session}/client-tokens`, {
      body: { scopes: [token], ttl_seconds: token },
    });
  }

  async function restartWithNewMasterKey(): Promise<void> {
    const [added, old] = planted.master_keys.map((key) => key.toString('base64'));
    await stop();
    node = await world.start({ ...(await database()), OVERWINTER_MASTER_KEY: `${added},${old}` });
    port = Number(new URL(node.url).port);
  }

  async function stop(): Promise<void> {
    await node.stop();
    out['output'] += node.output() + node.log();
  }

  async function readEverything(sessions: string[]): Promise<void> {
    for (const id of sessions) {
      for (const level of ['user', 'progress', 'internal', 'runtime'])
        await ask(`GET /v3/sessions/${id}/events?level=${level}&limit=500`);
      out['streams'] += await readStream(id);
      for (const below of ['', '/turns', '/messages', '/result', '/deliveries', '/client-tokens'])
        await ask(`GET /v3/sessions/${id}${below}`);
    }
    for (const list of ['agents', 'credentials', 'api-keys', 'orgs', 'sessions'])
      await ask(`GET /v3/${list}`);
    await ask('GET /healthz', { key: null });
    await ask('GET /openapi.json', { key: null });
  }

  /** The bytes of a stream up to the last event that there is. */
  async function readStream(id: string): Promise<string> {
    const { head } = await ask(`GET /v3/sessions/${id}`);
    const leaving = new AbortController();
    const response = await fetch(
      `${node.url}/v3/sessions/${id}/events?stream=sse&level=runtime&deltas=true`,
      {
        headers: { authorization: `Bearer ${planted.api_key}` },
        signal: leaving.signal,
      },
    );
    let bytes = '';
    const last = (await listed(id)).at(-1)!['id']!;
    for await (const chunk of response.body!.pipeThrough(new TextDecoderStream())) {
      bytes += chunk;
      if (bytes.includes(last)) break;
    }
    leaving.abort();
    expect(head).not.toBe(0);
    return bytes;
  }

  async function listed(id: string): Promise<Json[]> {
    return (await ask(`GET /v3/sessions/${id}/events?level=runtime&limit=500`))['data'] as Json[];
  }

  /** Settings that are wrong are not quoted either. */
  async function failToStart(): Promise<void> {
    const directory = path.join(world.directory, 'failing');
    const base = { OVERWINTER_DATA_DIR: directory, OVERWINTER_SANDBOX: 'bwrap' };
    const url = `postgres://u:${planted.password}@127.0.0.1:1/none`;
    for (const wrong of [
      { OVERWINTER_API_KEY: `${planted.api_key}x` },
      { OVERWINTER_MASTER_KEY: `${planted.master_keys[0].toString('base64')},${planted.managed}` },
      { DATABASE_URL: `mysql://u:${planted.password}@127.0.0.1/none` },
      { DATABASE_URL: url, OVERWINTER_MASTER_KEY: planted.master_keys[0].toString('hex') },
      { DATABASE_URL: url },
      { ANTHROPIC_BASE_URL: planted.managed },
    ]) {
      const started = startNode({ ...base, ...(wrong as Record<string, string>) });
      out['refusals'] += await started.then(
        () => expect.fail('it started'),
        (error: Error) => error.message,
      );
    }
  }

  const needles = () => needlesOf({ ...secretsOf(planted), ...shown });
  /** A destination's URL is its owner's to read. */
  const butUrls = () => needles().filter(({ secret }) => secret !== 'webhook_token');

  it('are in nothing that was answered, streamed, said or logged', () => {
    expect(Object.keys(shown).length).toBeGreaterThanOrEqual(10);
    for (const where of ['answers', 'streams', 'refusals', 'output'])
      expect(out[where]!.length, where).toBeGreaterThan(500);
    for (const [where, text] of Object.entries(out))
      expect([where, ...findIn(text, where === 'urls' ? butUrls() : needles())]).toEqual([where]);
    const control = needlesOf({ control: CONTROL });
    for (const where of ['answers', 'streams']) expect(findIn(out[where]!, control)).not.toEqual([]);
  });

  it('are in nothing that the receiver of webhooks was sent', () => {
    expect(receiver.received.length).toBeGreaterThan(20);
    expect(receiver.received.some(({ headers }) => headers['webhook-signature'])).toBe(true);
    const sent = receiver.received.map(({ headers, body }) => JSON.stringify(headers) + body).join('\n');
    expect(findIn(sent, needles())).toEqual([]);
  });

  it('are out of reach of what runs in a computer, as is the server', () => {
    const results = world.api.requests.map(({ body }) => JSON.stringify(body.messages)).join('\n');
    expect(results).toContain('mountinfo');
    expect(results).toMatch(/PATH=/);
    expect(findIn(results, needles())).toEqual([]);
    expect(results).not.toMatch(/REACHED \d/);
  });

  it(
    'are in no table, in no encoding, and in no file but the ones that hold keys',
    { timeout: 120_000 },
    async () => {
      await stop();
      const dump = await dumpTables(ground?.url, path.join(world.directory, 'database'));
      expect(dump.length).toBeGreaterThan(50_000);
      expect(findIn(dump, needles())).toEqual([]);
      expect(findIn(dump, needlesOf({ control: CONTROL }))).not.toEqual([]);
      const raw = butUrls().filter(({ encoding }) => /^(raw|hex|base64 at .)$/.test(encoding));
      expect(findInFiles(world.directory, raw)).toEqual([]);
    },
  );
});

function parse(answer: string): Json {
  try {
    return JSON.parse(answer) as Json;
  } catch {
    return {} as Json;
  }
}

/** The answer without what is shown there once and on purpose. */
function withoutShown(json: Json, answer: string): string {
  return ['client_token', 'token', 'key'].reduce(
    (left, field) => (typeof json[field] === 'string' ? left.replace(json[field], '') : left),
    answer,
  );
}
