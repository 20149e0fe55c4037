/** Zip archives as entries. The directory at the end of the archive is what counts, and what it says of sizes is checked while reading. */
import { Readable } from 'node:stream';
import { crc32 } from 'node:zlib';
import {
  fromRandomAccessReaderPromise,
  RandomAccessReader,
  type Entry as ZipEntry,
  type ZipFile,
} from 'yauzl';
import { OverwinterError } from '../resource/error.ts';
import { createWindows, type OpenAt, type Windows } from './windows.ts';
import { contentOf, shown, unusable, type Entry } from './entry.ts';

/** @param size of the archive in bytes. */
export async function* zipEntries(open: OpenAt, size: number): AsyncGenerator<Entry> {
  try {
    const zip = await fromRandomAccessReaderPromise(new Ranges(open), size, { strictFileNames: false });
    let packed_bytes = 0;
    for await (const entry of zip.eachEntry()) {
      packed_bytes += entry.compressedSize;
      if (packed_bytes > size) throw unusable('has entries that share their content');
      if (!entry.canDecodeFileData()) throw unusable('is encrypted, or compressed in an unknown way');
      const found = entryOf(entry);
      const content = contentOf(opened(zip, entry));
      if (found.type !== 'symlink') yield { ...found, content };
      else yield { ...found, target: await textOf(content, entry.uncompressedSize), content: nothing() };
    }
  } catch (error) {
    if (error instanceof OverwinterError) throw error;
    throw unusable(`is no readable zip archive: ${shown(error instanceof Error ? error.message : '')}`);
  }
}

/** Only once it is read: what is open and not read to its end holds the archive's file. */
async function* opened(zip: ZipFile, entry: ZipEntry): AsyncGenerator<Uint8Array> {
  let sum = 0;
  for await (const chunk of await zip.openReadStreamPromise(entry)) {
    sum = crc32(chunk as Buffer, sum);
    yield chunk as Buffer;
  }
  if (sum !== entry.crc32) throw unusable('is damaged: a checksum is wrong');
}

function nothing(): AsyncIterable<Uint8Array> {
  return Readable.from([]);
}

class Ranges extends RandomAccessReader {
  readonly windows: Windows;

  constructor(open: OpenAt) {
    super();
    this.windows = createWindows(open);
  }

  override _readStreamForRange(start: number, end: number): Readable {
    return Readable.from(this.windows.read(start, end), { objectMode: false });
  }
}

const UNIX = 3;
const KIND = 0o170000;
const KINDS: Record<number, Entry['type']> = {
  0o120000: 'symlink',
  0o040000: 'directory',
  0o100000: 'file',
  0: 'file',
};

function entryOf({
  fileName: name,
  versionMadeBy,
  externalFileAttributes,
  uncompressedSize,
}: ZipEntry): Entry {
  // Archives of other systems know no kinds and no modes.
  const mode = versionMadeBy >> 8 === UNIX ? externalFileAttributes >>> 16 : 0;
  const type = name.endsWith('/') ? 'directory' : (KINDS[mode & KIND] ?? 'other');
  return {
    ...{ name, type, target: '', executable: (mode & 0o100) !== 0 },
    ...{ size: type === 'file' ? uncompressedSize : 0, content: nothing() },
  };
}

const TARGET_BYTES_MAX = 4096;

async function textOf(content: AsyncIterable<Uint8Array>, size: number): Promise<string> {
  if (size > TARGET_BYTES_MAX) throw unusable('has a link with an endless target');
  const chunks: Uint8Array[] = [];
  for await (const chunk of content) chunks.push(chunk);
  return Buffer.concat(chunks).toString();
}
