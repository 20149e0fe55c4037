/**
 * The output of one exec out of the daemon's stream, where chunks of both streams follow one another behind headers.
 * Invariant: what a consumer does not take stays within a bound here, and then in the daemon and in the script's pipes.
 *
 * The script's end is not the stream's: its background children may hold that open. So what keeps the exec inside writes
 * a mark on both streams, after all that the script wrote: a word that nobody could know before.
 */

import type { Duplex } from 'node:stream';
import type { OutputChunk } from '../../resource/computer/driver.ts';

const HEADER_BYTES = 8;
/** The code in three digits, and whether memory ran out. */
const VERDICT_BYTES = 4;
const QUEUE_BYTES_MAX = 262_144;
/** Of what a daemon says when it cannot start a process. */
const COMPLAINT_BYTES_MAX = 4096;

export type Verdict = { exit_code: number; out_of_memory: boolean };

export type Output = {
  chunks(): AsyncGenerator<OutputChunk, void>;
  /** Resolves at the first mark: the exec runs. */
  started: Promise<void>;
  /** How the script ended, or null when the stream ended without saying so. */
  verdict: Promise<Verdict | null>;
  /** What came instead of the first mark; it is given out as error output at the end. */
  complaint(): string;
  /** Nothing more is read; `verdict` settles, and with it the chunks end. Idempotent. */
  close(): void;
};

type Stream = OutputChunk['stream'];

export function openOutput(socket: Duplex, mark: string): Output {
  const started = Promise.withResolvers<void>();
  const verdict = Promise.withResolvers<Verdict | null>();
  const queue = openQueue(socket);
  let complaint = Buffer.alloc(0);
  let found: Verdict | null = null;
  const open = new Set<Stream>(['stdout', 'stderr']);
  let running = false;
  const end = (): void => {
    if (!running && complaint.length > 0) queue.add('stderr')(complaint);
    queue.end();
    verdict.resolve(open.size === 0 ? found : null);
  };
  const begin = (): void => {
    running = true;
    complaint = Buffer.alloc(0);
    started.resolve();
  };
  const scanners = {
    stdout: scanner(mark, { first: begin, take: queue.add('stdout'), last: (said) => over('stdout', said) }),
    stderr: scanner(mark, { first: null, take: queue.add('stderr'), last: (said) => over('stderr', said) }),
  };
  function over(stream: Stream, said: Verdict): void {
    open.delete(stream);
    found = said;
    if (open.size === 0) end();
  }
  const early = (data: Buffer): void => {
    if (!running) complaint = Buffer.concat([complaint, data]).subarray(0, COMPLAINT_BYTES_MAX);
  };
  socket.on(
    'data',
    frames((stream, data) => {
      if (stream === 'stdout') early(data);
      if (open.has(stream)) scanners[stream](data);
    }),
  );
  for (const event of ['end', 'close', 'error']) socket.on(event, end);
  return {
    chunks: () => queue.chunks(),
    started: started.promise,
    verdict: verdict.promise,
    complaint: () => complaint.toString().trim(),
    close() {
      socket.destroy();
      end();
    },
  };
}

/** Cuts the daemon's frames; their parts are given on as they come. */
export function frames(take: (stream: Stream, data: Buffer) => void): (chunk: Buffer) => void {
  let header = Buffer.alloc(0);
  let left = 0;
  const takeHeader = (chunk: Buffer): Buffer => {
    const missing = HEADER_BYTES - header.length;
    header = Buffer.concat([header, chunk.subarray(0, missing)]);
    if (header.length === HEADER_BYTES) left = header.readUInt32BE(4);
    return chunk.subarray(missing);
  };
  const takeData = (chunk: Buffer): Buffer => {
    const data = chunk.subarray(0, left);
    left -= data.length;
    const stream = header[0] === 2 ? 'stderr' : 'stdout';
    if (left === 0) header = Buffer.alloc(0);
    take(stream, data);
    return chunk.subarray(data.length);
  };
  return (chunk) => {
    for (let rest = chunk; rest.length > 0;) {
      rest = left === 0 ? takeHeader(rest) : takeData(rest);
      if (left === 0 && header.length === HEADER_BYTES) header = Buffer.alloc(0);
    }
  };
}

type Marks = {
  /** Called at the first mark; null = there is none on this stream. */
  first: (() => void) | null;
  take: (data: Buffer) => void;
  last: (verdict: Verdict) => void;
};

/** Finds the marks in one stream. Only what may be the beginning of one is held back. */
function scanner(mark: string, { first, take, last }: Marks): (data: Buffer) => void {
  const word = Buffer.from(mark);
  let held = Buffer.alloc(0);
  let awaited = first;
  const afterFirst = (data: Buffer, at: number): Buffer => {
    awaited?.();
    awaited = null;
    return data.subarray(at + word.length);
  };
  return (chunk) => {
    let data = held.length === 0 ? chunk : Buffer.concat([held, chunk]);
    held = Buffer.alloc(0);
    if (awaited !== null && data.includes(word)) data = afterFirst(data, data.indexOf(word));
    const at = markIn(data, word);
    if (awaited === null && at > 0) take(data.subarray(0, at));
    held = Buffer.from(data.subarray(at));
    if (held.length >= word.length + VERDICT_BYTES) last(verdictOf(held.subarray(word.length)));
  };
}

/** Where the mark begins, be it whole or cut off by the end of the data; else the length. */
function markIn(data: Buffer, word: Buffer): number {
  const whole = data.indexOf(word);
  if (whole !== -1) return whole;
  for (let at = Math.max(0, data.length - word.length + 1); at < data.length; at += 1) {
    if (data[at] === word[0] && word.subarray(0, data.length - at).equals(data.subarray(at))) return at;
  }
  return data.length;
}

function verdictOf(said: Buffer): Verdict {
  const text = said.toString('latin1', 0, VERDICT_BYTES);
  return { exit_code: Number.parseInt(text.slice(0, 3), 10) || 0, out_of_memory: text[3] === '1' };
}

type Queue = {
  add(stream: Stream): (data: Buffer) => void;
  chunks(): AsyncGenerator<OutputChunk, void>;
  end(): void;
};

function openQueue(socket: Duplex): Queue {
  const waiting: OutputChunk[] = [];
  let [bytes, ended, abandoned] = [0, false, false];
  let wake: () => void = () => {};
  const take = (): OutputChunk | undefined => {
    const chunk = waiting.shift();
    bytes -= chunk?.data.length ?? 0;
    if (bytes <= QUEUE_BYTES_MAX) socket.resume();
    return chunk;
  };
  async function* chunks(): AsyncGenerator<OutputChunk, void> {
    try {
      for (;;) {
        const more = new Promise<void>((resolve) => (wake = resolve));
        const chunk = take();
        if (chunk !== undefined) yield chunk;
        else if (ended) return;
        else await more;
      }
    } finally {
      abandoned = true;
      waiting.length = 0;
      socket.resume();
    }
  }
  const add = (stream: Stream) => (data: Buffer) => {
    if (abandoned || ended) return;
    waiting.push({ stream, data });
    bytes += data.length;
    if (bytes > QUEUE_BYTES_MAX) socket.pause();
    wake();
  };
  return {
    add,
    chunks,
    end() {
      ended = true;
      wake();
    },
  };
}
