import { chmod, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { directoryBlobs } from '../../src/blob/directory.ts';

let dir: string;
const passed: string[] = [];
const blobs = (): ReturnType<typeof directoryBlobs> =>
  directoryBlobs(dir, { fail: (name) => void passed.push(name) });

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'ow-blobs-'));
});
afterAll(() => rm(dir, { recursive: true, force: true }));

async function* chunks(...texts: string[]): AsyncGenerator<Uint8Array> {
  for (const text of texts) yield Buffer.from(text);
}

async function* failing(): AsyncGenerator<Uint8Array> {
  yield Buffer.from('half');
  throw new Error('source gone');
}

async function* large(): AsyncGenerator<Uint8Array> {
  for (let i = 0; i < 64; i += 1) yield Buffer.alloc(1_048_576, i);
}

async function text(content: AsyncIterable<Uint8Array> | undefined): Promise<string | undefined> {
  if (content === undefined) return undefined;
  const parts: Uint8Array[] = [];
  for await (const chunk of content) parts.push(chunk);
  return Buffer.concat(parts).toString();
}

test('a blob comes back whole, and from any byte on', async () => {
  expect(await blobs().put('computers/cmp_1/2.tar.zst', chunks('hello ', 'world'))).toBe(11);
  expect(await text(await blobs().get('computers/cmp_1/2.tar.zst'))).toBe('hello world');
  expect(await text(await blobs().get('computers/cmp_1/2.tar.zst', 6))).toBe('world');
  expect(await text(await blobs().get('computers/cmp_1/2.tar.zst', 99))).toBe('');
});

test('an empty blob is a blob; a missing one is undefined', async () => {
  expect(await blobs().put('empty', chunks())).toBe(0);
  expect(await text(await blobs().get('empty'))).toBe('');
  expect(await blobs().get('missing')).toBeUndefined();
  expect(await blobs().get('computers')).toBeUndefined();
  expect(await blobs().get('empty/below')).toBeUndefined();
});

test('a put replaces, a delete is idempotent', async () => {
  await blobs().put('name', chunks('one'));
  await blobs().put('name', chunks('two'));
  expect(await text(await blobs().get('name'))).toBe('two');
  await blobs().delete('name');
  await blobs().delete('name');
  expect(await blobs().get('name')).toBeUndefined();
});

test('a source that fails leaves what was there and no part', async () => {
  await blobs().put('kept/name', chunks('before'));
  await expect(blobs().put('kept/name', failing())).rejects.toThrow('source gone');
  expect(await text(await blobs().get('kept/name'))).toBe('before');
  expect(await readdir(join(dir, 'kept'))).toEqual(['name']);
});

test.each([
  '',
  '/',
  '/etc/passwd',
  '../x',
  'a/../b',
  'a//b',
  'a/',
  '.hidden',
  'a/.part',
  'A',
  'a b',
  'a\0b',
  'ä',
])('the name %j is refused', async (name) => {
  await expect(blobs().put(name, chunks('x'))).rejects.toThrow(RangeError);
  await expect(blobs().get(name)).rejects.toThrow(RangeError);
  await expect(blobs().delete(name)).rejects.toThrow(RangeError);
});

test('every effect is followed by its failpoint', async () => {
  passed.length = 0;
  await blobs().put('points', chunks('x'));
  await blobs().delete('points');
  expect(passed).toEqual([
    'blob.directory_made',
    'blob.written',
    'blob.renamed',
    'blob.synced',
    'blob.removed',
    'blob.removal_synced',
  ]);
});

test('a crash before the rename leaves the old blob', async () => {
  await blobs().put('crash', chunks('old'));
  const crashing = directoryBlobs(dir, {
    fail: (name) => {
      if (name === 'blob.written') throw new Error('crash');
    },
  });
  await expect(crashing.put('crash', chunks('new'))).rejects.toThrow('crash');
  expect(await text(await blobs().get('crash'))).toBe('old');
});

test('a large blob is streamed', async () => {
  expect(await blobs().put('large', large())).toBe(64 * 1_048_576);
  let bytes = 0;
  for await (const chunk of (await blobs().get('large', 1_048_576)) ?? []) bytes += chunk.length;
  expect(bytes).toBe(63 * 1_048_576);
});

test('a directory that cannot be written rejects', async () => {
  const file = join(dir, 'plain');
  await writeFile(file, '');
  await chmod(file, 0o600);
  await expect(directoryBlobs(file, { fail: () => {} }).put('x', chunks('y'))).rejects.toThrow();
});
