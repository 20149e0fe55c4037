/**
 * Output, capped while it is read: head and tail are kept, the total is counted, and once it outgrows the cap the full text goes to
 * a blob as it comes. Memory is bounded by the cap whatever a command prints.
 */
import { PassThrough } from 'node:stream';
import type { Blobs } from '../resource/blob.ts';
import type { OutputChunk } from '../resource/computer.ts';

export type Captured = {
  /** Standard output and error as they came; the middle left out when it was too long. */
  text: string;
  /** The first characters of standard output. */
  summary: string;
  bytes: number;
  /** The blob with the full text, when `text` is not all of it. */
  content_ref?: string;
};

const SUMMARY_CHARACTERS = 400;
const BLOB_BYTES_MAX = 64 * 1024 * 1024;

/** @param bytes_max how much is kept in memory, half from the start and half from the end. */
export async function capture(
  output: AsyncIterable<OutputChunk>,
  bytes_max: number,
  blobs: Blobs,
  blob_name: string,
): Promise<Captured> {
  const half = Math.floor(bytes_max / 2);
  const kept: Buffer[] = [];
  let kept_bytes = 0;
  let tail: Buffer = Buffer.alloc(0);
  let summary = '';
  let bytes = 0;
  let spill: Spill | undefined;
  for await (const { stream, data } of output) {
    const chunk = Buffer.from(data.buffer, data.byteOffset, data.byteLength);
    if (stream === 'stdout' && summary.length < SUMMARY_CHARACTERS) summary += chunk.toString('utf8');
    bytes += chunk.length;
    if (!spill && bytes <= bytes_max) {
      kept.push(chunk);
      kept_bytes += chunk.length;
      continue;
    }
    spill ??= openSpill(blobs, blob_name, Buffer.concat(kept, kept_bytes));
    await spill.write(chunk);
    tail = Buffer.concat([tail, chunk]).subarray(-half);
  }
  summary = summary.slice(0, SUMMARY_CHARACTERS);
  const all = Buffer.concat(kept, kept_bytes);
  if (!spill) return { text: all.toString('utf8'), summary, bytes };
  await spill.end();
  const end = Buffer.concat([all, tail]).subarray(-half).toString('utf8');
  const left_out = bytes - 2 * half;
  const text = `${all.subarray(0, half).toString('utf8')}\n[… ${left_out} of ${bytes} bytes left out …]\n${end}`;
  return { text, summary, bytes, content_ref: blob_name };
}

type Spill = { write: (chunk: Buffer) => Promise<void>; end: () => Promise<void> };

/** Past the blob's own bound the rest is dropped, so that no command can fill the disk by printing. */
function openSpill(blobs: Blobs, name: string, beginning: Buffer): Spill {
  const through = new PassThrough();
  const stored = blobs.put(name, through);
  // The error surfaces where the blob is awaited.
  stored.catch(() => through.resume());
  let written = 0;
  const write = async (chunk: Buffer): Promise<void> => {
    if (written + chunk.length > BLOB_BYTES_MAX) return;
    written += chunk.length;
    if (!through.write(chunk)) await new Promise((resolve) => through.once('drain', resolve));
  };
  through.write(beginning);
  written = beginning.length;
  return {
    write,
    end: async () => {
      through.end();
      await stored;
    },
  };
}
