/** Streams that break, at every place where they can, and bytes that arrive in other pieces. */
import { readdirSync } from 'node:fs';
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { ModelOutcome } from '../../src/resource/model.ts';
import {
  asFailed,
  asResponded,
  fixture,
  respond,
  respondTo,
  serve,
  usageIn,
} from '../helpers/model/anthropic-calls.ts';
import type { MessagesApi } from '../helpers/model/messages-api.ts';

const FIXTURES = readdirSync(new URL('../../fixtures/anthropic/', import.meta.url)).map((file) =>
  file.replace(/\.sse$/, ''),
);
/** The stall never ends by itself; it has its own test. */
const ENDING = FIXTURES.filter((name) => name !== 'ping-stall');

describe('a broken stream', () => {
  it.each(ENDING)(
    '%s, ended cleanly at every event: only complete blocks, and no more usage than was billed',
    async (name) => {
      const raw_sse = fixture(name);
      const frames = raw_sse.split(/(?<=\n\n)/);
      for (let events = 0; events < frames.length; events += 1) {
        const api = await serve(() => ({ raw_sse, end_after_events: events }));
        const outcome = await respond(api.base_url);
        const expected = completeIn(frames.slice(0, events));
        const keeps = expected.some((block) => block.type === 'tool_use');
        if (keeps)
          expect(asResponded(outcome)).toMatchObject({
            content: expected,
            cut: true,
            stop_reason: 'tool_use',
          });
        else expect(asFailed(outcome)).toMatchObject({ reason: 'transient', code: 'cut_stream' });
        expectBounded(outcome, api);
        await api.close();
      }
    },
  );

  it.each(ENDING)('%s, its connection destroyed at every event: failed, or complete blocks', async (name) => {
    const raw_sse = fixture(name);
    const frames = raw_sse.split(/(?<=\n\n)/);
    for (let events = 0; events < frames.length; events += 1) {
      const api = await serve(() => ({ raw_sse, cut_after_events: events }));
      const outcome = await respond(api.base_url);
      const expected = completeIn(frames.slice(0, events));
      if (outcome.kind === 'responded') {
        expect(outcome).toMatchObject({ cut: true, stop_reason: 'tool_use' });
        expect(outcome.content).toEqual(expected.slice(0, outcome.content.length));
      } else {
        expect(outcome.reason).toBe('transient');
        expect(['cut_stream', 'connection']).toContain(outcome.code);
      }
      expectBounded(outcome, api);
      await api.close();
    }
  });

  it('takes the type of an error event', async () => {
    const failed = asFailed(await respondTo({ raw_sse: fixture('overloaded') }));
    const usage = { input_tokens: 412, output_tokens: 12, estimated: true };
    expect(failed).toMatchObject({
      reason: 'transient',
      code: 'overloaded_error',
      message: 'Overloaded (req_000001)',
      usage,
    });
    const refused = { sse_error_after: { events: 2, type: 'invalid_request_error', message: 'no' } };
    expect(asFailed(await respondTo(refused)).reason).toBe('request');
    const at_once = { sse_error_after: { events: 0, type: 'api_error', message: 'boom' } };
    expect(asFailed(await respondTo(at_once))).toMatchObject({ reason: 'transient', code: 'api_error' });
  });

  it('keeps the calls that were complete when the error event came', async () => {
    const outcome = asResponded(await respondTo({ raw_sse: fixture('overloaded-after-tool') }));
    expect(outcome.content).toMatchObject([{ id: 'toolu_01Kept', input: { command: 'git status' } }]);
    expect(outcome).toMatchObject({ cut: true, stop_reason: 'tool_use', usage: { estimated: true } });
  });

  it('is cut by data that is not JSON', async () => {
    const raw_sse = fixture('text').replace('{"type":"content_block_stop"', '{"type":"content_blo');
    expect(asFailed(await respondTo({ raw_sse })).code).toBe('cut_stream');
  });

  it.each(['message_start', 'message_delta'])('is cut where its %s never came', async (missing) => {
    const frames = fixture('text').split(/(?<=\n\n)/);
    const raw_sse = frames.filter((frame) => !frame.startsWith(`event: ${missing}\n`)).join('');
    expect(asFailed(await respondTo({ raw_sse })).code).toBe('cut_stream');
  });

  it('is cut when the body is no event stream', async () => {
    expect(asFailed(await respondTo({ raw_sse: '<html>Welcome to the proxy</html>' })).code).toBe(
      'cut_stream',
    );
  });
});

describe('the same bytes', () => {
  it.each(ENDING)('%s gives one outcome however they are split, with CRLF too', async (name) => {
    const lf = fixture(name);
    const expected = await respondTo({ raw_sse: lf });
    const crlf = await serve(() => ({ raw_sse: lf.replaceAll('\n', '\r\n') }));
    const plain = await serve(() => ({ raw_sse: lf }));
    const positions = fc.array(fc.nat(lf.length), { maxLength: 40 });
    await fc.assert(
      fc.asyncProperty(positions, fc.boolean(), async (at, uses_crlf) => {
        const api = uses_crlf ? crlf : plain;
        const outcome = await respond(api.base_url, { fetch: splitting(at) });
        expect(withoutId(outcome)).toEqual(withoutId(expected));
      }),
      { numRuns: 15 },
    );
  });

  it('text gives one outcome byte by byte', async () => {
    const every = Array.from({ length: 5000 }, (_, at) => at);
    const outcome = await respondTo({ raw_sse: fixture('text') }, { fetch: splitting(every) });
    expect(asResponded(outcome).content[0]).toMatchObject({ text: expect.stringContaining('größe 日本 🌱') });
  });
});

/** A `fetch` that hands the body on in pieces, cut at these byte positions. */
function splitting(positions: number[]): typeof fetch {
  return async (url, init) => {
    const response = await fetch(url, init);
    const bytes = new Uint8Array(await response.arrayBuffer());
    const cuts = [...new Set([0, ...positions, bytes.length])].filter((at) => at <= bytes.length);
    cuts.sort((a, b) => a - b);
    const body = new ReadableStream<Uint8Array>({
      start(controller) {
        for (const [index, at] of cuts.entries()) controller.enqueue(bytes.slice(at, cuts[index + 1] ?? at));
        controller.close();
      },
    });
    return new Response(body, { status: response.status, headers: response.headers });
  };
}

function withoutId(outcome: ModelOutcome): unknown {
  return outcome.kind === 'failed' ? { ...outcome, message: '' } : outcome;
}

type Frame = {
  type: string;
  index: number;
  content_block: { type: string; [field: string]: unknown };
  delta: Record<string, string>;
};

/** The blocks that these frames complete, worked out the slow way, as an oracle. */
function completeIn(frames: string[]): { type: string; [field: string]: unknown }[] {
  const events = frames.map((frame) => JSON.parse(/^data: (.*)$/m.exec(frame)?.[1] ?? '{}') as Frame);
  const stopped = events.filter((event) => event.type === 'content_block_stop').map((event) => event.index);
  return stopped.flatMap((index) => {
    const start = events.find((event) => event.type === 'content_block_start' && event.index === index);
    const deltas = events.filter((event) => event.type === 'content_block_delta' && event.index === index);
    const join = (field: string): string => deltas.map(({ delta }) => delta[field] ?? '').join('');
    const block = { ...start?.content_block, type: start?.content_block.type ?? '' };
    if (block.type === 'growing_block') return [];
    if (block.type === 'text') return [{ ...block, text: join('text'), ...citationsOf(deltas) }];
    if (block.type === 'thinking')
      return [{ ...block, thinking: join('thinking'), signature: join('signature') }];
    if (join('partial_json') === '') return [block];
    const input = parsed(join('partial_json'));
    return input === undefined ? [] : [{ ...block, input }];
  });
}

function citationsOf(deltas: Frame[]): Record<string, unknown> {
  const citations = deltas.flatMap(({ delta }) =>
    delta['citation'] === undefined ? [] : [delta['citation']],
  );
  return citations.length === 0 ? {} : { citations };
}

function parsed(json: string): unknown {
  try {
    return JSON.parse(json);
  } catch {
    return undefined;
  }
}

/** What we count for a broken stream is marked, and never more than the provider's own bill. */
function expectBounded(outcome: ModelOutcome, api: MessagesApi): void {
  if (outcome.usage === undefined) return;
  const billed = usageIn(api, 0);
  expect(outcome.usage.estimated).toBe(true);
  expect(outcome.usage.input_tokens).toBe(billed['input_tokens']);
  expect(outcome.usage.output_tokens).toBeLessThanOrEqual(billed['output_tokens'] ?? 0);
}
