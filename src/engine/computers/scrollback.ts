/**
 * The end of what a terminal has shown, for who attaches later. Invariant: it holds the last `bytes_max` bytes, whatever the size and
 * number of the pieces they came in.
 */

export type Scrollback = {
  add: (data: Uint8Array) => void;
  /** What is held; it begins at a line where something before it was lost, or, within a very long line, at a whole character. */
  read: () => Buffer;
};

/** A line that is longer is cut: losing it whole would lose too much. */
const LINE_BYTES_MAX = 16_384;
const NEWLINE = 0x0a;

export function createScrollback(bytes_max: number): Scrollback {
  const ring = Buffer.alloc(bytes_max);
  let position = 0;
  let is_full = false;
  let has_lost = false;

  function put(data: Uint8Array): void {
    const fits = Math.min(data.length, bytes_max - position);
    ring.set(data.subarray(0, fits), position);
    position += fits;
    if (position < bytes_max) return;
    is_full = true;
    position = data.length - fits;
    ring.set(data.subarray(fits), 0);
  }

  return {
    add(data) {
      has_lost ||= (is_full ? bytes_max : position) + data.length > bytes_max;
      put(data.length > bytes_max ? data.subarray(-bytes_max) : data);
    },
    read() {
      if (!is_full) return Buffer.from(ring.subarray(0, position));
      const held = Buffer.concat([ring.subarray(position), ring.subarray(0, position)]);
      return has_lost ? held.subarray(beginning(held)) : held;
    },
  };
}

/** The first place that nothing is missing before. */
function beginning(bytes: Buffer): number {
  const line = bytes.subarray(0, LINE_BYTES_MAX).indexOf(NEWLINE);
  if (line !== -1) return line + 1;
  const characters = bytes.subarray(0, 4).findIndex((byte) => (byte & 0xc0) !== 0x80);
  return Math.max(0, characters);
}
