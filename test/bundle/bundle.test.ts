/**
 * Archives of honest clients and of others (goals S7). What comes out of each is unpacked by the `tar` of computers, beside a sentinel:
 * nothing outside of its folder is written, and no link of it leads there.
 */
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { gzipSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { BOUNDS, canonicalBundle } from '../../src/bundle/bundle.ts';
import type { Bounds } from '../../src/bundle/safe.ts';
import { OverwinterError } from '../../src/resource/error.ts';
import { header, tarOf, zipOf, type Made } from './archives.ts';

let place: string;
beforeAll(() => void (place = fs.mkdtempSync(path.join(os.tmpdir(), 'ow-bundle-'))));
afterAll(() => fs.rmSync(place, { recursive: true, force: true }));

type Outcome = { refused: OverwinterError } | { files: Record<string, string>; left_out: string[] };

async function pass(archive: Uint8Array, bounds: Bounds = BOUNDS): Promise<Outcome> {
  const open = (start: number) => Promise.resolve(one(archive.subarray(start)));
  const chunks: Uint8Array[] = [];
  let left_out: string[] = [];
  try {
    for await (const chunk of canonicalBundle(open, archive.length, (said) => (left_out = said), bounds))
      chunks.push(chunk);
  } catch (error) {
    if (error instanceof OverwinterError) return { refused: error };
    throw error;
  }
  return { files: unpack(Buffer.concat(chunks)), left_out };
}

// eslint-disable-next-line @typescript-eslint/require-await -- a stream of one chunk
async function* one(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes;
}

/** Files by their names, as the `tar` of a computer makes them; links as `-> target`. */
function unpack(bundle: Buffer): Record<string, string> {
  const outer = fs.mkdtempSync(path.join(place, 'x-'));
  const inner = path.join(outer, 'app');
  fs.mkdirSync(inner);
  fs.writeFileSync(path.join(outer, 'sentinel'), 'whole');
  execFileSync('tar', ['-C', inner, '--no-same-owner', '-xmzf', '-'], {
    input: bundle,
    stdio: ['pipe', 'pipe', 'pipe'],
  });
  expect(fs.readdirSync(outer).toSorted()).toEqual(['app', 'sentinel']);
  expect(fs.readFileSync(path.join(outer, 'sentinel'), 'utf8')).toBe('whole');
  const found: Record<string, string> = {};
  for (const whole of walk(inner)) {
    const name = path.relative(inner, whole);
    const stat = fs.lstatSync(whole);
    if (stat.isSymbolicLink()) {
      const target = path.resolve(path.dirname(whole), fs.readlinkSync(whole));
      expect(`${target}/`.startsWith(`${inner}/`), `${name} leads to ${target}`).toBe(true);
      found[name] = `-> ${fs.readlinkSync(whole)}`;
    } else if (stat.isFile()) found[name] = fs.readFileSync(whole, 'utf8');
    else expect(stat.isDirectory()).toBe(true);
  }
  return found;
}

/** Links are not followed. */
function walk(directory: string): string[] {
  return fs.readdirSync(directory, { withFileTypes: true }).flatMap((entry) => {
    const whole = path.join(directory, entry.name);
    return entry.isDirectory() ? [whole, ...walk(whole)] : [whole];
  });
}

const kept: Made[] = [
  { name: 'a', body: 'A' },
  { name: './dir/b.sh', body: 'B', mode: 0o755 },
  { name: 'dir/link', type: '2', target: '../a' },
  { name: 'hard', type: '1', target: './a' },
  { name: `${'long/'.repeat(30)}é`, body: 'far' },
  { name: 'empty/', type: '5' },
];

describe('an honest archive', () => {
  const expected = {
    a: 'A',
    'dir/b.sh': 'B',
    'dir/link': '-> ../a',
    hard: 'A',
    [`${'long/'.repeat(30)}é`]: 'far',
  };
  it.each([
    ['plain', tarOf(kept)],
    ['gzip', gzipSync(tarOf(kept))],
  ])('is kept: tar, %s', async (_, archive) => {
    expect(await pass(archive)).toEqual({ files: expected, left_out: [] });
  });

  it('is kept: zip, with its links and modes', async () => {
    const archive = zipOf([
      { name: 'a', body: 'A' },
      { name: 'dir/', mode: 0o040755 },
      { name: 'dir/b.sh', body: 'B', mode: 0o100755 },
      { name: 'dir/link', body: '../a', mode: 0o120777 },
    ]);
    expect(await pass(archive)).toEqual({
      files: { a: 'A', 'dir/b.sh': 'B', 'dir/link': '-> ../a' },
      left_out: [],
    });
  });

  it('loses links that lead outside, and says so', async () => {
    const archive = tarOf([
      { name: 'a', body: 'A' },
      { name: 'venv/python', type: '2', target: '/usr/bin/python3' },
    ]);
    const { files, left_out } = (await pass(archive)) as { files: object; left_out: string[] };
    expect(files).toEqual({ a: 'A' });
    expect(left_out).toEqual([expect.stringContaining('venv/python')]);
  });

  it('loses links that lead outside by way of others', async () => {
    const archive = tarOf([
      { name: 'here', type: '2', target: '.' },
      { name: 'out', type: '2', target: 'here/here/../../sentinel' },
    ]);
    expect(await pass(archive)).toEqual({
      files: { here: '-> .' },
      left_out: [expect.stringContaining('out')],
    });
  });

  it('loses a hard link to what a link took the place of', async () => {
    const archive = tarOf([
      ...[
        { name: 'a/b/f', body: '.' },
        { name: 'a/b/f', type: '2' as const, target: '../../x' },
      ],
      { name: 'h', type: '1', target: 'a/b/f' },
    ]);
    expect(await pass(archive)).toEqual({
      files: { 'a/b/f': '-> ../../x' },
      left_out: [expect.stringContaining('h:')],
    });
  });

  it('of many small files is read in few pieces', async () => {
    const many = Array.from({ length: 5000 }, (_, index) => ({ name: `d/${index}`, body: `${index}` }));
    const archive = zipOf(many);
    let opened = 0;
    const open = (start: number) => {
      opened += 1;
      return Promise.resolve(one(archive.subarray(start)));
    };
    let bytes = 0;
    for await (const chunk of canonicalBundle(open, archive.length, () => undefined)) bytes += chunk.length;
    expect(bytes).toBeGreaterThan(10_000);
    expect(opened).toBeLessThan(20);
  });

  it('may be empty', async () => {
    expect(await pass(gzipSync(tarOf([])))).toEqual({ files: {}, left_out: [] });
    expect(await pass(zipOf([]))).toEqual({ files: {}, left_out: [] });
  });
});

/** With what is made of them below, more than 300 names and 100 archives. */
const UPS = [
  '../x',
  '../../x',
  'a/../../x',
  'a/b/../../../x',
  './../x',
  'a/./../../x',
  '..',
  '../',
  '../sentinel',
  '....//../x',
];
const ROOTS = ['/x', '//x', '/etc/passwd', '/tmp/x', 'C:/x', 'c:x', 'C:\\x', '/../x', '/', '/.'];
const ODD = [
  'a\0b',
  '\0',
  'x'.repeat(300),
  `${'d/'.repeat(700)}x`,
  'a\nb',
  'a\u001b[31mb',
  '-rf',
  '--checkpoint-action=exec=sh',
  '~/x',
  '$(touch x)',
  'con',
  'a:b',
  'é',
  '\u202eabc',
  '..\\..\\x',
  '\\\\host\\x',
  '%2e%2e/x',
  '.. /x',
  '.../x',
  '. ./x',
];
const NAMES = [...UPS, ...ROOTS, ...ODD].flatMap((name) => [name, `app/${name}`, `${name}/y`]);
const TARGETS = [...UPS, ...ROOTS].flatMap((target) => [target, `${target}/y`]);

describe('names', () => {
  it.each(NAMES)('stay inside, or are refused with a sentence: %j', { timeout: 20_000 }, async (name) => {
    const archives = [
      tarOf([{ name, body: 'evil' }]),
      tarOf([{ name, type: '5' }]),
      zipOf([{ name, body: 'evil' }]),
    ];
    for (const archive of archives) {
      const outcome = await pass(archive);
      if (!('refused' in outcome)) continue;
      expect(outcome.refused).toMatchObject({ code: 'invalid', param: 'code_bundle' });
      expect(outcome.refused.message).not.toMatch(/[\p{Cc}\p{Cf}]/u);
    }
  });

  it('cost little, however deep they are', async () => {
    const deep = (index: number): string => `${index}/${'d/'.repeat(60)}${'x'.repeat(100)}`;
    const many = tarOf(Array.from({ length: 20_000 }, (_, index) => ({ name: deep(index) })));
    const before = process.memoryUsage().heapUsed;
    expect(await pass(many)).toMatchObject({ refused: { code: 'too_large' } });
    expect(process.memoryUsage().heapUsed - before).toBeLessThan(256 * 1024 * 1024);
    expect(await pass(tarOf([{ name: `${'d/'.repeat(100)}x` }]))).toHaveProperty('refused');
  });

  it.each([...UPS, ...ROOTS.filter((name) => !/^[cC]:(x|\\x)$|^\/\.?$/.test(name))])(
    'are refused: %j',
    async (name) => {
      expect(await pass(tarOf([{ name, body: 'evil' }]))).toHaveProperty('refused');
    },
  );

  it.each(TARGETS)('as targets lead nowhere else: %j', { timeout: 20_000 }, async (target) => {
    for (const name of ['link', 'deep/er/link'])
      for (const archive of [
        tarOf([
          { name, type: '2', target },
          { name: `${name}x`, body: 'after' },
        ]),
        tarOf([{ name, type: '1', target }]),
        zipOf([{ name, body: target, mode: 0o120777 }]),
      ])
        await pass(archive);
  });
});

describe('an archive that', () => {
  const refused: [string, Buffer][] = [
    [
      'writes through a link',
      tarOf([
        { name: 'd', type: '2', target: 'e' },
        { name: 'd/x', body: '!' },
      ]),
    ],
    [
      'writes through a chain of links',
      tarOf([
        { name: 'a', type: '2', target: 'b' },
        { name: 'b', type: '2', target: 'c' },
        { name: 'a/x', body: '!' },
      ]),
    ],
    [
      'makes a folder a link',
      tarOf([
        { name: 'd/x', body: '.' },
        { name: 'd', type: '2', target: 'e' },
      ]),
    ],
    [
      'writes through a link in a zip',
      zipOf([
        { name: 'd', body: 'e', mode: 0o120777 },
        { name: 'd/x', body: '!' },
      ]),
    ],
    ['holds a device', tarOf([{ name: 'null', type: '3' }])],
    ['holds a block device', tarOf([{ name: 'sda', type: '4' }])],
    ['holds a pipe', tarOf([{ name: 'pipe', type: '6' }])],
    ['holds a device in a zip', zipOf([{ name: 'null', mode: 0o020666 }])],
    ['holds a socket in a zip', zipOf([{ name: 's', mode: 0o140666 }])],
    ['has a link with an endless target', zipOf([{ name: 'l', body: 'a/'.repeat(5000), mode: 0o120777 }])],
    ['has a wrong sum', zipOf([{ name: 'x', body: 'abc', says_sum: 1 }])],
    ['tells less than it has', zipOf([{ name: 'x', body: 'a'.repeat(100), says_bytes: 1 }])],
    ['tells more than it has', zipOf([{ name: 'x', body: 'a', says_bytes: 1000 }])],
    ['breaks off in a file', tarOf([{ name: 'x', body: 'a'.repeat(5000) }]).subarray(0, 2000)],
    ['breaks off in gzip', gzipSync(tarOf([{ name: 'x', body: 'abc' }])).subarray(0, 40)],
    ['breaks off in zip', zipOf([{ name: 'x', body: 'abc' }]).subarray(0, 60)],
    [
      'has a wrong checksum',
      Buffer.concat([header('x', '0', '', 0).fill('9', 148, 154), Buffer.alloc(1024)]),
    ],
    ['says that it is endless', Buffer.concat([header('x', '0', '', 0o77777777777), Buffer.alloc(1024)])],
    ['is none', Buffer.from('hello')],
    ['is nothing', Buffer.alloc(0)],
    ['is zeros', Buffer.alloc(4096)],
  ];
  it.each(refused)('%s is refused', async (_, archive) => {
    const outcome = await pass(archive);
    expect(outcome).toHaveProperty('refused');
    expect((outcome as { refused: OverwinterError }).refused.param).toBe('code_bundle');
  });

  const small: Bounds = { entries_max: 10, bytes_max: 10_000 };
  const bombs: [string, Buffer][] = [
    ['gzip of zeros', gzipSync(Buffer.alloc(50_000_000))],
    ['a file of zeros in gzip', gzipSync(tarOf([{ name: 'x', body: '\0'.repeat(20_000) }]))],
    ['a file of zeros in zip', zipOf([{ name: 'x', body: '\0'.repeat(20_000) }])],
    [
      'many small files in zip',
      zipOf(Array.from({ length: 20 }, (_, index) => ({ name: `${index}`, body: '\0'.repeat(999) }))),
    ],
    [
      'many entries in tar',
      gzipSync(tarOf(Array.from({ length: 20 }, (_, index) => ({ name: `${index}` })))),
    ],
    ['many entries in zip', zipOf(Array.from({ length: 20 }, (_, index) => ({ name: `${index}` })))],
    [
      'many folders',
      tarOf(Array.from({ length: 20 }, (_, index) => ({ name: `${index}/`, type: '5' as const }))),
    ],
  ];
  it.each(bombs)('is a bomb is refused at the bound: %s', async (_, archive) => {
    const outcome = await pass(archive, small);
    expect(outcome).toHaveProperty('refused');
  });

  it('is a bomb of 10 GB takes no memory', { timeout: 60_000 }, async () => {
    // 10 MiB of zeros in gzip, a thousand times over: members follow each other.
    const member = gzipSync(Buffer.alloc(10 * 1024 * 1024));
    const bomb = Buffer.concat([
      gzipSync(header('x', '0', '', 10 * 1024 ** 3)),
      ...Array<Buffer>(1000).fill(member),
    ]);
    const before = process.memoryUsage().rss;
    expect(await pass(bomb, { entries_max: 100, bytes_max: 64 * 1024 * 1024 })).toMatchObject({
      refused: { code: 'too_large' },
    });
    expect(process.memoryUsage().rss - before).toBeLessThan(200 * 1024 * 1024);
  });
});
