/** The provider against the stand-in, over real HTTP and through the real SDK: whole answers, silence and abort. */
import { describe, expect, it, vi } from 'vitest';
import type { ModelRequest } from '../../src/resource/model.ts';
import {
  asFailed,
  asResponded,
  fixture,
  REQUEST,
  respond,
  respondTo,
  serve,
  usageIn,
} from '../helpers/model/anthropic-calls.ts';
import { type Reply, reply, text, thinking, toolUse } from '../helpers/model/messages-api.ts';

const FOREVER = new Promise<void>(() => undefined);

describe('a whole answer', () => {
  it('keeps every block as it was sent, and the request as it was given', async () => {
    const content = [
      thinking('First, look.'),
      text('Looking: 日本 🌱'),
      toolUse('bash', { command: 'ls' }, 'toolu_1'),
    ];
    const api = await serve(() => reply(...content));
    const pieces: string[] = [];
    const outcome = asResponded(await respond(api.base_url, { on_text: (piece) => pieces.push(piece) }));
    expect(outcome).toMatchObject({ content, stop_reason: 'tool_use', cut: false, model: REQUEST.model });
    expect(outcome.usage).toEqual(usageIn(api, 0));
    expect(pieces.join('')).toBe('Looking: 日本 🌱');
    expect(api.requests[0]?.body).toEqual({ ...REQUEST, stream: true, cache_control: { type: 'ephemeral' } });
    expect(api.requests[0]?.headers).toMatchObject({ 'x-stainless-retry-count': '0' });
  });

  it.each([
    ['text', 'end_turn', ['text', 'text']],
    ['text-and-tool', 'tool_use', ['text', 'tool_use']],
    ['parallel-tools', 'tool_use', ['tool_use', 'tool_use', 'tool_use']],
    ['thinking', 'tool_use', ['thinking', 'redacted_thinking', 'text', 'tool_use']],
    ['max-tokens', 'max_tokens', ['text']],
    ['refusal', 'refusal', ['text']],
    ['pause-turn', 'pause_turn', ['text', 'server_tool_use']],
    ['context-window', 'model_context_window_exceeded', ['text']],
    ['unknown-types', 'end_turn', ['oracle_result', 'text']],
  ])('reads the recorded stream %s: %s', async (name, stop_reason, types) => {
    const api = await serve(() => ({ raw_sse: fixture(name) }));
    const outcome = asResponded(await respond(api.base_url));
    expect(outcome.content.map((block) => block.type)).toEqual(types);
    expect(outcome).toMatchObject({ stop_reason, cut: false, usage: usageIn(api, 0) });
  });

  it('keeps a block of an unknown type with all its fields, and drops one that it could not follow', async () => {
    const { content } = asResponded(await respondTo({ raw_sse: fixture('unknown-types') }));
    const oracle = { type: 'oracle_result', answer: { nested: [true, null, 'ü'] }, confidence: 0.25 };
    expect(content[0]).toEqual(oracle);
    expect(content[1]).toMatchObject({ text: 'Known text.', citations: [{ type: 'char_location' }] });
  });

  it('sends back what it kept: the stand-in verifies the thinking', async () => {
    const api = await serve((_, index) =>
      index === 0 ? { raw_sse: fixture('thinking') } : reply(text('Done.')),
    );
    const { content } = asResponded(await respond(api.base_url));
    const result = { type: 'tool_result', tool_use_id: 'toolu_01ReadTest', content: 'ok' };
    const messages: ModelRequest['messages'] = [
      ...REQUEST.messages,
      { role: 'assistant', content },
      { role: 'user', content: [result] },
    ];
    const outcome = await respond(api.base_url, { request: { ...REQUEST, messages } });
    expect(asResponded(outcome).usage.cache_read_input_tokens).toBeGreaterThan(0);
  });

  it('drops a call that max_tokens cut before its input began, but not one without input', async () => {
    const bare = [text('Now.'), { type: 'tool_use', id: 'toolu_1', name: 'bash', input: {} }];
    const full = { content: bare, stop_reason: 'tool_use' };
    expect(asResponded(await respondTo(full)).content).toHaveLength(2);
    expect(asResponded(await respondTo({ raw_sse: rawOf('max_tokens') })).content).toEqual([]);
    expect(asResponded(await respondTo({ raw_sse: rawOf('tool_use') })).content).toHaveLength(1);
  });

  it('fails where no call of the answer is readable', async () => {
    const failed = asFailed(await respondTo({ raw_sse: fixture('unreadable-tool') }));
    expect(failed).toMatchObject({
      reason: 'transient',
      code: 'invalid_tool_input',
      usage: { output_tokens: 20 },
    });
  });

  it('ignores malformed events', async () => {
    const odd = [
      'null',
      '3',
      '[]',
      '{}',
      '{"type":"content_block_delta"}',
      '{"type":"content_block_start","index":9}',
    ];
    const noise = odd.map((data) => `event: noise\ndata: ${data}\n\n`).join('');
    const outcome = asResponded(
      await respondTo({ raw_sse: noise + fixture('text').replaceAll('\n\n', `\n\n${noise}`) }),
    );
    expect(outcome.content.map((block) => block.type)).toEqual(['text', 'text']);
  });
});

/** A lone call whose input never began, in a message that ended for `stop_reason`. */
function rawOf(stop_reason: string): string {
  const events = [
    {
      type: 'message_start',
      message: { id: 'msg_1', model: 'm', usage: { input_tokens: 1, output_tokens: 1 } },
    },
    {
      type: 'content_block_start',
      index: 0,
      content_block: { type: 'tool_use', id: 't', name: 'bash', input: {} },
    },
    { type: 'content_block_stop', index: 0 },
    { type: 'message_delta', delta: { stop_reason }, usage: { output_tokens: 5 } },
    { type: 'message_stop' },
  ];
  return events.map((event) => `event: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`).join('');
}

it('fails as timeout when the provider falls silent, pings or not', async () => {
  const raw_sse = fixture('ping-stall');
  const api = await serve((_, index) =>
    index === 0 ? { raw_sse, gate: (at) => holdAfter(at, 5) } : FOREVER.then(() => reply()),
  );
  for (const _ of [0, 1]) {
    const failed = asFailed(await respond(api.base_url, { timeout_ms: 50 }));
    expect(failed).toMatchObject({ reason: 'transient', code: 'timeout' });
  }
  await expect.poll(() => api.closed_by_client).toBe(2);
});

it('keeps complete calls of a stream that falls silent', async () => {
  const raw_sse = fixture('overloaded-after-tool');
  const answer: Reply = { raw_sse, gate: (at) => holdAfter(at, 8) };
  expect(asResponded(await respondTo(answer, { timeout_ms: 50 }))).toMatchObject({ cut: true });
});

it.each([0, 1, 3, 6, 9])('settles at once when aborted at event %i', async (event) => {
  const controller = new AbortController();
  let aborted_ms = 0;
  const gate = (at: number): Promise<void> | undefined => {
    if (at !== event) return undefined;
    aborted_ms = performance.now();
    controller.abort();
    return FOREVER;
  };
  const api = await serve(() => ({ raw_sse: fixture('parallel-tools'), gate }));
  const failed = asFailed(await respond(api.base_url, { signal: controller.signal }));
  expect(performance.now() - aborted_ms).toBeLessThan(200);
  expect(failed).toMatchObject({ reason: 'aborted', code: 'aborted' });
  await expect.poll(() => api.closed_by_client).toBe(1);
});

it('keeps nothing when it is aborted, not even a complete call', async () => {
  const controller = new AbortController();
  const answer: Reply = { ...reply(toolUse('bash', {}), text('and more')), gate: (at) => holdAfter(at, 8) };
  const options = { signal: controller.signal, on_text: () => controller.abort() };
  const failed = asFailed(await respondTo(answer, options));
  expect(failed).toMatchObject({ reason: 'aborted', usage: { estimated: true } });
});

it('may take longer than its timeout while it is not silent', async () => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
  const seen = [1, 2, 3, 4, 5].map(() => Promise.withResolvers<void>());
  let pieces = 0;
  const on_text = (): void => {
    vi.advanceTimersByTime(60);
    seen[pieces]?.resolve();
    pieces += 1;
  };
  // Each piece is sent when the one before was read.
  const answer: Reply = {
    content: [text('abcdef')],
    delta_characters: 1,
    gate: (at) => seen[at - 4]?.promise,
  };
  const options = { timeout_ms: 100, on_text };
  const outcome = await respondTo(answer, options).finally(() => vi.useRealTimers());
  expect(asResponded(outcome).content).toEqual([text('abcdef')]);
});

it('sends nothing when it is aborted before it starts', async () => {
  const api = await serve(() => reply(text('hi')));
  const failed = asFailed(await respond(api.base_url, { signal: AbortSignal.abort() }));
  expect(failed.reason).toBe('aborted');
  expect(api.requests).toHaveLength(0);
});

function holdAfter(at: number, event: number): Promise<void> | undefined {
  return at >= event ? FOREVER : undefined;
}
