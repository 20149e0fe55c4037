/**
 * Hints between nodes: "these streams moved". Sent after the commit, outside its transaction, merged over a few milliseconds,
 * ids and heads only: a NOTIFY inside the append would serialize every commit of the cluster. A lost hint costs a poll.
 */
import type { Database } from './ground/database.ts';

export type Hints = {
  /** The stream has come this far; tell the other nodes soon. */
  send: (stream: string, head: number) => void;
  close: () => Promise<void>;
};

const MERGE_MS = 10;
/** NOTIFY takes less than 8,000 bytes; an id and a head have at most 45. */
const IDS_MAX = 150;

/** @param onMoved called with a stream that moved on another node and its head, or with nothing for "any may have". */
export function createHints(
  database: Database,
  node: string,
  onMoved: (stream?: string, head?: number) => void,
): Hints {
  const moved = new Map<string, number>();
  let timer: NodeJS.Timeout | undefined;
  let sending: Promise<void> = Promise.resolve();
  const listener = database.listen(
    (payload) => {
      const [sender, ...streams] = payload.split(' ');
      if (sender === node) return;
      if (streams.length === 0) onMoved();
      for (const [stream, head] of streams.map((text) => text.split(':'))) onMoved(stream, Number(head));
    },
    () => onMoved(),
  );

  async function flush(): Promise<void> {
    timer = undefined;
    const streams = [...moved].map(([stream, head]) => `${stream}:${head}`);
    if (streams.length > IDS_MAX) streams.length = 0;
    moved.clear();
    // The poll of the other nodes covers a hint that could not be sent.
    await database.notify([node, ...streams].join(' ')).catch(() => undefined);
  }

  return {
    send: (stream, head) => {
      if (database.kind === 'embedded') return;
      moved.set(stream, Math.max(head, moved.get(stream) ?? 0));
      timer ??= setTimeout(() => void (sending = sending.then(flush)), MERGE_MS);
    },
    close: async () => {
      clearTimeout(timer);
      await sending;
      await listener.close();
    },
  };
}
