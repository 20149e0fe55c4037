import tls from 'node:tls';
import { beforeAll, describe, expect, it } from 'vitest';
import { parseNetworks } from '../../src/net/address.ts';
import type { Poster } from '../../src/net/post.ts';
import type { SendOutcome } from '../../src/resource/delivery.ts';
import { selfSigned } from './certificate.ts';
import { GZIP_BOMB, makePoster, pourInto, receive, receiveRaw } from './receivers.ts';

const NOW = Date.parse('2026-01-02T03:04:05Z');

function post(poster: Poster, url: string, headers: Record<string, string> = {}): Promise<SendOutcome> {
  return poster.post({ tenant: 'org_1', url, headers, body: '{"type":"turn.completed"}' });
}

function responded(status: number, body = '', retry_after_ms: number | null = null): SendOutcome {
  return { kind: 'responded', status, retry_after_ms, body };
}

describe('a response', () => {
  it('carries what was asked: path, query, headers and body go as they were given', async () => {
    const receiver = await receive((response) => response.end('thanks'));
    const poster = makePoster();
    const url = `${receiver.url}/a%20b?x=1&y=ü#part`;
    expect(await post(poster, url, { 'webhook-id': 'msg_1', 'content-type': 'application/json' })).toEqual(
      responded(200, 'thanks'),
    );
    const [received] = receiver.requests;
    expect(received?.url).toBe('/hook/a%20b?x=1&y=%C3%BC');
    expect(received?.body).toBe('{"type":"turn.completed"}');
    expect(received?.headers).toMatchObject({
      ...{ host: `127.0.0.1:${receiver.port}`, 'webhook-id': 'msg_1', 'content-type': 'application/json' },
    });
  });

  it.each([200, 204, 400, 404, 410, 429, 500, 503])('with status %i is a response', async (status) => {
    const receiver = await receive((response) => response.writeHead(status).end());
    expect(await post(makePoster(), receiver.url)).toEqual(responded(status));
  });

  it.each([301, 302, 303, 307, 308])('with status %i is not followed', async (status) => {
    const target = await receive((response) => response.end());
    const receiver = await receive((response) => response.writeHead(status, { location: target.url }).end());
    expect(await post(makePoster(), receiver.url)).toEqual(responded(status));
    expect(target.connections).toBe(0);
  });

  it.each([
    ['120', 120_000],
    ['0', 0],
    ['9'.repeat(20), Number.MAX_SAFE_INTEGER],
    ['Fri, 02 Jan 2026 03:04:15 GMT', 10_000],
    ['Friday, 02-Jan-26 03:05:05 GMT', 60_000],
    ['Fri, 02 Jan 2026 03:04:00 GMT', 0],
    ['-5', null],
    ['soon', null],
    ['', null],
  ])('that says Retry-After: %s means %s ms', async (value, expected_ms) => {
    const receiver = await receive((response) => response.writeHead(429, { 'retry-after': value }).end());
    const poster = makePoster({ now: () => NOW });
    expect(await post(poster, receiver.url)).toEqual(responded(429, '', expected_ms));
  });

  it('is cut after 400 characters, between characters', async () => {
    const receiver = await receive((response) => response.end(`a${'€'.repeat(300)}${'🦔'.repeat(2000)}`));
    const outcome = await post(makePoster(), receiver.url);
    expect(outcome).toEqual(responded(200, `a${'€'.repeat(300)}${'🦔'.repeat(49)}`));
  });

  it('is not unpacked', async () => {
    const receiver = await receive((response) =>
      response.writeHead(200, { 'content-encoding': 'gzip' }).end(GZIP_BOMB),
    );
    const outcome = await post(makePoster(), receiver.url);
    expect(outcome).toMatchObject({ kind: 'responded', status: 200 });
    expect(outcome.kind === 'responded' && outcome.body.length).toBeLessThanOrEqual(400);
  });

  it.each(['huge', 'endless'])('with a body that is %s counts with what was read', async (size) => {
    const length = size === 'huge' ? `content-length: ${2 ** 40}` : 'transfer-encoding: chunked';
    const receiver = await receiveRaw((socket) => {
      socket.write(`HTTP/1.1 200 OK\r\n${length}\r\n\r\n`);
      pourInto(socket, `400\r\n${'x'.repeat(1024)}\r\n`);
    });
    const outcome = await post(makePoster(), receiver.url);
    expect(outcome).toMatchObject({ kind: 'responded', status: 200 });
    expect(outcome.kind === 'responded' && outcome.body.length).toBe(400);
  });

  it('whose body never ends, or breaks off, counts by its status', async () => {
    const head = 'HTTP/1.1 202 Accepted\r\ncontent-length: 10\r\n\r\npart';
    const slow = await receiveRaw((socket) => void socket.write(head));
    const broken = await receiveRaw((socket) => void socket.end(head));
    const poster = makePoster({ response_ms: 200 });
    expect(await post(poster, slow.url)).toEqual(responded(202, 'part'));
    expect(await post(poster, broken.url)).toEqual(responded(202, 'part'));
  });

  it('comes after what only informs', async () => {
    const receiver = await receiveRaw((socket) => {
      socket.end(
        'HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n',
      );
    });
    expect(await post(makePoster(), receiver.url)).toEqual(responded(200));
  });
});

describe('a failure that may pass', () => {
  it('is an answer that does not come in time', async () => {
    const receiver = await receiveRaw(() => {});
    expect(await post(makePoster({ response_ms: 100 }), receiver.url)).toEqual({
      kind: 'failed',
      reason: 'No response within 100 ms.',
    });
  });

  it.each(['endless headers', 'endless informational responses'])('is %s', async (kind) => {
    const line = kind === 'endless headers' ? `x-filler: ${'x'.repeat(1024)}\r\n` : 'HTTP/1.1 103 x\r\n\r\n';
    const receiver = await receiveRaw((socket) => {
      if (kind === 'endless headers') socket.write('HTTP/1.1 200 OK\r\n');
      pourInto(socket, line);
    });
    expect(await post(makePoster({ response_ms: 300 }), receiver.url)).toMatchObject({ kind: 'failed' });
  });

  it.each([
    ['', 'The connection was closed before the response was whole (UND_ERR_SOCKET).'],
    ['SSH-2.0-OpenSSH_9.2\r\n', /^The response is not HTTP \(/],
    ['HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n', /UND_ERR_SOCKET/],
    ['HTTP/1.1 100 Continue\r\n\r\n', /UND_ERR_SOCKET/],
  ])('is a connection that ends after %j', async (text, reason) => {
    const receiver = await receiveRaw((socket) => void socket.end(text));
    const outcome = await post(makePoster(), receiver.url);
    expect(outcome.kind === 'failed' && outcome.reason).toMatch(reason);
  });

  it('is a connection that is reset', async () => {
    const receiver = await receiveRaw((socket) => void socket.resetAndDestroy());
    expect(await post(makePoster(), receiver.url)).toMatchObject({ kind: 'failed' });
  });

  it('is a port where nobody listens', async () => {
    const receiver = await receive((response) => response.end());
    const closed = receiver.url.replace('127.0.0.1', '127.0.0.99');
    expect(await post(makePoster(), closed)).toEqual({
      kind: 'failed',
      reason: 'The connection was refused (ECONNREFUSED).',
    });
  });

  it('is a wait for a free connection that takes too long', async () => {
    const receiver = await receiveRaw(() => {});
    const poster = makePoster({ connections_per_origin_max: 1, connect_ms: 200, response_ms: 3000 });
    const first = post(poster, receiver.url);
    expect(await post(poster, receiver.url)).toEqual({
      kind: 'failed',
      reason: 'No connection within 200 ms.',
    });
    await poster.close();
    expect(await first).toMatchObject({ kind: 'failed' });
    expect(receiver.connections).toBe(1);
  });

  it('is a request that was called off, before or under way', async () => {
    const arrived = Promise.withResolvers<void>();
    const receiver = await receiveRaw(() => arrived.resolve());
    const [request, poster] = [{ tenant: 'org_1', url: receiver.url, headers: {}, body: '' }, makePoster()];
    const calling = new AbortController();
    const under_way = poster.post(request, calling.signal);
    await arrived.promise;
    calling.abort();
    const called_off = { kind: 'failed', reason: 'The request was called off.' };
    expect(await under_way).toEqual(called_off);
    expect(await poster.post(request, calling.signal)).toEqual(called_off);
  });

  it('is a poster that was closed, which ends what is under way', async () => {
    const arrived = Promise.withResolvers<void>();
    const receiver = await receiveRaw(() => arrived.resolve());
    const poster = makePoster();
    const under_way = post(poster, receiver.url);
    await arrived.promise;
    await poster.close();
    const stopping = { kind: 'failed', reason: 'The server is stopping (UND_ERR_DESTROYED).' };
    expect(await under_way).toEqual(stopping);
    expect(await post(poster, receiver.url)).toEqual(stopping);
  });
});

describe('a refusal that stays', () => {
  it.each([
    ['a line break', { 'webhook-id': 'secret\r\nx: y' }],
    ['a NUL', { 'webhook-id': 'secret\0' }],
    ['a character beyond Latin-1', { 'webhook-id': 'secret€' }],
    ['a wrong name', { 'we bhook': 'secret' }],
    ['a header of the connection', { 'Transfer-Encoding': 'secret' }],
    ['an expectation', { expect: '100-continue' }],
    ['another host', { Host: 'secret.example' }],
    ['a false length', { 'content-length': '1' }],
  ])('is a header with %s, whose value is not repeated', async (_, headers) => {
    const receiver = await receive((response) => response.end());
    const outcome = await post(makePoster(), receiver.url, headers);
    expect(outcome.kind).toBe('refused');
    expect(JSON.stringify(outcome)).not.toContain('secret');
    expect(receiver.requests).toEqual([]);
  });

  it('is loopback where no network was opened', async () => {
    const receiver = await receive((response) => response.end());
    const poster = makePoster({ allowed: parseNetworks('') });
    const url = receiver.url.replace('http:', 'https:');
    const reason = '127.0.0.1 leads to an address that may not be sent to (loopback).';
    expect(await post(poster, url)).toEqual({ kind: 'refused', reason });
    expect(await poster.refusal(url, 'org_1')).toEqual({ kind: 'refused', reason });
    expect(receiver.connections).toBe(0);
  });

  it('never repeats path or query', async () => {
    const poster = makePoster({ allowed: parseNetworks('') });
    const urls = [
      'https://10.0.0.1/',
      'ftp://1.1.1.1/',
      'http://1.1.1.1/',
      'https://a:b@1.1.1.1/',
      'https://a b/',
    ];
    for (const url of [...urls, `https://1.1.1.1/${'x'.repeat(2048)}/`]) {
      const outcome = await post(poster, `${url}hidden?hidden#hidden`);
      expect(outcome.kind).toBe('refused');
      expect(JSON.stringify(outcome)).not.toContain('hidden');
      expect((await poster.refusal(`${url}hidden`, 'org_1'))?.reason).not.toContain('hidden');
    }
  });
});

describe('the length of a URL', () => {
  const refused = { kind: 'refused', reason: 'The URL is longer than 2048 characters.' };

  it.each([
    ['written', `https://127.0.0.1/${'x'.repeat(2048)}`],
    ['sent', `https://127.0.0.1/${'ü'.repeat(1000)}`],
  ])('is bounded as it is %s', async (_, url) => {
    const poster = makePoster();
    expect(await poster.refusal(url, 'org_1')).toEqual(refused);
    expect(await post(poster, url)).toEqual(refused);
  });

  it('is enough for one that is sent with 2,048', async () => {
    const url = `https://127.0.0.1/${'ü'.repeat(338)}xx`;
    expect(new URL(url).href.length).toBe(2048);
    expect(await makePoster().refusal(url, 'org_1')).toBeNull();
  });
});

describe('connections', () => {
  it('are used again, so many at most for one origin', async () => {
    const receiver = await receive((response) => response.end('x'.repeat(5000)));
    const poster = makePoster({ connections_per_origin_max: 3 });
    const outcomes = await Promise.all(Array.from({ length: 200 }, () => post(poster, receiver.url)));
    expect(outcomes.filter(({ kind }) => kind !== 'responded')).toEqual([]);
    expect(receiver.requests.length).toBe(200);
    expect(receiver.connections).toBeLessThanOrEqual(3);
  });

  it('are closed some seconds after their last request, whatever the other side proposes', async () => {
    const closed = Promise.withResolvers<void>();
    const receiver = await receiveRaw((socket) => {
      socket.write('HTTP/1.1 204 No Content\r\nkeep-alive: timeout=600\r\n\r\n');
      socket.once('close', () => closed.resolve());
    });
    const sent_ms = performance.now();
    expect(await post(makePoster(), receiver.url)).toEqual(responded(204));
    await closed.promise;
    expect(performance.now() - sent_ms).toBeGreaterThan(1000);
    expect(performance.now() - sent_ms).toBeLessThan(15_000);
  });
});

describe('https', () => {
  const trusted = selfSigned('localhost');
  const stranger = selfSigned('localhost');

  beforeAll(() => {
    const before = tls.getCACertificates('default');
    tls.setDefaultCACertificates([...before, trusted.cert]);
    return () => tls.setDefaultCACertificates(before);
  });

  it('reaches a name whose certificate says so', async () => {
    const receiver = await receive((response) => response.end('private'), trusted);
    const url = `https://localhost:${receiver.port}/`;
    const poster = makePoster();
    expect(await poster.refusal(url, 'org_1')).toBeNull();
    expect(await post(poster, url)).toEqual(responded(200, 'private'));
    expect(receiver.requests[0]?.headers.host).toBe(`localhost:${receiver.port}`);
  });

  it('does not reach another name, the first time or again', async () => {
    // In TLS 1.2 a session could be resumed without its name being looked at.
    const receiver = await receive((response) => response.end(), { ...trusted, maxVersion: 'TLSv1.2' });
    const poster = makePoster();
    const wrong = `https://127.0.0.1:${receiver.port}/`;
    const reason = 'The certificate cannot be trusted (ERR_TLS_CERT_ALTNAME_INVALID).';
    for (const _ of [1, 2, 3]) expect(await post(poster, wrong)).toEqual({ kind: 'failed', reason });
    expect(receiver.requests).toEqual([]);
  });

  it('does not reach a name by a certificate of unknown origin', async () => {
    const receiver = await receive((response) => response.end(), stranger);
    const outcome = await post(makePoster(), `https://localhost:${receiver.port}/`);
    expect(outcome.kind === 'failed' && outcome.reason).toMatch(/^The certificate cannot be trusted \(/);
    expect(receiver.requests).toEqual([]);
  });

  it('does not reach what speaks no TLS', async () => {
    const receiver = await receiveRaw((socket) => void socket.end('HTTP/1.1 200 OK\r\n\r\n'));
    const outcome = await post(makePoster(), receiver.url.replace('http:', 'https:'));
    expect(outcome.kind === 'failed' && outcome.reason).toMatch(/^TLS could not be agreed \(/);
  });

  it('does not wait longer for a handshake than for a connection', async () => {
    const receiver = await receiveRaw(() => {});
    const url = receiver.url.replace('http:', 'https:');
    expect(await post(makePoster({ connect_ms: 150 }), url)).toEqual({
      kind: 'failed',
      reason: 'No connection within 150 ms.',
    });
  });
});
