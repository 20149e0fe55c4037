/**
 * Readers that stay: each follows one stream by seq. What this node commits is fed in process; other nodes' commits arrive as
 * hints, and a slow poll is always on. A reader keeps a cursor, never a queue, so a slow one costs nothing.
 */
import type { Level } from '../session/event.ts';
import { isVisible } from '../session/event.ts';
import type { Database } from './ground/database.ts';
import { readPage } from './events.ts';
import type { Log } from './log.ts';
import type { EventRow, NewRow } from './rows.ts';

type Follower = {
  /** The next rows after the cursor that the level shows, ascending; waits until there are some. Empty = aborted. */
  next: () => Promise<EventRow[]>;
};

export type Follow = {
  /** @param after exclusive cursor; 0 = from the beginning. The follower ends with the signal. */
  open: (stream: string, after: number, level: Level, signal: AbortSignal) => Follower;
  /** Calls `wake` whenever the stream has new events, from any node. Returns what ends it. */
  watch: (stream: string, wake: () => void) => () => void;
  /** Another node says that the stream has come this far; without a stream, that any may have moved. */
  hint: (stream?: string, head?: number) => void;
  close: () => void;
};

/**
 * A followed stream, shared by its readers: one database read per event and node. `head` is the highest seq known to be committed,
 * null until it was asked; `tail` holds the newest rows without gaps, as far as they were read.
 */
type Topic = {
  head: number | null;
  tail: EventRow[];
  wakers: Set<() => void>;
  reading: Promise<void> | null;
};

const PAGE = 200;
const TAIL_ROWS_MAX = 256;
const TAIL_CHARACTERS_MAX = 1024 * 1024;

export function createFollow(database: Database, log: Log, poll_ms: number): Follow {
  const { db } = database;
  const topics = new Map<string, Topic>();
  log.onCommit(({ stream, rows, state }) => {
    const topic = topics.get(stream);
    if (!topic) return;
    keep(topic, rows.map(withoutWriting));
    advance(topic, state.head);
  });
  const poll = setInterval(() => void readHeads([...topics.keys()]), poll_ms);
  poll.unref();

  function watch(stream: string, waker: () => void): () => void {
    const topic = topics.get(stream) ?? { head: null, tail: [], wakers: new Set(), reading: null };
    topics.set(stream, topic);
    topic.wakers.add(waker);
    return () => {
      topic.wakers.delete(waker);
      if (topic.wakers.size === 0) topics.delete(stream);
    };
  }

  function hint(stream?: string, head?: number): void {
    if (stream === undefined || head === undefined) return void readHeads([...topics.keys()]);
    const topic = topics.get(stream);
    if (topic) advance(topic, head);
  }

  /** A failed read is made good by the next poll. */
  async function readHeads(streams: string[]): Promise<void> {
    if (streams.length === 0) return;
    const query = db.selectFrom('stream').select(['id', 'head']).where('id', 'in', streams);
    for (const { id, head } of await query.execute().catch(() => [])) {
      const topic = topics.get(id);
      if (topic) advance(topic, head);
    }
  }

  /** Rows after `cursor` and the cursor to go on from; rows that the level hides are passed over. */
  async function readAfter(
    stream: string,
    topic: Topic,
    cursor: number,
    level: Level,
  ): Promise<[EventRow[], number]> {
    const committed = topic.head ?? 0;
    if (!sharedAfter(topic, cursor) && committed - cursor <= PAGE) await readTail(stream, topic, cursor);
    const shared = sharedAfter(topic, cursor);
    if (shared) {
      const visible = shared.filter((row) => isVisible(row.level as Level, level));
      return [visible, shared.at(-1)!.seq];
    }
    const rows = await readPage(db, stream, { after: cursor, limit: PAGE, level });
    const end = rows.at(-1)?.seq ?? cursor;
    return [rows, rows.length < PAGE ? Math.max(end, committed) : end];
  }

  /** Readers near the end share one read of what is new. */
  async function readTail(stream: string, topic: Topic, cursor: number): Promise<void> {
    // A read under way may have begun before the commit that woke this reader.
    await topic.reading;
    if (sharedAfter(topic, cursor)) return;
    topic.reading ??= readPage(db, stream, { after: cursor, limit: PAGE, level: 'runtime' })
      .then((rows) => keep(topic, rows))
      .finally(() => (topic.reading = null));
    await topic.reading;
  }

  function open(stream: string, after: number, level: Level, signal: AbortSignal): Follower {
    let cursor = after;
    let ring: (() => void) | undefined;
    const unwatch = watch(stream, () => ring?.());
    const topic = topics.get(stream)!;
    signal.addEventListener('abort', () => (unwatch(), ring?.()), { once: true });
    const next = async (): Promise<EventRow[]> => {
      while (!signal.aborted) {
        if (topic.head === null) await readHeads([stream]);
        if (cursor >= (topic.head ?? 0)) {
          await new Promise<void>((resolve) => (ring = resolve));
          continue;
        }
        const [rows, end] = await readAfter(stream, topic, cursor, level);
        cursor = end;
        if (rows.length > 0) return rows;
      }
      return [];
    };
    return { next };
  }

  return { open, watch, hint, close: () => clearInterval(poll) };
}

function advance(topic: Topic, head: number): void {
  if (head <= (topic.head ?? 0)) return;
  topic.head = head;
  for (const waker of topic.wakers) waker();
}

/** The tail after `cursor`, or undefined when it does not begin with the row that follows. */
function sharedAfter({ tail }: Topic, cursor: number): EventRow[] | undefined {
  const [first, last] = [tail[0], tail.at(-1)];
  if (!first || !last || first.seq > cursor + 1 || last.seq <= cursor) return undefined;
  return tail.slice(cursor + 1 - first.seq, cursor + 1 - first.seq + PAGE);
}

/** Adds what continues the tail, and drops the oldest beyond the bound. After a gap the tail begins anew: it serves the newest. */
function keep(topic: Topic, rows: EventRow[]): void {
  const last = topic.tail.at(-1)?.seq;
  const fresh = last === undefined ? rows : rows.filter((row) => row.seq > last);
  if (fresh.length === 0) return;
  if (last !== undefined && fresh[0]!.seq !== last + 1) topic.tail = [];
  topic.tail.push(...fresh);
  let bytes = topic.tail.reduce((sum, row) => sum + row.body.length, 0);
  while (topic.tail.length > TAIL_ROWS_MAX || (bytes > TAIL_CHARACTERS_MAX && topic.tail.length > 1)) {
    bytes -= topic.tail.shift()!.body.length;
  }
}

/** A row as a reader of the table would get it, without the large body that stands apart. */
function withoutWriting({ spilled, hash, idempotency_key, ...row }: NewRow): EventRow {
  return row;
}
