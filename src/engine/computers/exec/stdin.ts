/** Standard input that is typed as one goes along. Invariant: nothing is taken from it before the program has taken what came before. */

export type Stdin = AsyncIterable<Uint8Array> & {
  /** Resolves when it is taken, or will never be. */
  push: (data: Uint8Array) => Promise<void>;
  /** Ends it; what waits is dropped. */
  close: () => void;
};

type Waiting = { data: Uint8Array; taken: () => void };

export function createStdin(): Stdin {
  const waiting: Waiting[] = [];
  let is_closed = false;
  let wake = (): void => undefined;

  function close(): void {
    is_closed = true;
    for (const { taken } of waiting.splice(0)) taken();
    wake();
  }

  async function next(): Promise<IteratorResult<Uint8Array, undefined>> {
    if (waiting.length === 0 && !is_closed)
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
    const first = waiting.shift();
    if (!first) return { done: true, value: undefined };
    first.taken();
    return { done: false, value: first.data };
  }

  return {
    push: (data) => {
      if (is_closed) return Promise.resolve();
      return new Promise<void>((resolve) => {
        waiting.push({ data, taken: resolve });
        wake();
      });
    },
    close,
    [Symbol.asyncIterator]: () => ({
      next,
      return: () => {
        close();
        return Promise.resolve({ done: true, value: undefined });
      },
    }),
  };
}
