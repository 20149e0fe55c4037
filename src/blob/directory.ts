/**
 * Blobs as files below one directory.
 * Invariant: a blob is there whole or not at all, also after a power failure: a name appears only by the rename of a
 * file that is on disk.
 */

import { randomBytes } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { mkdir, open, readdir, rename, rm, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { Blobs } from '../resource/blob.ts';

export type DirectoryBlobsOptions = { fail: (failpoint: string) => void | Promise<void> };

const NAME_BYTES_MAX = 512;

/** Where blobs are written before they have their names. */
const PARTS = '.parts';
/** A part that grows no more for so long has no writer, on whatever node. */
const PART_MS_MAX = 3_600_000;

/** @throws RangeError from every method for a name that is not one or more `[a-z0-9_.-]+` joined by `/`. */
export function directoryBlobs(dir: string, { fail }: DirectoryBlobsOptions): Blobs {
  return {
    async put(name, content) {
      const path = pathOf(dir, name);
      await makeDirectories(dirname(path));
      await fail('blob.directory_made');
      const part = join(dir, PARTS, randomBytes(12).toString('hex'));
      await mkdir(dirname(part), { recursive: true, mode: 0o700 });
      try {
        const bytes = await writeDurably(part, content);
        await fail('blob.written');
        await rename(part, path);
        await fail('blob.renamed');
        await syncDirectory(dirname(path));
        await fail('blob.synced');
        return bytes;
      } catch (error) {
        await rm(part, { force: true });
        throw error;
      }
    },

    async get(name, start = 0) {
      const path = pathOf(dir, name);
      const found = await stat(path).catch(orMissing);
      if (found === undefined || !found.isFile()) return undefined;
      // Opened when it is first read, so that an answer that nobody reads holds no descriptor.
      return readFrom(path, start);
    },

    async delete(name) {
      const path = pathOf(dir, name);
      await rm(path).catch(orMissing);
      await fail('blob.removed');
      await syncDirectory(dirname(path)).catch(orMissing);
      await fail('blob.removal_synced');
    },

    async deleteAll(prefix) {
      const path = pathOf(dir, prefix);
      await rm(path, { recursive: true, force: true });
      await fail('blob.all_removed');
      await syncDirectory(dirname(path)).catch(orMissing);
    },
  };
}

/**
 * Removes what writers that died have left behind. @param now ms since the epoch.
 * @param alone whether nobody else can be writing here.
 */
export async function sweepParts(dir: string, now: number, alone: boolean): Promise<void> {
  const parts = join(dir, PARTS);
  for (const name of await readdir(parts).catch(() => [])) {
    const part = join(parts, name);
    const { mtimeMs } = await stat(part).catch(() => ({ mtimeMs: now }));
    if (alone || now - mtimeMs > PART_MS_MAX) await rm(part, { force: true });
  }
}

/** No step of a name may begin with a dot: that excludes `..` and the folder of parts in progress. */
function pathOf(dir: string, name: string): string {
  const valid =
    name.length <= NAME_BYTES_MAX && /^[a-z0-9_-][a-z0-9_.-]*(\/[a-z0-9_-][a-z0-9_.-]*)*$/.test(name);
  if (!valid) throw new RangeError(`not a blob's name: ${JSON.stringify(name.slice(0, NAME_BYTES_MAX))}`);
  return join(dir, ...name.split('/'));
}

async function* readFrom(path: string, start: number): AsyncGenerator<Uint8Array, void> {
  for await (const chunk of createReadStream(path, { start })) yield chunk as Uint8Array;
}

async function writeDurably(path: string, content: AsyncIterable<Uint8Array>): Promise<number> {
  const file = await open(path, 'wx', 0o600);
  try {
    let bytes = 0;
    for await (const chunk of content) {
      await file.writeFile(chunk);
      bytes += chunk.length;
    }
    await file.sync();
    return bytes;
  } finally {
    await file.close();
  }
}

/** A new directory is durable only when its parent is synced too. */
async function makeDirectories(wanted: string): Promise<void> {
  const first = await mkdir(wanted, { recursive: true, mode: 0o700 });
  if (first === undefined) return;
  for (let made = wanted; made.length >= first.length; made = dirname(made))
    await syncDirectory(dirname(made));
}

async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path, 'r');
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}

function orMissing(error: NodeJS.ErrnoException): undefined {
  if (error.code === 'ENOENT' || error.code === 'ENOTDIR') return undefined;
  throw error;
}
