/** An uploaded archive, tar (compressed with gzip or not) or zip, as the one form that computers unpack: a gzipped tar of safe entries. */
import { pipeline, Readable, type Transform } from 'node:stream';
import { createGunzip, createGzip, constants } from 'node:zlib';
import { createTarPacker } from 'modern-tar';
import { OverwinterError } from '../resource/error.ts';
import { FIELD, unusable, type Entry } from './entry.ts';
import { safeEntries, type Bounds, type SafeEntry } from './safe.ts';
import { tarEntries } from './tar.ts';
import type { OpenAt } from './windows.ts';
import { zipEntries } from './zip.ts';

/** For a folder of a program with all that it depends on. */
export const BOUNDS: Bounds = { entries_max: 100_000, bytes_max: 1024 ** 3 };

const MAGIC_BYTES = 512;

/**
 * @param open the upload. @param size of it in bytes.
 * @returns what is to be kept; it throws while it is read. Its last act is to call `leftOut` with a sentence for each entry that was left out.
 * @throws OverwinterError `invalid`, `too_large`
 */
export async function* canonicalBundle(
  open: OpenAt,
  size: number,
  leftOut: (sentences: string[]) => void,
  bounds: Bounds = BOUNDS,
): AsyncGenerator<Uint8Array> {
  const sentences: string[] = [];
  const entries = await entriesOf(open, size, bounds);
  const safe = safeEntries(entries, bounds, (sentence) => void sentences.push(sentence));
  yield* through(packed(safe), createGzip({ level: constants.Z_BEST_SPEED }));
  leftOut(sentences);
}

async function entriesOf(open: OpenAt, size: number, bounds: Bounds): Promise<AsyncIterable<Entry>> {
  const magic = await firstBytes(await open(0), MAGIC_BYTES);
  if (magic[0] === 0x1f && magic[1] === 0x8b) return tarEntries(bounded(gunzipped(await open(0)), bounds));
  if (magic.subarray(0, 2).toString() === 'PK') return zipEntries(open, size);
  if (magic.subarray(257, 262).toString() === 'ustar') return tarEntries(await open(0));
  throw unusable('must be an archive: tar.gz, tar or zip');
}

async function firstBytes(bytes: AsyncIterable<Uint8Array>, wanted: number): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  let count = 0;
  for await (const chunk of bytes) {
    chunks.push(chunk);
    count += chunk.length;
    if (count >= wanted) break;
  }
  return Buffer.concat(chunks);
}

async function* gunzipped(bytes: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  try {
    yield* through(bytes, createGunzip());
  } catch {
    throw unusable('breaks off, or is damaged');
  }
}

/** What breaks on either side is thrown to the reader, once. */
function through(bytes: AsyncIterable<Uint8Array>, change: Transform): AsyncIterable<Uint8Array> {
  pipeline(Readable.from(bytes, { objectMode: false }), change, () => undefined);
  return change;
}

/** An archive is its content and a header of about 1 KiB for each entry; what is far over is a bomb of headers. */
const HEADER_BYTES = 2048;

async function* bounded(bytes: AsyncIterable<Uint8Array>, bounds: Bounds): AsyncGenerator<Uint8Array> {
  let left = bounds.bytes_max + bounds.entries_max * HEADER_BYTES;
  for await (const chunk of bytes) {
    left -= chunk.length;
    if (left < 0)
      throw new OverwinterError(
        'too_large',
        `the bundle unpacks to more than ${bounds.bytes_max} bytes`,
        FIELD,
      );
    yield chunk;
  }
}

async function* packed(entries: AsyncIterable<SafeEntry>): AsyncGenerator<Uint8Array> {
  const { readable, controller } = createTarPacker();
  const filling = fill(entries, controller).catch((error: unknown) => controller.error(error));
  yield* readable as unknown as AsyncIterable<Uint8Array>;
  await filling;
}

async function fill(
  entries: AsyncIterable<SafeEntry>,
  controller: ReturnType<typeof createTarPacker>['controller'],
): Promise<void> {
  for await (const { name, type, target, executable, size, content } of entries) {
    const mode = executable || type === 'directory' ? 0o755 : 0o644;
    const writer = controller
      .add({
        name: type === 'directory' ? `${name}/` : name,
        type,
        linkname: target,
        size,
        mode,
        mtime: EPOCH,
      })
      .getWriter();
    if (type === 'file') for await (const chunk of content) await writer.write(chunk);
    await writer.close();
  }
  controller.finalize();
}

/** The same archive is the same bundle; files are as old as their unpacking. */
const EPOCH = new Date(0);
