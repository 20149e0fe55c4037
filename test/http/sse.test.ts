/** Event streams: history and live joined, readers that leave, stall or must go (contract §9.6). */
import { once } from 'node:events';
import type { ServerResponse } from 'node:http';
import net from 'node:net';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { digest } from '../../src/secret/key.ts';
import { insertClientToken } from '../../src/store/client-tokens.ts';
import { makeSession, startServer, type TestServer } from '../helpers/http.ts';
import { play, playTurn } from '../helpers/runtime.ts';
import { openStream, seqs, type Stream } from '../helpers/stream.ts';

const STALL_MS = 700;

let server: TestServer;
beforeAll(async () => {
  server = await startServer({}, { keepalive_ms: 30, stall_ms: STALL_MS });
});
afterAll(() => server.close());

const open = (id: string, query = '', headers: Record<string, string> = {}): Promise<Stream> =>
  openStream(`${server.url}/v3/sessions/${id}/events?stream=sse&${query}`, {
    authorization: `Bearer ${server.org.key}`,
    ...headers,
  });

const say = (id: string, text: string) =>
  play(server.runtime, id, { type: 'message', text, actor: { type: 'human' } });

describe('a stream', () => {
  it('replays and goes on live, in frames of exactly one shape', async () => {
    const { id } = await makeSession(server);
    const stream = await open(id, 'level=user', { origin: 'https://app.example' });
    expect(stream.headers.get('content-type')).toBe('text/event-stream');
    expect(stream.headers.get('cache-control')).toBe('no-cache');
    expect(stream.headers.get('access-control-allow-origin')).toBe('https://app.example');
    expect(stream.headers.get('x-request-id')).toMatch(/^req_/);
    await stream.until((frames) => seqs(frames).includes(2));
    await say(id, 'line\nbreak \u2028');
    await stream.until((frames) => seqs(frames).includes(3));
    const events = stream.frames.filter((frame) => frame.id !== undefined);
    const page = (await server.ask(`GET /v3/sessions/${id}/events?level=user`)).text;
    const bodies = events.map((frame) => /^id: \d+\ndata: ([^\n]*)$/.exec(frame.text)?.[1]);
    expect(page).toBe(`{"data":[${bodies.join(',')}],"next_cursor":null}`);
    stream.close();
  });

  it('shows its level and type only, also live', async () => {
    const { id } = await makeSession(server);
    const user = await open(id, 'level=user');
    const turns = await open(id, 'type=turn.*');
    await playTurn(server.runtime, id, 'done');
    await user.until((frames) => frames.some(({ data }) => data?.['type'] === 'turn.completed'));
    await turns.until((frames) => frames.some(({ data }) => data?.['type'] === 'turn.completed'));
    const types = (stream: Stream) =>
      stream.frames.filter(({ id }) => id !== undefined).map(({ data }) => data['type']);
    expect(types(user)).toEqual(['user.message', 'agent.message', 'turn.completed']);
    expect(types(turns)).toEqual(['turn.started', 'turn.completed']);
    user.close();
    turns.close();
  });

  it('goes on from the larger of after and Last-Event-ID', async () => {
    const { id } = await makeSession(server);
    await Promise.all(['a', 'b', 'c', 'd'].map((text) => say(id, text)));
    for (const [after, last] of [
      ['5', '3'],
      ['3', '5'],
      ['0', '5'],
    ] as const) {
      const stream = await open(id, `after=${after}`, { 'last-event-id': last });
      expect(seqs(await stream.until((frames) => seqs(frames).length > 0))).toEqual([6]);
      stream.close();
    }
  });

  it.each([
    ['after=x', undefined, 'after'],
    ['after=4', undefined, 'after'],
    ['', 'x', 'Last-Event-ID'],
    ['', '99', 'Last-Event-ID'],
  ])('is refused from %s %s', async (query, last, param) => {
    const { id } = await makeSession(server);
    const headers: Record<string, string> = last === undefined ? {} : { 'last-event-id': last };
    const answer = await server.ask(`GET /v3/sessions/${id}/events?stream=sse&${query}`, { headers });
    expect([answer.status, answer.json['error']!['param']]).toEqual([400, param]);
  });

  it('stays open on an archived session and pings', async () => {
    const { id } = await makeSession(server);
    await server.ask(`POST /v3/sessions/${id}/archive`);
    const stream = await open(id);
    await stream.until((frames) => frames.filter(({ text }) => text === ': ping').length > 2);
    expect(seqs(stream.frames)).toEqual([2]);
    stream.close();
  });

  it('opens with a client token in the query and ends when the token expires', async () => {
    const { id } = await makeSession(server);
    const token = `owct_${'d'.repeat(43)}`;
    const row = { id: server.runtime.newId('client_token'), session_id: id, digest: digest(token), ttl_s: 1 };
    const fields = { ...row, scopes: ['read' as const], minted_by: null };
    await insertClientToken(server.runtime.database.db, server.org.id, fields);
    const stream = await openStream(`${server.url}/v3/sessions/${id}/events?stream=sse&token=${token}`, {});
    await stream.ended();
    expect(seqs(stream.frames)).toEqual([2]);
  });

  it('carries deltas when asked, without ids', async () => {
    const { id } = await makeSession(server);
    const asked = await open(id, 'deltas=true');
    const plain = await open(id);
    server.runtime.deltas.publish(id, { turn_id: 'trn_1', text: 'Hel\nlo' });
    await asked.until((frames) => frames.some(({ event }) => event === 'delta'));
    const delta = asked.frames.find(({ event }) => event === 'delta')!;
    expect(delta.text).toBe('event: delta\ndata: {"turn_id":"trn_1","text":"Hel\\nlo"}');
    await say(id, 'x');
    await plain.until((frames) => seqs(frames).includes(3));
    expect(plain.frames.filter(({ event }) => event === 'delta')).toEqual([]);
    asked.close();
    plain.close();
  });

  it('answers a HEAD without opening', async () => {
    const { id } = await makeSession(server);
    expect((await server.ask(`HEAD /v3/sessions/${id}/events?stream=sse`)).status).toBe(200);
  });

  it('ends cleanly when the server stops', async () => {
    const own = await startServer();
    const { id } = await makeSession(own);
    const stream = await openStream(`${own.url}/v3/sessions/${id}/events?stream=sse`, {
      authorization: `Bearer ${own.org.key}`,
    });
    await stream.until((frames) => seqs(frames).length > 0);
    own.stopping.abort();
    await stream.ended();
    await own.close();
  });
});

describe('history and live', () => {
  it('join without gap or duplicate, wherever readers come, leave and come back', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.record({ after: fc.nat(30), take: fc.integer({ min: 1, max: 12 }) }), {
          minLength: 1,
          maxLength: 4,
        }),
        fc.array(fc.integer({ min: 1, max: 8 }), { minLength: 1, maxLength: 8 }),
        async (readers, bursts) => {
          const { id } = await makeSession(server);
          const total = 2 + bursts.reduce((sum, burst) => sum + burst, 0);
          const writing = (async () => {
            for (const burst of bursts)
              await Promise.all(Array.from({ length: burst }, (_, n) => say(id, `${n}`)));
          })();
          const read = readers.map((reader) =>
            readInPieces(id, Math.min(reader.after, 2), reader.take, total),
          );
          const [, ...seen] = await Promise.all([writing, ...read]);
          for (const [index, got] of seen.entries()) {
            const first = Math.max(2, Math.min(readers[index]!.after, 2) + 1);
            expect(got).toEqual(Array.from({ length: total - first + 1 }, (_, n) => first + n));
          }
        },
      ),
      { numRuns: 25 },
    );
  });

  async function readInPieces(id: string, after: number, take: number, total: number): Promise<number[]> {
    const seen: number[] = [];
    let cursor = after;
    while (cursor < total) {
      const stream = await open(id, `after=${after}`, { 'last-event-id': String(cursor) });
      await stream.until((frames) => seqs(frames).length >= take || seqs(frames).includes(total));
      stream.close();
      const got = seqs(stream.frames).slice(0, take);
      seen.push(...got);
      cursor = got.at(-1)!;
    }
    return seen;
  }
});

describe('a reader that does not read', () => {
  it('costs a bounded buffer and is dropped, while others are served', async () => {
    const { id } = await makeSession(server);
    const { response, socket } = await openStalled(id);
    const dropped = once(response, 'close');
    const reader = await open(id);
    const served = reader.until((frames) => seqs(frames).length === 201);
    let buffered_bytes = 0;
    for (let count = 0; count < 200; count += 1) {
      await say(id, 'x'.repeat(30_000));
      buffered_bytes = Math.max(buffered_bytes, response.writableLength);
    }
    await served;
    await dropped;
    expect(response.writableFinished).toBe(false);
    expect(buffered_bytes).toBeGreaterThan(0);
    expect(buffered_bytes).toBeLessThan(200_000);
    socket.destroy();
    reader.close();
  });

  it('does not hold up a server that stops', async () => {
    const own = await startServer();
    const { id } = await makeSession(own, { input: 'x'.repeat(900_000) });
    const { response, socket } = await openStalled(id, own);
    for (let index = 0; index < 100; index += 1) {
      await play(own.runtime, id, { type: 'message', text: 'x'.repeat(32_000), actor: { type: 'human' } });
    }
    const closed = once(response, 'close');
    own.stopping.abort();
    await closed;
    socket.destroy();
    await own.close();
  });

  /** Asks for a stream and reads nothing of it. */
  async function openStalled(
    id: string,
    at = server,
  ): Promise<{ response: ServerResponse; socket: net.Socket }> {
    const responded = once(at.http, 'request') as Promise<[unknown, ServerResponse]>;
    const socket = net.connect(Number(new URL(at.url).port), '127.0.0.1').pause();
    socket.on('error', () => undefined);
    socket.write(
      `GET /v3/sessions/${id}/events?stream=sse HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${at.org.key}\r\n\r\n`,
    );
    return { response: (await responded)[1], socket };
  }
});
