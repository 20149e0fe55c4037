/** The stand-in itself: it must refuse what the real API refuses, or tests against it prove nothing. */
import * as fc from 'fast-check';
import { afterEach, describe, expect, it } from 'vitest';
import {
  type MessagesApi,
  type MessagesRequest,
  reply,
  type Script,
  startMessagesApi,
  text,
  thinking,
  toolUse,
} from '../helpers/model/messages-api.ts';
import { signThinking, validateRequest } from '../helpers/model/messages-api-validator.ts';

type Block = Record<string, unknown>;
type Message = MessagesRequest['messages'][number];

const BASH = { type: 'bash_20250124', name: 'bash' };
const EDIT = { type: 'text_editor_20250728', name: 'str_replace_based_edit_tool' };
const SAY = { name: 'say', description: 'Tell.', input_schema: { type: 'object', properties: {} } };

function body(overrides: Record<string, unknown> = {}): Record<string, unknown> {
  return { model: 'm', max_tokens: 10, messages: [user('hi')], ...overrides };
}

function messages(...list: unknown[]): Record<string, unknown> {
  return body({ messages: list });
}

function user(...content: (string | Block)[]): Message {
  return { role: 'user', content: content.map((part) => (typeof part === 'string' ? said(part) : part)) };
}

function assistant(...content: (string | Block)[]): Message {
  return { ...user(...content), role: 'assistant' };
}

function said(words: string): Block {
  return { type: 'text', text: words };
}

function call(id: string): Block {
  return { type: 'tool_use', id, name: 'gone', input: {} };
}

function result(id: string, more: Block = {}): Block {
  return { type: 'tool_result', tool_use_id: id, content: 'ok', ...more };
}

describe('accepts', () => {
  const think = { type: 'thinking', thinking: 'Hm.', signature: signThinking('Hm.') };
  it.each([
    ['the least', body()],
    ['everything we send', body({ system: [said('s')], tools: [BASH, EDIT, SAY], stream: true, ...CACHED })],
    ['text as a string', messages({ role: 'user', content: 'hi' })],
    ['a round of tools', messages(user('a'), assistant('b', call('t1')), user(result('t1'), 'more'))],
    [
      'results split over messages',
      messages(user('a'), assistant(call('1'), call('2')), user(result('1')), user(result('2'))),
    ],
    [
      'calls split over messages',
      messages(user('a'), assistant(call('1')), assistant(call('2')), user(result('2'), result('1'))),
    ],
    ['thinking with its signature', messages(user('a'), assistant(think, 'b'), user('c'))],
    [
      'redacted thinking',
      messages(user('a'), assistant({ type: 'redacted_thinking', data: 'x' }, 'b'), user('c')),
    ],
    ['an empty result', messages(user('a'), assistant(call('1')), user(result('1', { content: [] })))],
    [
      'a result in blocks',
      messages(user('a'), assistant(call('1')), user(result('1', { content: [said('x')] }))),
    ],
  ])('%s', (_, request) => {
    expect(validateRequest(request)).toBeUndefined();
  });
});

const CACHED = { cache_control: { type: 'ephemeral' } };

describe('refuses', () => {
  it.each([
    ['no object', [], 'valid dictionary'],
    ['no model', body({ model: undefined }), 'model: Field required'],
    ['an empty model', body({ model: '' }), 'model: String should'],
    ['no max_tokens', body({ max_tokens: undefined }), 'max_tokens: Field required'],
    ['no room', body({ max_tokens: 0 }), 'greater than or equal to 1'],
    ['half a token', body({ max_tokens: 1.5 }), 'valid integer'],
    ['an unknown field', body({ metadata_: {} }), 'metadata_: Extra inputs are not permitted'],
    ['odd caching', body({ cache_control: { type: 'forever' } }), "'ephemeral'"],
    ['no messages', messages(), 'at least one message'],
    ['an odd role', messages({ role: 'tool', content: 'x' }), "'user' or 'assistant'"],
    ['an id in a message', messages({ ...user('x'), id: 'msg_1' }), 'Extra inputs'],
    ['the assistant first', messages(assistant('a'), user('b')), 'first message must use the "user" role'],
    ['the assistant last', messages(user('a'), assistant('b')), 'must end with a user message'],
    ['empty content', messages(user('a'), assistant(), user('b')), 'non-empty content'],
    ['empty text', messages(user('')), 'text content blocks must be non-empty'],
    ['blank text', messages(user(' \n')), 'non-whitespace'],
    ['blank text in the system prompt', body({ system: [said(' ')] }), 'system: text content'],
    ['half a surrogate pair', messages(user('a\ud800')), 'no low surrogate'],
    ['an unknown block', messages(user({ type: 'oracle' })), "Input tag 'oracle'"],
    ['a block named like a method', messages(user({ type: 'constructor' })), "Input tag 'constructor'"],
    ['an unknown field of a block', messages(user({ ...said('x'), note: 1 })), 'note: Extra inputs'],
    ['a call of the user', messages(user(call('1'))), '`tool_use` blocks can not be in `user`'],
    [
      'a result of the assistant',
      messages(user('a'), assistant(result('1')), user('b')),
      'in `assistant` messages',
    ],
    ['a call without result', messages(user('a'), assistant(call('t1')), user('b')), 'immediately after: t1'],
    ['a call at the end', messages(user('a'), assistant(call('t1'))), 'immediately after: t1'],
    [
      'one of two results missing',
      messages(user('a'), assistant(call('1'), call('2')), user(result('1'))),
      'after: 2',
    ],
    ['text before a result', messages(user('a'), assistant(call('1')), user('b', result('1'))), 'after: 1'],
    [
      'text between results',
      messages(user('a'), assistant(call('1'), call('2')), user(result('1'), 'b', result('2'))),
      'after: 2',
    ],
    [
      'text before a result, in two messages',
      messages(user('a'), assistant(call('1')), user('b'), user(result('1'))),
      'after: 1',
    ],
    [
      'a late result',
      messages(user('a'), assistant(call('1')), user(result('1')), assistant('b'), user(result('1'))),
      'unexpected `tool_use_id`',
    ],
    ['a result of nothing', messages(user(result('1'))), 'unexpected `tool_use_id`'],
    [
      'two results of one call',
      messages(user('a'), assistant(call('1')), user(result('1'), result('1'))),
      'single result',
    ],
    [
      'a repeated call id',
      messages(user('a'), assistant(call('1'), call('1')), user(result('1'))),
      'must be unique',
    ],
    [
      'an odd call id',
      messages(user('a'), assistant(call('a.b')), user(result('a.b'))),
      'should match pattern',
    ],
    [
      'input that is no object',
      messages(user('a'), assistant({ ...call('1'), input: [] }), user(result('1'))),
      'dictionary',
    ],
    [
      'an error that says nothing',
      messages(user('a'), assistant(call('1')), user(result('1', { content: '', is_error: true }))),
      'cannot be empty if `is_error`',
    ],
    [
      'empty text in a result',
      messages(user('a'), assistant(call('1')), user(result('1', { content: [said('')] }))),
      'non-empty',
    ],
    [
      'a call in a result',
      messages(user('a'), assistant(call('1')), user(result('1', { content: [call('2')] }))),
      'expected tags',
    ],
    [
      'forged thinking',
      messages(user('a'), assistant({ ...thinking('x'), thinking: 'y' }, 'b'), user('c')),
      'Invalid `signature`',
    ],
    ['a misnamed bash', body({ tools: [{ ...BASH, name: 'shell' }] }), "name: Input should be 'bash'"],
    ['a misnamed editor', body({ tools: [{ ...EDIT, name: 'edit' }] }), "'str_replace_based_edit_tool'"],
    [
      'a tool of an unknown type',
      body({ tools: [{ type: 'bash_2099', name: 'bash' }] }),
      "Input tag 'bash_2099'",
    ],
    ['a tool with an odd name', body({ tools: [{ ...SAY, name: 'say it' }] }), 'should match pattern'],
    ['a tool without schema', body({ tools: [{ name: 'say' }] }), 'input_schema: Field required'],
    ['a schema of no object', body({ tools: [{ ...SAY, input_schema: { type: 'string' } }] }), "'object'"],
    ['two tools of one name', body({ tools: [SAY, SAY] }), 'unique'],
  ])('%s', (_, request, message) => {
    expect(validateRequest(JSON.parse(JSON.stringify(request)))).toContain(message);
  });

  it('a conversation that lost any one result', () => {
    const calls_per_round = fc.array(fc.integer({ min: 1, max: 3 }), { minLength: 1, maxLength: 5 });
    fc.assert(
      fc.property(calls_per_round, fc.nat(), (rounds, chance) => {
        const whole = conversation(rounds);
        expect(validateRequest(messages(...whole))).toBeUndefined();
        const lost = chance % rounds.length;
        const broken = whole.map((message, at) =>
          at === lost * 2 + 2 ? { ...message, content: [said('x')] } : message,
        );
        expect(validateRequest(messages(...broken))).toContain(
          'without `tool_result` blocks immediately after',
        );
      }),
    );
  });
});

/** A question, then one round of calls and results for each number. */
function conversation(rounds: number[]): Message[] {
  const turns = rounds.flatMap((calls, round) => {
    const ids = Array.from({ length: calls }, (_, at) => `t${round}_${at}`);
    return [assistant('then', ...ids.map(call)), user(...ids.map((id) => result(id)))];
  });
  return [user('start'), ...turns];
}

describe('over HTTP', () => {
  const open: MessagesApi[] = [];
  afterEach(async () => {
    for (const api of open.splice(0)) await api.close();
  });

  async function serve(script: Script): Promise<MessagesApi> {
    const api = await startMessagesApi(script);
    open.push(api);
    return api;
  }

  const HEADERS = { 'x-api-key': 'k', 'anthropic-version': '2023-06-01' };

  function post(
    api: MessagesApi,
    request: unknown,
    headers: Record<string, string> = HEADERS,
  ): Promise<Response> {
    const sent = typeof request === 'string' ? request : JSON.stringify(request);
    return fetch(`${api.base_url}/v1/messages`, { method: 'POST', headers, body: sent });
  }

  it.each([
    ['no key', { 'anthropic-version': 'x' }, 401, 'authentication_error'],
    ['a revoked key', { ...HEADERS, 'x-api-key': 'revoked' }, 401, 'authentication_error'],
    [
      'a revoked bearer',
      { 'anthropic-version': 'x', authorization: 'Bearer revoked' },
      401,
      'authentication_error',
    ],
    ['no version', { 'x-api-key': 'k' }, 400, 'invalid_request_error'],
  ])('refuses %s with the envelope', async (_, headers, status, type) => {
    const api = await serve(() => reply(text('hi')));
    const response = await post(api, body(), headers);
    expect(response.status).toBe(status);
    expect(await response.json()).toMatchObject({
      type: 'error',
      error: { type },
      request_id: response.headers.get('request-id'),
    });
    expect(api).toMatchObject({ requests: [], refused: [{ status, type }] });
  });

  it('refuses what is not JSON, and other paths', async () => {
    const api = await serve(() => reply(text('hi')));
    expect((await post(api, '{"model":')).status).toBe(400);
    expect((await fetch(`${api.base_url}/v1/models`, { headers: HEADERS })).status).toBe(404);
  });

  it('answers without a stream where none is asked for', async () => {
    const api = await serve(() => reply(text('hello'), toolUse('bash', { command: 'ls' })));
    const message = (await (await post(api, body())).json()) as Record<string, unknown>;
    expect(message).toMatchObject({ id: 'msg_000001', role: 'assistant', stop_reason: 'tool_use' });
    expect(message['content']).toMatchObject([{ text: 'hello' }, { id: 'toolu_000001' }]);
  });

  it('streams the events of the protocol, the same each time', async () => {
    const api = await serve(() => ({
      content: [thinking('So.'), text('ab'), toolUse('bash', {})],
      delta_characters: 1,
    }));
    const first = await (await post(api, body({ stream: true }))).text();
    const second = await (await post(api, body({ stream: true }))).text();
    expect(second.replaceAll('msg_000002', 'msg_000001')).toBe(first);
    const events = [...first.matchAll(/^event: (\w+)$/gm)].map((match) => match[1]);
    expect([...new Set(events)]).toEqual(ORDER);
    expect(events.slice(-2)).toEqual(['message_delta', 'message_stop']);
  });

  const ORDER = [
    'message_start',
    'ping',
    'content_block_start',
    'content_block_delta',
    'content_block_stop',
    'message_delta',
    'message_stop',
  ];

  it('counts ids within the conversation', async () => {
    const api = await serve(() => reply(toolUse('bash', {}), toolUse('bash', {})));
    const message = (await (await post(api, messages(...conversation([2, 1])))).json()) as Message;
    expect(message.content).toMatchObject([{ id: 'toolu_000004' }, { id: 'toolu_000005' }]);
  });

  it('bills what it sent, and reads a repeated prefix from the cache', async () => {
    const api = await serve((_, index) => ({
      content: [text('x'.repeat(400))],
      ...(index === 1 && { end_after_events: 4 }),
    }));
    const long = conversation([1, 1, 1]);
    for (const request of [long, long, [...long, assistant('a'), user('b')]]) {
      await (await post(api, { ...messages(...request), ...CACHED, stream: true })).text();
    }
    const [whole, cut, longer] = api.ledger;
    expect(whole).toMatchObject({ finished: true, output_tokens: 100, cache_read_input_tokens: 0 });
    expect(cut).toMatchObject({ finished: false, output_tokens: 4, cache_creation_input_tokens: 0 });
    expect(longer?.cache_read_input_tokens).toBeGreaterThan(100);
    expect(longer?.cache_creation_input_tokens).toBeGreaterThan(0);
  });

  it('holds a stream open at a gate, and counts who is in flight', async () => {
    const gates = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    const api = await serve((_, index) => ({
      content: [text('x')],
      gate: (at) => (at === 3 ? gates[index]?.promise : undefined),
    }));
    const [first, second] = await Promise.all([
      post(api, body({ stream: true })),
      post(api, body({ stream: true })),
    ]);
    expect(api).toMatchObject({ concurrent: 2, max_concurrent: 2 });
    for (const gate of gates) gate.resolve();
    expect(await first?.text()).toContain('message_stop');
    expect(await second?.text()).toContain('message_stop');
    await expect.poll(() => api.concurrent).toBe(0);
    expect(api.closed_by_client).toBe(0);
  });

  it('shows a script that throws as a refusal, not as an outage', async () => {
    const api = await serve(() => {
      throw new Error('no third request expected');
    });
    const response = await post(api, body());
    expect(response.status).toBe(400);
    expect(await response.text()).toContain('no third request expected');
  });
});
