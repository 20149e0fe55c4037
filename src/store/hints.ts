/**
 * Hints between nodes: "these streams moved". Sent after the commit on a connection of their own, merged over a few milliseconds,
 * ids only: a NOTIFY inside the append would serialize every commit of the cluster. A lost hint costs a poll.
 */
import type { Database } from './database.ts';

export type Hints = {
  /** The stream moved; tell the other nodes soon. */
  send: (stream: string) => void;
  close: () => Promise<void>;
};

const MERGE_MS = 10;
/** NOTIFY takes less than 8,000 bytes; an id has 28. */
const IDS_MAX = 250;

/** @param onMoved called with the id of a stream that moved on another node, or '*' for "any may have". */
export function createHints(database: Database, node: string, onMoved: (stream: string) => void): Hints {
  const moved = new Set<string>();
  let timer: NodeJS.Timeout | undefined;
  let sending: Promise<void> = Promise.resolve();
  const listener = database.listen(
    (payload) => {
      const [sender, ...streams] = payload.split(' ');
      if (sender !== node) streams.forEach(onMoved);
    },
    () => onMoved('*'),
  );

  async function flush(): Promise<void> {
    timer = undefined;
    const streams = moved.size > IDS_MAX ? ['*'] : [...moved];
    moved.clear();
    // The poll of the other nodes covers a hint that could not be sent.
    await database.notify([node, ...streams].join(' ')).catch(() => undefined);
  }

  return {
    send: (stream) => {
      if (database.kind === 'embedded') return;
      moved.add(stream);
      timer ??= setTimeout(() => void (sending = sending.then(flush)), MERGE_MS);
    },
    close: async () => {
      clearTimeout(timer);
      await sending;
      await listener.close();
    },
  };
}
