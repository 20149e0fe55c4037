/**
 * What people write into a session never becomes a frame, a field or a line of the event stream: two readers that are not ours, a
 * parser and the client, each give back exactly one event for each message, with the text as it was sent.
 */
import { OpenComputer } from '@opencomputer/sdk';
import { createParser, type EventSourceMessage } from 'eventsource-parser';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { makeSession, startServer, type TestServer } from '../helpers/http.ts';
import { play } from '../helpers/runtime.ts';

const TEXTS = [
  'a\nb',
  'a\rb',
  'a\r\nb',
  '\n\n\n',
  '\r\r',
  'a\u2028b\u2029c\u0085d\u000bx\u000cy',
  'x\n\ndata: {"forged":true}\n\n',
  'x\r\n\r\nid: 99\r\nevent: delta\r\ndata: forged\r\n\r\n',
  'data: x',
  'id: 7\nretry: 1',
  ': a comment\n: ping\n\n',
  'event: delta',
  '\ufeffdata: x',
  '\0 and \u001b[31m',
  'lone \ud800 half',
  '"}\n\ndata: {"a":"',
  '\\n\\ndata: x',
].map((text) => `message ${text}`);

let server: TestServer;
beforeAll(async () => {
  server = await startServer();
});
afterAll(() => server.close());

describe('texts that look like frames', () => {
  it('come back whole, one frame each, replayed and live', async () => {
    const { id } = await makeSession(server);
    const half = Math.floor(TEXTS.length / 2);
    await sayAll(id, TEXTS.slice(0, half));
    const reading = readFrames(id, TEXTS.length + 1);
    const asked = readWithClient(id, TEXTS.length + 1);
    await sayAll(id, TEXTS.slice(half));
    expect((await reading).map(textOf)).toEqual(['hello', ...TEXTS]);
    expect(await asked).toEqual(['hello', ...TEXTS]);
  });

  it('come back whole also when they are random', async () => {
    const pieces = fc.constantFrom(
      '\n',
      '\r',
      '\r\n',
      '\u2028',
      'data:',
      'id:',
      'event:',
      ': ',
      'x',
      ' ',
      '\0',
      '"',
    );
    const texts = fc.array(fc.array(pieces, { minLength: 1, maxLength: 12 }), { minLength: 1, maxLength: 8 });
    await fc.assert(
      fc.asyncProperty(texts, async (drawn) => {
        const said = drawn.map((parts) => `.${parts.join('')}`);
        const { id } = await makeSession(server);
        await sayAll(id, said);
        expect((await readFrames(id, said.length + 1)).map(textOf)).toEqual(['hello', ...said]);
        expect(await readWithClient(id, said.length + 1)).toEqual(['hello', ...said]);
      }),
      { numRuns: 40 },
    );
  });

  it('stay inside their frame as deltas, too', async () => {
    const { id } = await makeSession(server);
    const frames = readFrames(id, TEXTS.length + 1, 'level=progress&deltas=true', () => {
      for (const text of TEXTS) server.runtime.deltas.publish(id, { turn_id: 'trn_1', text });
    });
    const deltas = (await frames).filter(({ event }) => event === 'delta');
    expect(deltas.map(({ data }) => (JSON.parse(data) as { text: string }).text)).toEqual(TEXTS);
    expect(deltas.every(({ id: seq }) => seq === undefined)).toBe(true);
  });

  it('are refused as a place to go on from, and never sent back as a header', async () => {
    const { id } = await makeSession(server);
    for (const text of TEXTS) {
      const where = `GET /v3/sessions/${id}/events?stream=sse&after=${encodeURIComponent(text.toWellFormed())}`;
      const answer = await server.ask(where);
      expect([answer.status, answer.json['error']!['type']]).toEqual([400, 'invalid']);
      expect(answer.headers.get('content-type')).toBe('application/json');
    }
  });
});

async function sayAll(id: string, texts: string[]): Promise<void> {
  for (const text of texts)
    await play(server.runtime, id, { type: 'message', text, actor: { type: 'human' } });
}

function textOf({ data }: EventSourceMessage): unknown {
  return (JSON.parse(data) as { body: { text: string } }).body.text;
}

/** The first `count` frames of the stream, as a browser's rules take its bytes apart. */
async function readFrames(
  id: string,
  count: number,
  query = 'level=user',
  opened: () => void = () => undefined,
): Promise<EventSourceMessage[]> {
  const leaving = new AbortController();
  const response = await fetch(`${server.url}/v3/sessions/${id}/events?stream=sse&${query}`, {
    headers: { authorization: `Bearer ${server.org.key}` },
    signal: leaving.signal,
  });
  const frames: EventSourceMessage[] = [];
  const parser = createParser({ onEvent: (frame) => void frames.push(frame) });
  opened();
  for await (const text of response.body!.pipeThrough(new TextDecoderStream())) {
    parser.feed(text);
    if (frames.length >= count) break;
  }
  leaving.abort();
  return frames;
}

async function readWithClient(id: string, count: number): Promise<string[]> {
  const client = new OpenComputer({ apiKey: server.org.key, baseUrl: `${server.url}/v3` });
  const session = await client.sessions.get(id);
  const leaving = new AbortController();
  const texts: string[] = [];
  for await (const event of session.events({ level: 'user', signal: leaving.signal })) {
    texts.push((event.body as { text: string }).text);
    if (texts.length >= count) break;
  }
  leaving.abort();
  return texts;
}
