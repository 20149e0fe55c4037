/**
 * The one door for writing. An append is decided on the state this node holds and lands only if the stream's head, and for a
 * runner its epoch, are still what was expected; otherwise the tail is read and it is decided again. The appends of all
 * sessions share one statement per flush, and no stream is in two flushes at once, so a busy node pays for one commit, not for many.
 */
import pRetry from 'p-retry';
import type { ComputerDraft, ComputerEvent } from '../resource/computer/event.ts';
import type { ComputerState } from '../resource/computer/life.ts';
import { OverwinterError } from '../resource/error.ts';
import type { Draft, SessionEvent } from '../session/event.ts';
import type { SessionState } from '../session/state.ts';
import { FLUSH, flushValues, type Append, type Flushed } from './flush.ts';
import { isConnectionError, type Database } from './ground/database.ts';
import { readByKey, readStream } from './events.ts';
import type { Kind, StreamState } from './kind.ts';
import { buildRows, type NewRow } from './rows.ts';

type Decide<State, New> = (state: State) => New[] | OverwinterError;

export type AppendOptions = {
  /** A runner's lease epoch: the append is refused as `fenced` once another runner holds the stream. */
  epoch?: number;
  /** An event of the stream with this key makes the append a replay of it. */
  idempotency_key?: string;
};

export type Appended<State = SessionState, Event = SessionEvent> = {
  /** With whatever slipped in before this append. */
  state: State;
  written: Event[];
  rows: NewRow[];
  /** The event that already bears the idempotency key; nothing was written. */
  replay?: { seq: number; id: string; body: string };
};

/** A stream's new events, told to this node's readers after the commit; `owes`: webhook deliveries were written with them. */
type Commit<State> = { stream: string; state: State; rows: NewRow[]; owes: boolean };

/** The log of all streams of one kind; of sessions unless said otherwise. */
export type Log<State = SessionState, New = Draft, Event = SessionEvent> = {
  /** @throws OverwinterError what `decide` refused, `fenced`, `contended`, or `unavailable` (outcome unknown). */
  append: (
    stream: string,
    options: AppendOptions,
    decide: Decide<State, New>,
  ) => Promise<Appended<State, Event>>;
  /** The state at a head no older than this call, unless `held` is good enough. */
  state: (stream: string, freshness?: 'held') => Promise<State>;
  /** Tells the log of a stream that was created in one statement with its noun. */
  adopt: (org: string, commit: Commit<State>) => void;
  onCommit: (listener: (commit: Commit<State>) => void) => void;
};

export type ComputerLog = Log<ComputerState, ComputerDraft, ComputerEvent>;

export type LogOptions = {
  database: Database;
  /** The database's clock, estimated, in ms since the epoch. */
  now: () => number;
  fail: (failpoint: string) => Promise<void>;
  held_streams_max: number;
};

type Held<State> = { org: string; state: State; hash: string; state_seq: number; destinations: number };

type Waiting<State, New, Event> = AppendOptions & {
  stream: string;
  decide: Decide<State, New>;
  /** The head at which the idempotency key was looked up. */
  looked_up_at: number;
  tries: number;
  resolve: (appended: Appended<State, Event>) => void;
  reject: (error: unknown) => void;
};

/** One caller's share of an append: several callers' events of one stream land together. */
type Part<State, New, Event> = {
  waiting: Waiting<State, New, Event>;
  written: Event[];
  rows: NewRow[];
  state: State;
};

type Prepared<State, New, Event> = { append: Append; parts: Part<State, New, Event>[]; next: Held<State> };

const TRIES_MAX = 30;
const FLUSH_EVENTS_MAX = 350;
const FLUSH_BYTES_MAX = 1024 * 1024;
const CHECKPOINT_EVENTS = 256;
const PARTS_MAX = 64;
/** Writers that may wait for one stream, and streams with writers that wait; beyond it they are refused. */
const QUEUE_MAX = 1000;
const QUEUES_MAX = 10_000;
/**
 * While the database works on one flush the next one is built. A third in flight pays only when hundreds of streams wait: with fewer
 * it makes the flushes smaller.
 */
const LANES_MAX = 3;
const CROWD = 256;

export function createLog<State extends StreamState, New, Event>(
  kind: Kind<State, New, Event>,
  options: LogOptions,
): Log<State, New, Event> {
  type OwnWaiting = Waiting<State, New, Event>;
  type OwnPrepared = Prepared<State, New, Event>;
  const { database, now, fail } = options;
  const held = new Map<string, Held<State>>();
  const queues = new Map<string, OwnWaiting[]>();
  const listeners: ((commit: Commit<State>) => void)[] = [];
  /** Streams whose append is on its way: their next one waits for it. */
  const in_flight = new Set<string>();
  let lanes = 0;

  async function append(
    stream: string,
    request: AppendOptions,
    decide: Decide<State, New>,
  ): Promise<Appended<State, Event>> {
    const before = held.get(stream) ?? (await load(stream));
    if (before.state.head === 0) throw new OverwinterError('not_found', `no such ${kind.noun}`);
    const replay = await readByKey(database.db, stream, request.idempotency_key);
    if (replay) return { state: (await load(stream)).state, written: [], rows: [], replay };
    return await new Promise((resolve, reject) => {
      const looked_up_at = before.state.head;
      enqueue({ ...request, stream, decide, looked_up_at, tries: 0, resolve, reject });
    });
  }

  function enqueue(waiting: OwnWaiting, front = false): void {
    const queue = queues.get(waiting.stream) ?? [];
    if (queue.length >= QUEUE_MAX || queues.size >= QUEUES_MAX) {
      return waiting.reject(new OverwinterError('contended', 'too many writes wait for the database'));
    }
    if (front) queue.unshift(waiting);
    else queue.push(waiting);
    queues.set(waiting.stream, queue);
    if (lanes < (queues.size < CROWD ? LANES_MAX - 1 : LANES_MAX)) void runLane();
  }

  /** Flushes until nothing waits that is not in flight already. */
  async function runLane(): Promise<void> {
    lanes += 1;
    await Promise.resolve();
    while (queues.keys().some((stream) => !in_flight.has(stream))) {
      const batch = takeBatch();
      if (batch.length > 0) await flush(batch);
      for (const { append } of batch) in_flight.delete(append.stream);
      // Without this a chain of settled queries starves timers and sockets.
      await new Promise(setImmediate);
    }
    lanes -= 1;
  }

  /** At most one append of each stream: two with different epochs, merged, let the stale one through. */
  function takeBatch(): OwnPrepared[] {
    const batch: OwnPrepared[] = [];
    let events = 0;
    let bytes = 0;
    for (const [stream, queue] of queues) {
      if (events >= FLUSH_EVENTS_MAX || bytes >= FLUSH_BYTES_MAX) break;
      if (in_flight.has(stream)) continue;
      const prepared = prepare(stream, queue);
      if (queue.length === 0) queues.delete(stream);
      if (!prepared) continue;
      batch.push(prepared);
      in_flight.add(stream);
      events += prepared.append.rows.length;
      bytes += prepared.append.rows.reduce((sum, row) => sum + row.body_bytes, 0);
    }
    return batch;
  }

  /** Decides what waits for one stream, in order, for as long as it can share an append with the first. */
  function prepare(stream: string, queue: OwnWaiting[]): OwnPrepared | undefined {
    const current = held.get(stream);
    if (!current) {
      void lookAgain(queue.splice(0));
      return undefined;
    }
    const { epoch } = queue[0]!;
    const parts: Part<State, New, Event>[] = [];
    let latest = current;
    let bytes = 0;
    while (queue.length > 0 && parts.length < PARTS_MAX && bytes < FLUSH_BYTES_MAX) {
      const waiting = queue[0]!;
      if (waiting.epoch !== epoch) break;
      if (waiting.idempotency_key !== undefined && waiting.looked_up_at !== latest.state.head) {
        // The key may stand in what was written since: it is looked up again, alone.
        if (parts.length === 0) void lookAgain([queue.shift()!]);
        break;
      }
      queue.shift();
      const part = decidePart(latest, waiting);
      if (!part) continue;
      parts.push(part);
      bytes += part.rows.reduce((sum, row) => sum + row.body_bytes, 0);
      latest = { ...latest, state: part.state, hash: part.rows.at(-1)!.hash };
    }
    return parts.length > 0 ? together(current, latest, parts) : undefined;
  }

  function decidePart(current: Held<State>, waiting: OwnWaiting): Part<State, New, Event> | undefined {
    try {
      const drafts = waiting.decide(current.state);
      const writes = !(drafts instanceof OverwinterError) && drafts.length > 0;
      // Nothing refuses an old view that writes nothing: the cancel of a turn that another node has begun would be dropped.
      if (!writes && waiting.tries === 0) return void lookAgain([waiting]);
      if (drafts instanceof OverwinterError) throw drafts;
      if (drafts.length === 0) {
        waiting.resolve({ state: current.state, written: [], rows: [] });
        return undefined;
      }
      const ts = Math.max(Math.round(now()), current.state.last_ts);
      const head = { seq: current.state.head, hash: current.hash };
      const rows = buildRows(waiting.stream, head, drafts.map(kind.row), ts);
      const written = drafts.map((draft, index) => ({ ...draft, seq: head.seq + 1 + index, ts }) as Event);
      return { waiting, written, rows, state: written.reduce(kind.evolve, current.state) };
    } catch (error) {
      waiting.reject(error);
      return undefined;
    }
  }

  function together(before: Held<State>, after: Held<State>, parts: Part<State, New, Event>[]): OwnPrepared {
    const { state } = after;
    const checkpoint =
      kind.checkpoints(before.state, state) || state.head - before.state_seq >= CHECKPOINT_EVENTS;
    const { stream, epoch } = parts[0]!.waiting;
    const append = {
      stream,
      org: before.org,
      expected_head: before.state.head,
      epoch: epoch ?? null,
      destinations: before.destinations,
      rows: parts.flatMap((part) => part.rows),
      ...{ head: state.head, last_ts: state.last_ts, columns: kind.columns(before.state, state) },
      checkpoint: checkpoint ? JSON.stringify(state) : null,
    };
    return { append, parts, next: checkpoint ? { ...after, state_seq: state.head } : after };
  }

  async function flush(batch: OwnPrepared[]): Promise<void> {
    try {
      const appends = batch.map((prepared) => prepared.append);
      const landed = await database.run<Flushed>(FLUSH, flushValues(appends));
      await fail('log.flushed');
      const owes = new Map(landed.map((row) => [row.id, row.owes]));
      for (const prepared of batch) {
        const { stream } = prepared.append;
        if (owes.has(stream)) succeed(prepared, owes.get(stream)!);
        else void lookAgain(waitingOf(prepared));
      }
    } catch {
      // One bad append must not take the others with it, and a lost connection says nothing of the outcome.
      await Promise.all(batch.map(flushAlone));
    }
  }

  function succeed({ append, parts, next }: OwnPrepared, owes: boolean): void {
    hold(append.stream, next);
    tell({ stream: append.stream, state: next.state, rows: append.rows, owes });
    for (const { waiting, state, written, rows } of parts) waiting.resolve({ state, written, rows });
  }

  async function flushAlone(prepared: OwnPrepared): Promise<void> {
    try {
      const landed = await pRetry(() => tryAlone(prepared), {
        retries: 8,
        minTimeout: 50,
        maxTimeout: 2000,
        shouldRetry: ({ error }) => isConnectionError(error),
      });
      // Whether anything is owed is not asked again after a lost answer.
      if (landed) succeed(prepared, true);
      else void lookAgain(waitingOf(prepared));
    } catch (error) {
      const unavailable = isConnectionError(error)
        ? new OverwinterError('unavailable', 'the database cannot be reached')
        : error;
      for (const waiting of waitingOf(prepared)) waiting.reject(unavailable);
    }
  }

  /** Whether the append is in the log: a statement whose connection broke may still land while it is tried again. */
  async function tryAlone({ append }: OwnPrepared): Promise<boolean> {
    const there = await isThere(append);
    if (there !== undefined) return there;
    const landed = await database.run<Flushed>(FLUSH, flushValues([append]));
    return landed.length > 0 || (await isThere(append)) === true;
  }

  /** Undefined when the place is still free; false when somebody else's event has it. */
  async function isThere({ stream, rows }: Append): Promise<boolean | undefined> {
    const first = rows[0]!;
    const found = await database.db
      .selectFrom('event')
      .select(['hash', 'ts', 'idempotency_key'])
      .where('stream', '=', stream)
      .where('seq', '=', first.seq)
      .executeTakeFirst();
    if (!found) return undefined;
    const same_hash = Buffer.from(found.hash).toString('hex') === first.hash;
    return same_hash && found.ts.getTime() === first.ts && found.idempotency_key === first.idempotency_key;
  }

  /** The stream moved under the append, or was never held: read, and decide again. */
  async function lookAgain(waitings: OwnWaiting[]): Promise<void> {
    for (const waiting of waitings.toReversed()) {
      try {
        await lookAgainFor(waiting);
      } catch (error) {
        waiting.reject(error);
      }
    }
  }

  async function lookAgainFor(waiting: OwnWaiting): Promise<void> {
    waiting.tries += 1;
    if (waiting.tries > TRIES_MAX)
      throw new OverwinterError('contended', 'too many writers at once; try again');
    // Writers of two nodes that refuse each other in lockstep get out of step.
    if (waiting.tries > 2) await new Promise((resolve) => setTimeout(resolve, waiting.tries));
    const { state } = await load(waiting.stream, waiting.epoch);
    const replay = await readByKey(database.db, waiting.stream, waiting.idempotency_key);
    if (replay) return waiting.resolve({ state, written: [], rows: [], replay });
    waiting.looked_up_at = state.head;
    enqueue(waiting, true);
  }

  /** Reads what this node does not know yet of a stream and folds it. */
  async function load(stream: string, epoch?: number): Promise<Held<State>> {
    const row = await database.db
      .selectFrom('stream')
      .select(['org', 'head', 'hash', 'state', 'state_seq', 'epoch', 'destinations'])
      .where('id', '=', stream)
      .executeTakeFirst();
    if (!row) return { org: '', state: kind.empty(stream), hash: '', state_seq: 0, destinations: 0 };
    if (epoch !== undefined && row.epoch !== epoch) {
      throw new OverwinterError('fenced', 'another runner holds the session');
    }
    const known = held.get(stream);
    const base: Held<State> =
      known && known.state.head >= row.state_seq
        ? known
        : {
            org: row.org,
            state: (row.state as State | null) ?? kind.empty(stream),
            hash: Buffer.from(row.hash).toString('hex'),
            state_seq: row.state_seq,
            destinations: row.destinations,
          };
    const { destinations } = row;
    if (base.state.head >= row.head) return hold(stream, { ...base, destinations });
    const tail = await readStream(database.db, stream, base.state.head + 1);
    const state = (tail.events as Event[]).reduce(kind.evolve, base.state);
    const hash = tail.hash ?? base.hash;
    return hold(stream, { ...base, state, hash, state_seq: row.state_seq, destinations });
  }

  /** Keeps the newer of two views, and the most recently used streams. */
  function hold(stream: string, candidate: Held<State>): Held<State> {
    const known = held.get(stream);
    const newest = known && known.state.head > candidate.state.head ? known : candidate;
    const destinations = Math.max(known?.destinations ?? 0, candidate.destinations);
    const best = newest.destinations === destinations ? newest : { ...newest, destinations };
    held.delete(stream);
    held.set(stream, best);
    if (held.size > options.held_streams_max) held.delete(held.keys().next().value!);
    return best;
  }

  function tell(commit: Commit<State>): void {
    for (const listener of listeners) listener(commit);
  }

  return {
    append,
    state: async (stream, freshness) =>
      (freshness === 'held' ? held.get(stream)?.state : undefined) ?? (await load(stream)).state,
    adopt: (org, commit) => {
      const { stream, state, rows } = commit;
      hold(stream, { org, state, hash: rows.at(-1)!.hash, state_seq: state.head, destinations: 0 });
      tell(commit);
    },
    onCommit: (listener) => void listeners.push(listener),
  };
}

function waitingOf<State, New, Event>(prepared: Prepared<State, New, Event>): Waiting<State, New, Event>[] {
  return prepared.parts.map((part) => part.waiting);
}
