import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { uidSlots } from '../../../src/sandbox/bwrap/uids.ts';

let directory: string;
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'ow-uids-'));
});
afterEach(() => rm(directory, { recursive: true, force: true }));

test('an owner keeps its uid, also for another process', async () => {
  const uid = await uidSlots(directory, 1_000_000).claim('a/cmp_1');
  expect(uid).toBe(1_065_536);
  expect(await uidSlots(directory, 1_000_000).claim('a/cmp_1')).toBe(uid);
});

test('no two owners of any installation share a uid, though they ask at once', async () => {
  const processes = Array.from({ length: 4 }, () => uidSlots(directory, 1_000_000));
  const asked = processes.flatMap((slots, each) =>
    Array.from({ length: 25 }, (_, index) => slots.claim(`installation${each}/cmp_${index}`)),
  );
  expect(new Set(await Promise.all(asked)).size).toBe(100);
});

test('a released uid is used again, and release is idempotent', async () => {
  const slots = uidSlots(directory, 1_000_000);
  const first = await slots.claim('a/cmp_1');
  await slots.claim('a/cmp_2');
  await slots.release('a/cmp_1');
  await slots.release('a/cmp_1');
  expect(await slots.claim('a/cmp_3')).toBe(first);
  expect((await slots.owners()).sort()).toEqual(['a/cmp_2', 'a/cmp_3']);
});

test('a claim leaves nothing but its slot', async () => {
  await uidSlots(directory, 0).claim('a/cmp_1');
  expect(await readdir(directory)).toEqual(['0']);
});
