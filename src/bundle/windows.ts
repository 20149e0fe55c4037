/** Small reads all over an upload, as a zip's reader makes them: served from pieces that are remembered, so that few of them open it. */

/** Opens the archive at an offset; must not read on when the reader stops. */
export type OpenAt = (start: number) => Promise<AsyncIterable<Uint8Array>>;

export type Windows = {
  /** The bytes from `start` on, `end` excluded. */
  read: (start: number, end: number) => AsyncIterable<Uint8Array>;
};

const WINDOW_BYTES = 1024 * 1024;
/** The directory at the end, and the entries that it tells of. */
const WINDOWS_MAX = 4;

export function createWindows(open: OpenAt): Windows {
  const kept: { start: number; bytes: Buffer }[] = [];

  async function windowAt(start: number, end: number): Promise<Buffer> {
    const known = kept.find((each) => each.start <= start && end <= each.start + each.bytes.length);
    if (known) return known.bytes.subarray(start - known.start, end - known.start);
    const chunks: Uint8Array[] = [];
    for await (const chunk of range(open, start, start + WINDOW_BYTES)) chunks.push(chunk);
    const bytes = Buffer.concat(chunks);
    kept.unshift({ start, bytes });
    kept.length = Math.min(kept.length, WINDOWS_MAX);
    return bytes.subarray(0, end - start);
  }

  return {
    read: async function* (start, end) {
      if (end - start > WINDOW_BYTES) yield* range(open, start, end);
      else if (end > start) yield await windowAt(start, end);
    },
  };
}

async function* range(open: OpenAt, start: number, end: number): AsyncGenerator<Uint8Array> {
  let left = end - start;
  for await (const chunk of await open(start)) {
    yield chunk.length > left ? chunk.subarray(0, left) : chunk;
    left -= chunk.length;
    if (left <= 0) return;
  }
}
