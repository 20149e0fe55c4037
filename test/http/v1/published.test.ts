/** Programs in computers under names of their own: real HTTP to a real server inside, whole, unbuffered, and apart from the API. */
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import http, { type IncomingMessage, type RequestOptions, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { WebSocket, WebSocketServer, type RawData } from 'ws';
import { createListener } from '../../../src/http/listener.ts';
import {
  createPublishedPorts,
  portUrl,
  type PublishedOptions,
} from '../../../src/http/published/published.ts';
import { changeKeeping } from '../../../src/store/computer/keeping.ts';
import { startComputerServer } from '../../helpers/computers.ts';
import type { TestServer } from '../../helpers/http.ts';
import { eventually } from '../../helpers/world.ts';

const TEMPLATE = 'https://*.apps.example.com:8443';

let server: TestServer;
let front: Server;
let stopping: AbortController;
let inside: Server;
let computer: string;
let host: string;
/** What the program has seen. */
let seen: IncomingMessage[] = [];
let cut = 0;

/** Computers of this driver share the loopback of the machine, so the program may be the test's own. */
beforeAll(async () => {
  server = await startComputerServer();
  inside = http.createServer(program);
  const sockets = new WebSocketServer({ noServer: true });
  inside.on('upgrade', (request: IncomingMessage, socket, head) => {
    seen.push(request);
    if (request.url === '/refused') socket.end('HTTP/1.1 418 No\r\nContent-Length: 3\r\n\r\nno\n');
    else sockets.handleUpgrade(request, socket, head, serveSocket);
  });
  await once(inside.listen(0, '127.0.0.1'), 'listening');
  computer = (await server.ask('POST /v1/computers', { body: {} })).json['id']!;
  host = await publish(portOf(inside));
  stopping = new AbortController();
  front = await listen({ signal: stopping.signal });
});
afterAll(async () => {
  stopping.abort();
  for (const each of [front, inside]) {
    each.closeAllConnections();
    each.close();
  }
  await server.close();
});

function serveSocket(socket: WebSocket): void {
  socket.on('message', (data: RawData, binary) => socket.send(data, { binary }));
  socket.on('close', () => (cut += 1));
}

function program(request: IncomingMessage, response: http.ServerResponse): void {
  seen.push(request);
  response.on('close', () => (cut += response.writableFinished ? 0 : 1));
  switch (request.url?.split('?')[0]) {
    case '/digest': {
      const hash = createHash('sha1');
      request.on('data', (chunk: Buffer) => hash.update(chunk));
      request.on('end', () => response.end(hash.digest('hex')));
      break;
    }
    case '/big':
      response.end(BIG);
      break;
    case '/events':
      response.writeHead(200, { 'content-type': 'text/event-stream' });
      response.write('data: one\n\n');
      break;
    case '/none':
      response.writeHead(204, { 'x-none': 'yes' }).end();
      break;
    case '/same':
      response.writeHead(304, { etag: '"x"' }).end();
      break;
    case '/silent':
      break;
    case '/broken':
      response.writeHead(200, { 'content-length': '100' });
      response.write('half');
      setImmediate(() => request.socket.destroy());
      break;
    case '/early':
      response.writeHead(413, { connection: 'close' }).end('too much');
      break;
    default:
      response.setHeader('set-cookie', ['a=1', 'b=2']);
      response.setHeader('content-length', '5');
      response.end('hello');
  }
}

const BIG = randomBytes(20 * 2 ** 20);
const sha1 = (bytes: Buffer): string => createHash('sha1').update(bytes).digest('hex');

function portOf(listening: Server): number {
  return (listening.address() as AddressInfo).port;
}

async function publish(port: number): Promise<string> {
  const published = await server.ask(`POST /v1/computers/${computer}/published-ports`, { body: { port } });
  expect(published.status).toBe(200);
  return new URL(portUrl(TEMPLATE, published.json['id']!)).host;
}

async function listen(options: Partial<PublishedOptions>): Promise<Server> {
  const { signal } = new AbortController();
  const ports = createPublishedPorts(server.runtime, server.computers, {
    ...{ url: () => TEMPLATE, auto_resume: false, signal },
    ...options,
  });
  const app = { fetch: () => Promise.resolve(new Response('the API')) };
  const listening = createListener(app, server.runtime.newId, undefined, ports);
  await once(listening.listen(0, '127.0.0.1'), 'listening');
  return listening;
}

type Visit = Omit<RequestOptions, 'headers'> & {
  headers?: Record<string, string | string[]>;
  body?: Buffer;
  at?: Server;
  to?: string;
};

function begin(path: string, { at = front, to = host, ...options }: Visit = {}): http.ClientRequest {
  const { headers, ...rest } = options;
  return http.request({
    ...{ host: '127.0.0.1', port: portOf(at), path, agent: false },
    ...{ ...rest, headers: { host: to, ...headers } },
  });
}

async function visit(path: string, options: Visit = {}): Promise<IncomingMessage & { bytes: Buffer }> {
  const request = begin(path, options);
  request.end(options.body);
  const [response] = (await once(request, 'response')) as [IncomingMessage];
  const chunks: Buffer[] = [];
  for await (const chunk of response) chunks.push(chunk as Buffer);
  return Object.assign(response, { bytes: Buffer.concat(chunks) });
}

const last = (): IncomingMessage => seen.at(-1)!;

describe('the URL of a published port', () => {
  it('has the id for the star of the setting', () => {
    expect(portUrl('http://*.localhost:4680', 'cpp_0123456789abcdef01234567')).toBe(
      'http://p-0123456789abcdef01234567.localhost:4680',
    );
    expect(host).toMatch(/^p-[0-9a-f]{24}\.apps\.example\.com:8443$/);
  });
});

describe('a visitor', () => {
  it('reaches the program as it would directly, its own credentials included', async () => {
    const headers = {
      ...{ authorization: 'Bearer of-the-app', cookie: 'c=3', connection: 'x-once', 'x-once': 'gone' },
      ...{ 'x-forwarded-for': '6.6.6.6', forwarded: 'for=6.6.6.6', 'x-kept': 'yes' },
    };
    const response = await visit('/v3/agents?a=1&b=%20', { headers });
    expect(response.statusCode).toBe(200);
    expect(response.bytes.toString()).toBe('hello');
    expect(response.headers['set-cookie']).toEqual(['a=1', 'b=2']);
    expect(last()).toMatchObject({ method: 'GET', url: '/v3/agents?a=1&b=%20' });
    expect(last().headers).toMatchObject({
      ...{ host, authorization: 'Bearer of-the-app', cookie: 'c=3', 'x-kept': 'yes' },
      ...{ 'x-forwarded-for': '127.0.0.1', 'x-forwarded-host': host, 'x-forwarded-proto': 'https' },
    });
    for (const name of ['x-once', 'forwarded']) expect(last().headers[name]).toBeUndefined();
  });

  it.each(['GET', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS', 'PROPFIND'])(
    'may ask by %s',
    async (method) => {
      const response = await visit('/', { method });
      expect(response.bytes.toString()).toBe('hello');
      expect(last().method).toBe(method);
    },
  );

  it('bears the token of the ports in any header, and the program sees it in none', async () => {
    const { json } = await server.ask(`POST /api/sandboxes/${computer}/preview/rotate`);
    const token = json['previewAuthToken']!;
    expect((await visit('/')).statusCode).toBe(401);
    expect((await visit('/', { headers: { 'x-copy': token } })).statusCode).toBe(401);
    const bearer = `Bearer ${token}`;
    for (const headers of [
      { authorization: bearer, 'x-kept': 'yes' },
      { 'x-oc-preview-token': token, authorization: 'Bearer of-the-app', 'x-kept': 'yes' },
      { authorization: bearer, 'x-oc-preview-token': [token, token], 'x-copy': token, 'x-kept': 'yes' },
    ]) {
      expect((await visit('/', { headers })).statusCode).toBe(200);
      expect(last().rawHeaders.join('\n')).not.toContain(token);
      expect(last().headers['x-kept']).toBe('yes');
    }
    await changeKeeping(server.runtime.database.db, server.org.id, computer, { preview_digest: null });
    expect((await visit('/')).statusCode).toBe(200);
  });

  it('gets answers that have no body as such', async () => {
    const head = await visit('/', { method: 'HEAD' });
    expect([head.statusCode, head.headers['content-length'], head.bytes.length]).toEqual([200, '5', 0]);
    const none = await visit('/none');
    expect([none.statusCode, none.headers['x-none'], none.bytes.length]).toEqual([204, 'yes', 0]);
    expect((await visit('/same')).statusCode).toBe(304);
  });

  it('uploads and downloads much', async () => {
    const { bytes } = await visit('/big');
    expect(sha1(bytes)).toBe(sha1(BIG));
    const headers = { 'content-length': String(BIG.length) };
    const sized = await visit('/digest', { method: 'POST', body: BIG, headers });
    expect(sized.bytes.toString()).toBe(sha1(BIG));
    const chunked = { 'transfer-encoding': 'chunked' };
    const piped = await visit('/digest', { method: 'PUT', body: BIG, headers: chunked });
    expect(piped.bytes.toString()).toBe(sha1(BIG));
  });

  it('gets events as they happen, and its leaving ends the answer inside', async () => {
    const request = begin('/events');
    request.end();
    const [response] = (await once(request, 'response')) as [IncomingMessage];
    const [first] = (await once(response, 'data')) as [Buffer];
    expect(first.toString()).toBe('data: one\n\n');
    const before = cut;
    request.destroy();
    await eventually(() => Promise.resolve(cut > before));
  });

  it('may use one connection for several requests', async () => {
    const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
    for (const path of ['/', '/none', '/']) expect((await visit(path, { agent })).complete).toBe(true);
    agent.destroy();
  });

  it('speaks WebSocket with the program', async () => {
    const socket = new WebSocket(`ws://127.0.0.1:${portOf(front)}/echo?x=1`, { headers: { host } });
    await once(socket, 'open');
    expect(last().url).toBe('/echo?x=1');
    for (const message of ['hello', 'x'.repeat(300_000)]) {
      socket.send(message);
      const [echo] = (await once(socket, 'message')) as [Buffer];
      expect(echo.toString()).toBe(message);
    }
    const before = cut;
    socket.close(1000);
    const [code] = (await once(socket, 'close')) as [number];
    expect(code).toBe(1000);
    await eventually(() => Promise.resolve(cut > before));
    const refused = new WebSocket(`ws://127.0.0.1:${portOf(front)}/refused`, { headers: { host } });
    refused.on('error', () => undefined);
    const [, response] = (await once(refused, 'unexpected-response')) as [never, IncomingMessage];
    expect(response.statusCode).toBe(418);
    refused.terminate();
  });

  it('sees that an answer has broken off', async () => {
    await expect(visit('/broken')).rejects.toThrow('aborted');
  });

  it('gets an answer that came before its request was read', async () => {
    const request = begin('/early', { method: 'POST', headers: { 'content-length': '50000000' } });
    request.on('error', () => undefined);
    request.write(Buffer.alloc(100_000));
    const [response] = (await once(request, 'response')) as [IncomingMessage];
    expect(response.statusCode).toBe(413);
    request.destroy();
  });
});

describe('where no program answers', () => {
  const said = async (path: string, options: Visit = {}): Promise<[number | undefined, string]> => {
    const { statusCode, headers, bytes } = await visit(path, options);
    expect(headers['content-type']).toBe('text/plain; charset=utf-8');
    return [statusCode, bytes.toString().trim()];
  };

  it('says that nothing is published, for any name of that form; other names are the API', async () => {
    const names = ['p-000000000000000000000000', 'p-', 'p-x', `P-${'F'.repeat(24)}`];
    for (const label of names) {
      const [status] = await said('/v3/agents', { to: `${label}.apps.example.com` });
      expect(status).toBe(404);
    }
    expect((await said('/', { to: 'p-x.apps.example.com.:99' }))[0]).toBe(404);
    for (const to of ['apps.example.com', 'x.apps.example.com', 'p-x.example.com', 'p-x.y.apps.example.com'])
      expect((await visit('/', { to })).bytes.toString()).toBe('the API');
  });

  it('says that nothing listens', async () => {
    const closed = http.createServer();
    await once(closed.listen(0, '127.0.0.1'), 'listening');
    const to = await publish(portOf(closed));
    closed.close();
    expect(await said('/', { to })).toEqual([502, 'Nothing listens on this port of the computer.']);
  });

  it('says that the answer takes too long', async () => {
    const at = await listen({ first_byte_ms: 200 });
    expect(await said('/silent', { at })).toEqual([
      504,
      'The program in the computer did not answer in time.',
    ]);
    at.close();
  });

  it('bounds the visits of a computer', async () => {
    const at = await listen({ visits_max: 1 });
    const request = begin('/events', { at });
    request.end();
    await once(request, 'response');
    expect(await said('/', { at })).toEqual([503, 'Too many visitors at once; try again.']);
    request.destroy();
    await eventually(async () => (await visit('/', { at })).statusCode === 200);
    at.closeAllConnections();
    at.close();
  });

  it('says that the computer does not run, or starts it, as the server is set', async () => {
    await server.ask(`POST /v1/computers/${computer}/stop`);
    expect(await said('/')).toEqual([409, 'The computer does not run.']);
    const at = await listen({ auto_resume: true });
    expect((await visit('/', { at })).bytes.toString()).toBe('hello');
    at.close();
    await server.ask(`DELETE /v1/computers/${computer}/published-ports/${portOf(inside)}`);
    expect((await said('/'))[0]).toBe(404);
    host = await publish(portOf(inside));
  });

  it('ends open visits when the server stops', async () => {
    const stop = new AbortController();
    const at = await listen({ signal: stop.signal });
    const request = begin('/events', { at });
    request.end();
    const [response] = (await once(request, 'response')) as [IncomingMessage];
    const socket = new WebSocket(`ws://127.0.0.1:${portOf(at)}/`, { headers: { host } });
    await once(socket, 'open');
    // `once` of events takes the error that comes before the close for its own.
    const ended = Promise.all(
      [socket, response].map((end) => {
        end.on('error', () => undefined);
        return new Promise((resolve) => end.once('close', resolve));
      }),
    );
    stop.abort();
    await ended;
    at.close();
    await once(at, 'close');
  });
});
