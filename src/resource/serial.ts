/** One thing at a time per key. Invariant: a failed task does not stop the next of its key. */

export type Serial = {
  <Result>(key: string, task: () => Promise<Result>): Promise<Result>;
  /** Resolves when every task that was given so far has ended. */
  idle(): Promise<void>;
  /** Whether something of the key is under way or waits. */
  busy(key: string): boolean;
};

export function oneAtATime(): Serial {
  const last = new Map<string, Promise<unknown>>();
  const run = <Result>(key: string, task: () => Promise<Result>): Promise<Result> => {
    const before = last.get(key) ?? Promise.resolve();
    const result = before.then(task, task);
    const ended = result
      .catch(() => {})
      .then(() => {
        if (last.get(key) === ended) last.delete(key);
      });
    last.set(key, ended);
    return result;
  };
  return Object.assign(run, {
    async idle() {
      await Promise.all(last.values());
    },
    busy: (key: string) => last.has(key),
  });
}
