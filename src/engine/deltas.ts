/** Live previews of text while the model writes it: in this process only, never stored, free to be lost. */
type Delta = { turn_id: string; text: string };

export type Deltas = {
  publish: (stream: string, delta: Delta) => void;
  /** Returns what ends the subscription. */
  subscribe: (stream: string, listener: (delta: Delta) => void) => () => void;
};

export function createDeltas(): Deltas {
  const listeners = new Map<string, Set<(delta: Delta) => void>>();
  return {
    publish: (stream, delta) => listeners.get(stream)?.forEach((listener) => listener(delta)),
    subscribe: (stream, listener) => {
      const known = listeners.get(stream) ?? new Set();
      listeners.set(stream, known.add(listener));
      return () => {
        known.delete(listener);
        if (known.size === 0) listeners.delete(stream);
      };
    },
  };
}
