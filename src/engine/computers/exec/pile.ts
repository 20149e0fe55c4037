/** Bytes that come in pieces of any size, kept in few blocks: a byte that is written alone must not cost what a block does. */

const BLOCK_BYTES = { min: 4096, max: 1_048_576 };

export type Pile = { push: (data: Uint8Array) => void; blocks: () => Uint8Array[] };

export function createPile(): Pile {
  const full: Uint8Array[] = [];
  let total = 0;
  let block = new Uint8Array(0);
  let used = 0;

  /** Blocks double, so that as much is empty at most as is full. */
  function next(): void {
    if (used > 0) full.push(block);
    block = new Uint8Array(Math.min(BLOCK_BYTES.max, Math.max(BLOCK_BYTES.min, total)));
    used = 0;
  }

  return {
    push: (data) => {
      for (let at = 0; at < data.length;) {
        if (used === block.length) next();
        const part = data.subarray(at, at + block.length - used);
        block.set(part, used);
        used += part.length;
        at += part.length;
        total += part.length;
      }
    },
    blocks: () => [...full, block.subarray(0, used)],
  };
}
