/**
 * An event stream: the log from a cursor on, then live (contract §9.6). Frames go straight to the socket. Nothing is queued for a
 * reader: one that cannot take the next frame holds its place in the log, and is dropped when it stalls for too long.
 */
import type { ServerResponse } from 'node:http';
import type { Runtime } from '../engine/runtime.ts';
import type { Level } from '../session/event.ts';
import type { Revocations } from './revocations.ts';
import { matchesType } from './type-filter.ts';
import { renderEvent } from '../store/rows.ts';

export type StreamRequest = {
  session: string;
  /** Exclusive. */
  after: number;
  level: Level;
  type: string | undefined;
  /** Whether to add `event: delta` frames: previews of text while the model writes it. */
  deltas: boolean;
  /** The reader's key or token; the stream ends with it. */
  credential: { id: string; expires_at: Date | null };
  /** Response headers besides the stream's own. */
  headers: Record<string, string>;
};

export type StreamOptions = {
  /** Aborts when the server stops: streams end cleanly and readers come back elsewhere. */
  signal: AbortSignal;
  revocations: Revocations;
  keepalive_ms: number;
  /** How long a reader may take none of what is written. */
  stall_ms: number;
};

/** A longer timer fires at once. A stream ends after 24 days instead, and its reader comes back. */
const TIMER_MS_MAX = 2 ** 31 - 1;
const PING = ': ping\n\n';

/** Writes the stream until the reader leaves, stalls, or must not read any longer. Never rejects. */
export async function stream(
  runtime: Runtime,
  options: StreamOptions,
  response: ServerResponse,
  request: StreamRequest,
): Promise<void> {
  const ended = endOf(options.signal, response);
  const stops = [
    endAt(request.credential.expires_at, runtime.now(), ended),
    options.revocations.watch(request.credential.id, () => ended.abort()),
    keepAlive(options.keepalive_ms, response),
    request.deltas ? writeDeltas(runtime, request.session, response) : () => undefined,
  ];
  try {
    response.writeHead(200, {
      ...request.headers,
      'content-type': 'text/event-stream',
      'cache-control': 'no-cache',
      connection: 'keep-alive',
      'x-accel-buffering': 'no',
    });
    response.flushHeaders();
    await writeEvents(runtime, options, response, request, ended.signal);
  } catch (error) {
    runtime.logger.warn({ err: error, session: request.session }, 'an event stream broke off');
  } finally {
    for (const stop of stops) stop();
    ended.abort();
    close(response);
  }
}

async function writeEvents(
  runtime: Runtime,
  options: StreamOptions,
  response: ServerResponse,
  request: StreamRequest,
  signal: AbortSignal,
): Promise<void> {
  const { session, after, level, type } = request;
  if (signal.aborted) return;
  const follower = runtime.follow.open(session, after, level, signal);
  while (!signal.aborted) {
    for (const row of await follower.next()) {
      if (signal.aborted) return;
      if (!matchesType(type, row.type)) continue;
      const taken = response.write(`id: ${row.seq}\ndata: ${renderEvent(session, row)}\n\n`);
      if (!taken) await drained(response, options.stall_ms, signal);
    }
  }
}

/** Resolves when the socket takes more, or the stream ends; drops the connection of a reader that takes nothing for `stall_ms`. */
export async function drained(
  response: ServerResponse,
  stall_ms: number,
  signal: AbortSignal,
): Promise<void> {
  if (signal.aborted || !response.writableNeedDrain) return;
  const { promise, resolve } = Promise.withResolvers<void>();
  const done = (): void => resolve();
  const stalled = setTimeout(() => response.destroy(), stall_ms);
  response.once('drain', done);
  signal.addEventListener('abort', done, { once: true });
  await promise;
  clearTimeout(stalled);
  response.off('drain', done);
  signal.removeEventListener('abort', done);
}

/** Aborts when the reader leaves or the server stops. */
function endOf(server: AbortSignal, response: ServerResponse): AbortController {
  const ended = new AbortController();
  const end = (): void => ended.abort();
  if (server.aborted || response.destroyed) end();
  response.once('close', end);
  response.on('error', end);
  server.addEventListener('abort', end, { once: true, signal: ended.signal });
  return ended;
}

function endAt(expires_at: Date | null, now: number, ended: AbortController): () => void {
  if (!expires_at) return () => undefined;
  const left_ms = Math.min(Math.max(0, expires_at.getTime() - now), TIMER_MS_MAX);
  const timer = setTimeout(() => ended.abort(), left_ms);
  timer.unref();
  return () => clearTimeout(timer);
}

/** Comments that keep proxies from closing an idle connection. */
function keepAlive(keepalive_ms: number, response: ServerResponse): () => void {
  const timer = setInterval(() => {
    if (response.headersSent && !response.writableNeedDrain) response.write(PING);
  }, keepalive_ms);
  timer.unref();
  return () => clearInterval(timer);
}

/** Deltas are lost to a reader that is behind: the events bring the whole text. */
function writeDeltas(runtime: Runtime, session: string, response: ServerResponse): () => void {
  return runtime.deltas.subscribe(session, (delta) => {
    if (!response.headersSent || response.writableNeedDrain || response.destroyed) return;
    response.write(`event: delta\ndata: ${JSON.stringify(delta)}\n\n`);
  });
}

/** A clean end; where the socket does not take it, the connection is cut. */
function close(response: ServerResponse): void {
  if (response.writableNeedDrain) response.destroy();
  else response.end();
}
