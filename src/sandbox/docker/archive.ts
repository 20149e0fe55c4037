/**
 * A computer's files as one compressed stream, and back: all of its root file system, through the daemon.
 * Invariant: this process opens none of the files and unpacks nothing; the daemon does, below the container's own root.
 *
 * The whole of it, because only so a file of the base image that was deleted stays deleted whatever the storage is, and
 * because the snapshot can be restored where the base image is another, or gone.
 */

import { Readable, Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { constants, createZstdCompress, createZstdDecompress } from 'node:zlib';
import type { Container, Daemon } from './daemon.ts';

const COMPRESSION_LEVEL = 3;
/** Headers make an archive larger than the files. */
const ARCHIVE_SLACK = 2;
const ARCHIVE_SLACK_BYTES = 67_108_864;
const PROGRESS_BYTES_MAX = 65_536;
const BLOCK_BYTES = 512;

/** The archive, made as it is read; reading it rejects when the daemon did not send all of it. */
export async function* archive(container: Container): AsyncGenerator<Uint8Array, void> {
  const files = (await container.export()) as Readable;
  const compress = createZstdCompress({ params: { [constants.ZSTD_c_compressionLevel]: COMPRESSION_LEVEL } });
  const copied = pipeline(files, whole(), compress);
  copied.catch(() => {});
  try {
    for await (const chunk of compress) yield chunk as Uint8Array;
    await copied;
  } finally {
    files.destroy();
  }
}

/** The daemon ends a broken archive as it ends a whole one, but for the two empty blocks. */
function whole(): Transform {
  let tail = Buffer.alloc(0);
  return new Transform({
    transform(chunk: Buffer, _encoding, done) {
      tail = Buffer.from(Buffer.concat([tail, chunk]).subarray(-2 * BLOCK_BYTES));
      done(null, chunk);
    },
    flush(done) {
      const ends_well = tail.length === 2 * BLOCK_BYTES && tail.every((byte) => byte === 0);
      done(ends_well ? null : new Error('the daemon broke off its export'));
    },
  });
}

export type Restoring = { labels: Record<string, string>; disk_bytes: number; base_bytes: number };

/** Makes an image of it, without a name, and returns its id. Rejects when there is more than the disk may hold. */
export async function unarchive(
  daemon: Daemon,
  content: AsyncIterable<Uint8Array>,
  { labels, disk_bytes, base_bytes }: Restoring,
): Promise<string> {
  const bound = bounded((disk_bytes + base_bytes) * ARCHIVE_SLACK + ARCHIVE_SLACK_BYTES);
  const copied = pipeline(Readable.from(content), createZstdDecompress(), bound);
  const labelled = Object.entries(labels).map(([key, value]) => `${key}=${value}`);
  try {
    // Whatever fails first fails both: the daemon's request is cut off with the stream.
    const [image] = await Promise.all([imported(daemon, bound, `LABEL ${labelled.join(' ')}`), copied]);
    return image;
  } finally {
    bound.destroy();
  }
}

async function imported(daemon: Daemon, tar: Transform, changes: string): Promise<string> {
  const answer = (await daemon.importImage(tar, { changes })) as Readable;
  let text = '';
  for await (const chunk of answer) text = (text + String(chunk)).slice(-PROGRESS_BYTES_MAX);
  const id = /"status":"(sha256:[0-9a-f]{64})"/.exec(text)?.[1];
  if (id === undefined) throw new Error(`the snapshot could not be restored: ${text.trim().slice(-500)}`);
  return id;
}

function bounded(bytes_max: number): Transform {
  let bytes = 0;
  return new Transform({
    transform(chunk: Buffer, _encoding, done) {
      bytes += chunk.length;
      if (bytes > bytes_max) done(new Error(`the snapshot holds more than ${bytes_max} bytes`));
      else done(null, chunk);
    },
  });
}
