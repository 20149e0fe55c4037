/** What Node's parser refuses by itself, over raw sockets: our envelope, a closed connection, and no client that keeps one by dawdling. */
import { once } from 'node:events';
import net from 'node:net';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { BOUNDS } from '../../src/http/listener.ts';
import { makeSession, startServer, type Json, type TestServer } from '../helpers/http.ts';

const SLOW_MS = 300;

let server: TestServer;
beforeAll(async () => {
  const bounds = { ...BOUNDS, headers_timeout_ms: SLOW_MS, request_timeout_ms: 2 * SLOW_MS };
  server = await startServer({}, { bounds });
});
afterAll(() => server.close());

function connect(): net.Socket {
  const socket = net.connect(Number(new URL(server.url).port), '127.0.0.1');
  socket.on('error', () => undefined);
  return socket;
}

/** Everything that the server says until it closes the connection. */
async function readAll(socket: net.Socket): Promise<string> {
  let text = '';
  socket.on('data', (chunk: Buffer) => (text += chunk.toString()));
  await once(socket, 'close');
  return text;
}

async function send(text: string): Promise<string> {
  const socket = connect();
  socket.write(text);
  return await readAll(socket);
}

function expectEnvelope(text: string, status: number, type: string): void {
  const [head, body] = text.split('\r\n\r\n') as [string, string];
  const [line, ...lines] = head.split('\r\n');
  const headers = new Map(lines.map((line) => line.toLowerCase().split(': ') as [string, string]));
  expect(line).toMatch(new RegExp(`^HTTP/1.1 ${status} \\w`));
  const { error } = JSON.parse(body) as Json;
  expect(error).toEqual({
    ...{ type, message: expect.any(String) as string },
    request_id: headers.get('x-request-id'),
  });
  expect(headers.get('x-request-id')).toMatch(/^req_[0-9a-f]{24}$/);
  expect(headers.get('content-type')).toBe('application/json');
  expect(headers.get('content-length')).toBe(String(Buffer.byteLength(body)));
  expect(headers.get('connection')).toBe('close');
}

const many = (count: number): string => Array.from({ length: count }, (_, n) => `x-${n}: y\r\n`).join('');
const post = (): string =>
  `POST /v3/agents HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${server.org.key}\r\ncontent-type: application/json\r\n`;

describe('a request for /v1 that is refused before our code sees it', () => {
  it('has the envelope of /v1 where its path was read', async () => {
    const refusals = [
      'GET /v1/computers HTTP/1.1\r\n\r\n',
      `GET //v1/computers HTTP/1.1\r\nhost: x\r\n${many(BOUNDS.headers_max)}\r\n`,
      'POST /v1/computers HTTP/1.1\r\nhost: x\r\nexpect: tea\r\n\r\n',
    ];
    for (const refusal of refusals) {
      const [head, body] = (await send(refusal)).split('\r\n\r\n') as [string, string];
      expect(head).toMatch(/^HTTP\/1.1 4\d\d [^]*x-request-id: req_/i);
      expect(JSON.parse(body)).toEqual({ detail: expect.any(String) as string });
    }
  });
});

describe('a request that is refused before our code sees it has the envelope', () => {
  it.each([
    ['no HTTP at all', (): string => 'nonsense\r\n\r\n', 400, 'invalid'],
    ['a method that there is not', (): string => 'FETCH / HTTP/1.1\r\nhost: x\r\n\r\n', 400, 'invalid'],
    ['a TLS greeting', (): string => '\u0016\u0003\u0001\u0002\u0000\u0001\u0000', 400, 'invalid'],
    ['no host', (): string => 'GET /healthz HTTP/1.1\r\n\r\n', 400, 'invalid'],
    ['two hosts', (): string => 'GET /healthz HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n', 400, 'invalid'],
    [
      'a host that is none',
      (): string => 'GET /healthz HTTP/1.1\r\nhost: a b\r\nconnection: close\r\n\r\n',
      400,
      'invalid',
    ],
    [
      'a header without a name',
      (): string => 'GET /healthz HTTP/1.1\r\nhost: x\r\n: y\r\n\r\n',
      400,
      'invalid',
    ],
    [
      'two lengths',
      (): string => `${post()}content-length: 2\r\ncontent-length: 3\r\n\r\n{}`,
      400,
      'invalid',
    ],
    [
      'a length beside chunks',
      (): string => `${post()}content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n{}`,
      400,
      'invalid',
    ],
    [
      'a chunk size that is none',
      (): string => `${post()}transfer-encoding: chunked\r\n\r\nzz\r\n`,
      400,
      'invalid',
    ],
    [
      'chunk extensions without end',
      (): string => `${post()}transfer-encoding: chunked\r\n\r\n2;${'a'.repeat(20_000)}\r\n{}\r\n0\r\n\r\n`,
      413,
      'too_large',
    ],
    [
      'an expectation',
      (): string => `${post()}expect: miracles\r\ncontent-length: 2\r\n\r\n`,
      417,
      'invalid',
    ],
    [
      'headers above 16 KiB',
      (): string => `GET /healthz HTTP/1.1\r\nhost: x\r\na: ${'b'.repeat(17_000)}\r\n\r\n`,
      431,
      'too_large',
    ],
    [
      'a path above 16 KiB',
      (): string => `GET /${'b'.repeat(17_000)} HTTP/1.1\r\nhost: x\r\n\r\n`,
      431,
      'too_large',
    ],
    [
      'more than 100 headers',
      (): string => `GET /healthz HTTP/1.1\r\nhost: x\r\n${many(100)}\r\n`,
      431,
      'too_large',
    ],
  ] as const)('%s', async (_, request, status, type) => {
    expectEnvelope(await send(request()), status, type);
  });

  it('but 100 headers, 15 KiB and 100-continue are fine', async () => {
    const rest = `connection: close\r\na: ${'b'.repeat(15_000)}\r\n${many(97)}\r\n`;
    expect(await send(`GET /healthz HTTP/1.1\r\nhost: x\r\n${rest}`)).toMatch(/^HTTP\/1.1 200 /);
    const continued = `${post()}expect: 100-continue\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}`;
    expect(await send(continued)).toMatch(/^HTTP\/1.1 100 Continue\r\n\r\nHTTP\/1.1 400 /);
  });
});

describe('a client that sends slowly', () => {
  /** Sends `text` byte by byte until the server closes the connection. */
  async function drip(start: string, rest: string): Promise<string> {
    const socket = connect();
    socket.write(start);
    let sent = 0;
    const dripping = setInterval(() => {
      if (socket.writable) socket.write(rest[sent % rest.length]!);
      sent += 1;
    }, 20);
    const text = await readAll(socket);
    clearInterval(dripping);
    return text;
  }

  it('is dropped while it sends its headers', async () => {
    expectEnvelope(await drip('GET /healthz HTTP/1.1\r\nhost: x\r\n', 'x-slow: y\r\n'), 408, 'timeout');
  });

  it('is dropped while it sends its body', async () => {
    expectEnvelope(await drip(`${post()}content-length: 1000000\r\n\r\n`, ' '), 408, 'timeout');
  });

  it('is dropped when it sends nothing more', async () => {
    expectEnvelope(await send('GET /healthz HTTP/1.1\r\nhost: x\r\n'), 408, 'timeout');
  });
});

describe('an answer that has begun', () => {
  it('is never written into: the connection is cut', async () => {
    const { id } = await makeSession(server);
    const socket = connect();
    const reading = readAll(socket);
    const first = once(socket, 'data');
    socket.write(
      `GET /v3/sessions/${id}/events?stream=sse HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${server.org.key}\r\n\r\n`,
    );
    await first;
    socket.write('nonsense\r\n\r\n');
    const text = await reading;
    expect(text).toMatch(/^HTTP\/1.1 200 /);
    expect(text).not.toContain('HTTP/1.1 400');
  });

  it('is never mistaken for that of the nonsense behind it', async () => {
    const text = await send('GET /healthz HTTP/1.1\r\nhost: x\r\n\r\nnonsense\r\n\r\n');
    expect(text).not.toContain('HTTP/1.1 400');
  });

  it('and ended leaves the next request of its connection an envelope', async () => {
    const socket = connect();
    const first = once(socket, 'data');
    socket.write('GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n');
    expect(String((await first)[0])).toMatch(/^HTTP\/1.1 200 /);
    const second = readAll(socket);
    socket.write('nonsense\r\n\r\n');
    expectEnvelope(await second, 400, 'invalid');
  });
});
