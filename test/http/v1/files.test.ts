/** Files of a computer over `/v1`, in the real sandbox: whole or not at all, of any size, and never a file of the host. */
import { execFileSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import fs from 'node:fs';
import http from 'node:http';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startComputerServer } from '../../helpers/computers.ts';
import { fieldOf, type Answer, type Json, type TestServer } from '../../helpers/http.ts';
import { recordedFetch } from '../../helpers/records.ts';
import { eventually } from '../../helpers/world.ts';
import { makeDriver, makeGround, removeGround } from '../../sandbox/grounds.ts';

const ground = makeGround();
const driver = makeDriver(ground);
let server: TestServer;
let id: string;

beforeAll(async () => {
  server = await startComputerServer({ driver, drivers: new Map([[driver.name, driver]]) });
  const made = await server.ask('POST /v1/computers', { body: { network_policy: { mode: 'off' } } });
  id = made.json['id']!;
});
afterAll(async () => {
  await driver.close();
  await server.close();
  removeGround(ground);
});

async function exec(command: string): Promise<string> {
  return (await server.ask(`POST /v1/computers/${id}/exec`, { body: { command } })).json['stdout']!;
}

function url(route: string, file: string, more = ''): string {
  return `${server.url}/v1/computers/${id}/${route}?path=${encodeURIComponent(file)}${more}`;
}

const headers = (): Record<string, string> => ({ authorization: `Bearer ${server.org.key}` });

async function put(
  file: string,
  body: string | Uint8Array,
  more = '',
  route = 'files',
): Promise<{ status: number; json: Json }> {
  const answer = await recordedFetch(url(route, file, more), {
    method: 'PUT',
    headers: headers(),
    body: Buffer.from(body),
  });
  return { status: answer.status, json: (await answer.json()) as Json };
}

async function get(
  file: string,
  route = 'files',
): Promise<{ status: number; bytes: Buffer; headers: Headers }> {
  const answer = await recordedFetch(url(route, file), { headers: headers() });
  return { status: answer.status, bytes: Buffer.from(await answer.arrayBuffer()), headers: answer.headers };
}

function ask(what: string, file: string, body?: object): Promise<Answer> {
  const [method = '', route = ''] = what.split(' ');
  const query = body ? '' : `?path=${encodeURIComponent(file)}`;
  return server.ask(`${method} /v1/computers/${id}/${route}${query}`, body ? { body } : {});
}

describe('a file', () => {
  it('is written, read, listed and removed', async () => {
    const written = await put('deep/er/notes.txt', 'héllo', '&mode=640');
    expect(written).toMatchObject({
      status: 200,
      json: {
        name: 'notes.txt',
        path: '/home/agent/deep/er/notes.txt',
        type: 'file',
        size_bytes: 6,
        mode: '640',
      },
    });
    expect(await exec('cat deep/er/notes.txt')).toBe('héllo');
    const read = await get('/home/agent/deep/er/notes.txt');
    expect([read.bytes.toString(), read.headers.get('content-length')]).toEqual(['héllo', '6']);
    const { json } = await ask('GET files/list', 'deep');
    expect(json).toMatchObject({
      count: 1,
      files: [{ name: 'er', type: 'directory', path: '/home/agent/deep/er' }],
    });
    const made = await ask('POST files/mkdir', '', { path: 'deep/est/of/all' });
    expect(made.json).toMatchObject({ type: 'directory', path: '/home/agent/deep/est/of/all' });
    expect((await ask('DELETE files', 'deep')).json).toEqual({ path: '/home/agent/deep', deleted: true });
    expect((await ask('GET files/list', 'deep')).status).toBe(404);
  });

  it('may be empty, may have an odd name, and keeps every byte', async () => {
    const bytes = randomBytes(3_000_000);
    const name = "odd 'name' \n\t$(touch x)/—ü.bin";
    expect((await put(name, bytes)).status).toBe(200);
    expect((await get(name)).bytes.equals(bytes)).toBe(true);
    expect((await put('empty', '')).json['size_bytes']).toBe(0);
    expect((await get('empty')).bytes.length).toBe(0);
    const list = await ask('GET files/list', path.dirname(name));
    expect(fieldOf(list.json['files']! as unknown as Json[], 'name')).toEqual(['—ü.bin']);
    expect(await exec('ls x 2>/dev/null')).toBe('');
  });

  it('of 200 MB streams both ways', { timeout: 120_000 }, async () => {
    const block = randomBytes(1_000_000);
    const sent = createHash('sha256');
    const body = new ReadableStream<Uint8Array>({
      pull(controller) {
        sent.update(block);
        controller.enqueue(block);
        left -= 1;
        if (left === 0) controller.close();
      },
    });
    let left = 200;
    const answer = await fetch(url('files', 'large'), {
      ...{ method: 'PUT', headers: headers(), body, duplex: 'half' },
    });
    expect(await answer.json()).toMatchObject({ size_bytes: 200_000_000 });
    const got = createHash('sha256');
    const read = await fetch(url('files', 'large'), { headers: headers() });
    for await (const chunk of read.body!) got.update(chunk as Uint8Array);
    expect(got.digest('hex')).toBe(sent.digest('hex'));
    await ask('DELETE files', 'large');
  });

  it('that says of itself that it is empty, or grows while it is read, never runs over into another answer', async () => {
    const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
    const ask = (file: string): Promise<string> =>
      new Promise((resolve) => {
        const chunks: Buffer[] = [];
        const done = (): void => resolve(Buffer.concat(chunks).toString('latin1'));
        const request = http.get(url('files', file), { agent, headers: headers() }, (response) => {
          response.on('data', (chunk: Buffer) => chunks.push(chunk)).once('close', done);
        });
        request.once('error', done);
      });
    expect(await ask('/proc/version')).toContain('Linux version');
    await exec(
      "(while :; do printf 'HTTP/1.1 200 OK\\r\\n\\r\\nforged'; done >growing) >/dev/null 2>&1 & echo $! >grower",
    );
    const answers = await Promise.all(Array.from({ length: 5 }, () => ask('growing')));
    await exec('kill $(cat grower); rm growing; echo -n mine > own');
    expect(await ask('own')).toBe('mine');
    expect(answers.every((answer) => answer === '' || answer.startsWith('HTTP/1.1 200 OK'))).toBe(true);
    agent.destroy();
  });

  it('that did not come whole leaves what was there before', async () => {
    await put('kept', 'before');
    const request = http.request(url('files', 'kept'), {
      method: 'PUT',
      headers: { ...headers(), 'content-length': '1000000' },
    });
    request.on('error', () => undefined);
    request.write('half of it');
    await eventually(async () => (await exec('ls -A | grep -c upload')) === '1\n');
    request.destroy();
    await eventually(async () => (await exec('ls -A | grep -c upload')) === '0\n');
    expect((await get('kept')).bytes.toString()).toBe('before');
  });

  it.each([
    ['nothing there', 'GET files', 'missing', 404],
    ['a directory', 'GET files', '/home/agent', 409],
    ['a file as a directory', 'GET files/list', '/etc/passwd', 409],
    ['nothing to remove', 'DELETE files', 'missing', 404],
    ['no path', 'GET files', '', 422],
    ['what may not be written', 'DELETE files', '/usr/bin/env', 409],
  ])('is refused where there is %s', async (_, what, file, status) => {
    const answer = await ask(what, file);
    expect([answer.status, typeof answer.json['detail']]).toEqual([status, 'string']);
  });

  it('is refused where a directory is in the way, and where the system is read-only', async () => {
    expect((await put('/home/agent', 'x')).status).toBe(409);
    expect((await put('/usr/bin/evil', 'x')).status).toBe(409);
    expect((await put('x', 'x', '&mode=rwx')).status).toBe(422);
    expect((await ask('POST files/mkdir', '', { path: '/etc/passwd/x' })).status).toBe(409);
  });
});

describe('a link', () => {
  it('leads nowhere that the computer could not go itself', async () => {
    const secret = path.join(os.tmpdir(), `secret-${randomBytes(6).toString('hex')}`);
    fs.writeFileSync(secret, 'of the host', { mode: 0o644 });
    try {
      await exec(`ln -sfn ${secret} to-secret; ln -sfn / root; ln -sfn /proc/1/root out`);
      for (const file of ['to-secret', `root${secret}`, `out${secret}`, `out/../..${secret}`]) {
        expect((await get(file)).bytes.toString()).not.toContain('of the host');
        await put(file, 'overwritten');
      }
      expect(fs.readFileSync(secret, 'utf8')).toBe('of the host');
    } finally {
      fs.rmSync(secret);
    }
  });

  it('that changes all the time does not lead a write astray', async () => {
    const marker = path.join(os.tmpdir(), `marker-${randomBytes(6).toString('hex')}`);
    fs.mkdirSync(marker);
    try {
      await exec(
        `mkdir -p real; (while :; do ln -sfn ${marker} swap; ln -sfn real swap; done) >/dev/null 2>&1 & echo $! > racer`,
      );
      for (let round = 0; round < 50; round += 1) await put('swap/file', `round ${round}`);
      await exec('kill $(cat racer)');
      expect(fs.readdirSync(marker)).toEqual([]);
    } finally {
      fs.rmSync(marker, { recursive: true });
    }
  });
});

describe('a directory', () => {
  it('goes out and comes in as tar', async () => {
    await exec('mkdir -p src/sub && echo one > src/a && echo two > src/sub/b && chmod 700 src/sub/b');
    const { bytes, headers: sent } = await get('src', 'archive');
    expect(sent.get('content-type')).toBe('application/x-tar');
    expect((await put('copy', bytes, '', 'archive')).status).toBe(200);
    expect(await exec('diff -r src copy && stat -c %a copy/sub/b')).toBe('700\n');
    const gzipped = execFileSync('gzip', ['-c'], { input: bytes });
    expect((await put('again', gzipped, '', 'archive')).status).toBe(200);
    expect(await exec('diff -r src again && ls -A again')).toBe('a\nsub\n');
  });

  it('is refused for what is no archive', async () => {
    expect((await put('broken', 'this is no tar', '', 'archive')).status).toBe(409);
  });
});
