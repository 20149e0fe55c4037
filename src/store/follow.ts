/**
 * Readers that stay: each follows one stream by seq. What this node commits is fed in process; other nodes' commits arrive as
 * hints, and a slow poll is always on. A reader keeps a cursor, never a queue, so a slow one costs nothing.
 */
import type { Level } from '../session/event.ts';
import { isVisible } from '../session/event.ts';
import type { Database } from './database.ts';
import { readPage } from './events.ts';
import type { Log } from './log.ts';
import type { EventRow } from './rows.ts';

type Follower = {
  /** The next rows after the cursor that the level shows, ascending; waits until there are some. Empty = aborted. */
  next: () => Promise<EventRow[]>;
};

export type Follow = {
  /** @param after exclusive cursor; 0 = from the beginning. The follower ends with the signal. */
  open: (stream: string, after: number, level: Level, signal: AbortSignal) => Follower;
  /** Calls `wake` whenever the stream may have new events, from any node. Returns what ends it. */
  watch: (stream: string, wake: () => void) => () => void;
  /** A stream may have moved on another node; '*' = any may. */
  hint: (stream: string) => void;
  close: () => void;
};

/**
 * The newest rows of a followed stream, shared by its readers: one database read per event and node. `tail` has no gaps; `head` is
 * the highest seq known to be committed, which the tail may not have reached.
 */
type Topic = { tail: EventRow[]; head: number; wakers: Set<() => void>; reading: Promise<void> | null };

const PAGE = 200;
const TAIL_ROWS_MAX = 512;

export function createFollow(database: Database, log: Log, poll_ms: number): Follow {
  const topics = new Map<string, Topic>();
  log.onCommit(({ stream, rows, state }) => {
    const topic = topics.get(stream);
    if (!topic) return;
    keep(topic, rows);
    topic.head = Math.max(topic.head, state.head);
    wake(topic);
  });
  const poll = setInterval(() => hint('*'), poll_ms);
  poll.unref();

  function topicOf(stream: string): Topic {
    const known = topics.get(stream);
    if (known) return known;
    const topic: Topic = { tail: [], head: 0, wakers: new Set(), reading: null };
    topics.set(stream, topic);
    return topic;
  }

  function watch(stream: string, waker: () => void): () => void {
    const topic = topicOf(stream);
    topic.wakers.add(waker);
    return () => {
      topic.wakers.delete(waker);
      if (topic.wakers.size === 0) topics.delete(stream);
    };
  }

  /** Several hints while a read is under way make one more read. */
  function hint(stream: string): void {
    if (stream === '*') void compareHeads();
    else if (topics.has(stream)) wake(topics.get(stream)!);
  }

  async function compareHeads(): Promise<void> {
    if (topics.size === 0) return;
    const heads = await database.db
      .selectFrom('stream')
      .select(['id', 'head'])
      .where('id', 'in', [...topics.keys()])
      .execute()
      .catch(() => []);
    for (const { id, head } of heads) {
      const topic = topics.get(id);
      if (topic && head > topic.head) wake(topic);
    }
  }

  /** Rows after `cursor` and the cursor to go on from; rows that the level hides are passed over. */
  async function readAfter(stream: string, cursor: number, level: Level): Promise<[EventRow[], number]> {
    const topic = topicOf(stream);
    const last = topic.tail.at(-1)?.seq;
    if (last === cursor) await readNew(stream, topic, cursor);
    const shared = sharedAfter(topic, cursor);
    if (shared) {
      const visible = shared.filter((row) => isVisible(row.level as Level, level));
      return [visible, shared.at(-1)?.seq ?? cursor];
    }
    const committed = topic.head;
    const rows = await readPage(database.db, stream, { after: cursor, limit: PAGE, level });
    const end = rows.at(-1)?.seq ?? cursor;
    return [rows, rows.length < PAGE ? Math.max(end, committed) : end];
  }

  /** At the end of the tail all readers share one read of what is new. */
  async function readNew(stream: string, topic: Topic, cursor: number): Promise<void> {
    topic.reading ??= readPage(database.db, stream, { after: cursor, limit: PAGE, level: 'runtime' })
      .then((rows) => keep(topic, rows))
      .finally(() => (topic.reading = null));
    await topic.reading;
  }

  function open(stream: string, after: number, level: Level, signal: AbortSignal): Follower {
    let cursor = after;
    let stale = true;
    let ring: (() => void) | undefined;
    const waker = (): void => {
      stale = true;
      ring?.();
    };
    const unwatch = watch(stream, waker);
    signal.addEventListener('abort', () => (unwatch(), waker()), { once: true });
    const next = async (): Promise<EventRow[]> => {
      while (!signal.aborted) {
        if (!stale) await new Promise<void>((resolve) => (ring = resolve));
        stale = false;
        const [rows, end] = await readAfter(stream, cursor, level);
        if (end > cursor) stale = true;
        cursor = end;
        if (rows.length > 0) return rows;
      }
      return [];
    };
    return { next };
  }

  return { open, watch, hint, close: () => clearInterval(poll) };
}

/** The tail after `cursor`, or undefined when it does not reach back to it. */
function sharedAfter(topic: Topic, cursor: number): EventRow[] | undefined {
  const first = topic.tail[0];
  if (!first || first.seq > cursor + 1) return undefined;
  return topic.tail.slice(cursor + 1 - first.seq, cursor + 1 - first.seq + PAGE);
}

/** Adds what continues the tail without a gap, and drops the oldest beyond the bound. */
function keep(topic: Topic, rows: EventRow[]): void {
  const last = topic.tail.at(-1)?.seq;
  const fresh = last === undefined ? rows : rows.filter((row) => row.seq > last);
  if (fresh.length === 0 || (last !== undefined && fresh[0]!.seq !== last + 1)) return;
  topic.tail.push(...fresh);
  if (topic.tail.length > TAIL_ROWS_MAX) topic.tail.splice(0, topic.tail.length - TAIL_ROWS_MAX);
  topic.head = Math.max(topic.head, topic.tail.at(-1)!.seq);
}

function wake(topic: Topic): void {
  for (const waker of topic.wakers) waker();
}
