/**
 * Output, capped while it is read: head and tail are kept, the total is counted, and once it outgrows the cap the full text goes to
 * a blob as it comes. Memory is bounded by the cap whatever a command prints.
 */
import { PassThrough } from 'node:stream';
import type { Blobs } from '../resource/blob.ts';
import type { OutputChunk } from '../resource/computer/driver.ts';

export type Captured = {
  /** Standard output and error as they came; the middle left out when it was too long. */
  text: string;
  /** The first characters of standard output, or of standard error when that is all there is. */
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
  const head: Buffer[] = [];
  let head_bytes = 0;
  let tail: Buffer = Buffer.alloc(0);
  const said = { stdout: '', stderr: '' };
  let bytes = 0;
  let spill: Spill | undefined;
  for await (const { stream, data } of output) {
    const chunk = Buffer.from(data.buffer, data.byteOffset, data.byteLength);
    if (said[stream].length < SUMMARY_CHARACTERS) said[stream] += chunk.toString('utf8');
    bytes += chunk.length;
    const room = bytes_max - head_bytes;
    if (bytes > bytes_max) spill ??= openSpill(blobs, blob_name, Buffer.concat(head));
    await spill?.write(chunk);
    if (room > 0) head.push(chunk.subarray(0, room));
    head_bytes += Math.min(room, chunk.length);
    if (chunk.length > room) tail = Buffer.concat([tail, chunk.subarray(room)]).subarray(-bytes_max);
  }
  const summary = (said.stdout || said.stderr).slice(0, SUMMARY_CHARACTERS);
  const kept = Buffer.concat([...head, tail]);
  if (!spill) return { text: kept.toString('utf8'), summary, bytes };
  const text = withoutMiddle(kept, bytes, bytes_max);
  return (await spill.end()) ? { text, summary, bytes, content_ref: blob_name } : { text, summary, bytes };
}

/** The first and the last half of the cap, and what is missing between them. */
function withoutMiddle(kept: Buffer, bytes: number, bytes_max: number): string {
  const half = Math.floor(bytes_max / 2);
  const [start, end] = [kept.subarray(0, half), kept.subarray(-half)].map((part) => part.toString('utf8'));
  return `${start}\n[… ${bytes - 2 * half} of ${bytes} bytes left out …]\n${end}`;
}

/** `end` tells whether the blob holds it all. */
type Spill = { write: (chunk: Buffer) => Promise<void>; end: () => Promise<boolean> };

/**
 * Past the blob's own bound the rest is dropped, so that no command can fill the disk by printing. A blob that cannot be stored costs
 * the command nothing but the full text of its output.
 */
function openSpill(blobs: Blobs, name: string, beginning: Buffer): Spill {
  const through = new PassThrough();
  const stored = blobs.put(name, through).then(
    () => true,
    () => false,
  );
  // A consumer that fails destroys the stream; writing on must then be harmless.
  through.on('error', () => undefined);
  const closed = new Promise((resolve) => through.once('close', resolve));
  let written = beginning.length;
  const write = async (chunk: Buffer): Promise<void> => {
    if (through.destroyed || written + chunk.length > BLOB_BYTES_MAX) return;
    written += chunk.length;
    if (through.write(chunk)) return;
    const drained = new Promise((resolve) => through.once('drain', resolve));
    await Promise.race([drained, closed]);
  };
  through.write(beginning);
  return {
    write,
    end: async () => {
      through.end();
      return await stored;
    },
  };
}
