/** What fuzzing has found, one case each, so that it is found again at once. */
import { once } from 'node:events';
import type { ServerResponse } from 'node:http';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { submit } from '../../src/engine/submit.ts';
import { completeBlocks, emptyAnswer, foldEvent } from '../../src/model/anthropic-stream.ts';
import { sessionKind } from '../../src/store/kind.ts';
import { createLog } from '../../src/store/log.ts';
import { connectTo, type Answer } from '../helpers/fuzz/connection.ts';
import { makeSession, startServer, type TestServer } from '../helpers/http.ts';

const entries: string[] = [];
let server: TestServer;
beforeAll(async () => {
  const error = (_: object, message: string): void => void entries.push(message);
  server = await startServer({ logger: { debug: () => undefined, warn: () => undefined, error } });
});
afterAll(() => server.close());

/** One request as it is written here; the answer's status, error type, and its two request ids. */
async function raw(request: string): Promise<[number, unknown, unknown, unknown]> {
  const connection = connectTo(Number(new URL(server.url).port));
  const method = request.slice(0, request.indexOf(' '));
  const sending = { bytes: Buffer.from(request), method, whole: false, patience_ms: 5000 };
  const { status, headers, body } = (await connection.send(sending)) as Answer;
  connection.close();
  const { error } = JSON.parse(body.toString()) as { error: { type: string; request_id: string } };
  return [status, error.type, error.request_id, headers.get('x-request-id')];
}

const head = (line: string): string =>
  `${line} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${server.org.key}\r\n`;

describe('a request', () => {
  it.each(['toString', 'constructor', '__proto__', 'hasOwnProperty'])(
    'for the asset %s of the reference is not found',
    async (name) => {
      expect((await server.ask(`GET /reference/${name}`)).status).toBe(404);
    },
  );

  it.each([
    'GET /v3/destinations/%00',
    'DELETE /v3/destinations/x%00',
    'GET /v3/agents/%00/destinations',
    'GET /v3/agents/%00/destinations/toString',
    'GET /v3/sessions/SESSION/destinations/%00',
    'GET /v3/sessions/SESSION/deliveries/%00',
    'POST /v3/sessions/SESSION/deliveries/%00/redeliver',
  ])('for the id NUL is not found: %s', async (what) => {
    const { id } = await makeSession(server);
    expect((await server.ask(what.replace('SESSION', id))).status).toBe(404);
  });

  it('for a tunnel is refused in our envelope', async () => {
    expect((await raw(`${head('CONNECT 127.0.0.1:1')}\r\n`)).slice(0, 2)).toEqual([404, 'not_found']);
  });

  it('to an address with a user in it is refused', async () => {
    expect((await raw(`${head('GET http://user:pw@127.0.0.1/healthz')}\r\n`)).slice(0, 2)).toEqual([
      400,
      'invalid',
    ]);
  });

  it('for a path that looks like a pattern bears one id', async () => {
    const [status, , in_body, in_header] = await raw(`${head('GET /*')}\r\n`);
    expect([status, in_header]).toEqual([404, in_body]);
  });

  it('that breaks off in its body is no failure of the server', async () => {
    const connection = connectTo(Number(new URL(server.url).port));
    const request = `${head('POST /v3/agents')}Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"name":`;
    const sending = { bytes: Buffer.from(request), method: 'POST', whole: false, patience_ms: 100 };
    const asked = once(server.http, 'request') as Promise<[unknown, ServerResponse]>;
    expect(await connection.send(sending)).toBe('silent');
    const [, response] = await asked;
    const closed = once(response, 'close');
    connection.close();
    await closed;
    expect((await server.ask('GET /healthz')).status).toBe(200);
    expect(entries).toEqual([]);
  });
});

describe('a cancel', () => {
  it('reaches a turn that another node has begun since this one last looked', async () => {
    const { runtime } = server;
    const { id } = await makeSession(server);
    const { database, rules, now, fail } = runtime;
    const other = createLog(sessionKind(rules), { database, now, fail, held_streams_max: 10 });
    await submit({ ...runtime, log: other }, id, { type: 'begin', node: runtime.node });
    const { written } = await submit(runtime, id, { type: 'cancel' });
    expect(written.map(({ type }) => type)).toEqual(['cancel.requested']);
  });
});

describe('a block of an answer', () => {
  it.each([
    { type: 'tool_use', name: 'bash', input: {} },
    { type: 'tool_use', id: '', name: 'bash', input: {} },
    { type: 'tool_use', id: 'toolu_1', name: 7, input: {} },
    { type: 'text', text: null },
    { type: 'redacted_thinking' },
  ])('that could never be sent back is dropped: %j', (content_block) => {
    const answer = emptyAnswer();
    foldEvent(answer, { type: 'content_block_start', index: 0, content_block });
    foldEvent(answer, { type: 'content_block_stop', index: 0 });
    expect(completeBlocks(answer)).toEqual([]);
  });
});
