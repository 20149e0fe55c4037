/**
 * Where what a release says goes: into the deployment's log, in pieces, and no faster than the database can take it. What comes faster is
 * dropped, and that is said.
 */
import { StringDecoder } from 'node:string_decoder';
import { appendLog, pruneLog, type LogLine } from '../../store/deployment/logs.ts';
import type { Runtime } from '../runtime.ts';

export type Said = {
  write: (phase: LogLine['phase'], stream: LogLine['stream'], data: Uint8Array | string) => void;
  /** The last of it, for a sentence that says why something failed. */
  tail: () => string;
  /** Resolves when all that was said is kept, or will not be. */
  flush: () => Promise<void>;
};

const FLUSH_MS = 500;
const PIECE_CHARACTERS = 4096;
/** Of one flush. */
const CHARACTERS_MAX = 65_536;
const TAIL_CHARACTERS = 2000;
const PRUNE_EVERY = 20;

export function createSaid(
  { database, logger }: Pick<Runtime, 'database' | 'logger'>,
  deployment_id: string,
  release: number,
): Said {
  const decoders = new Map<string, StringDecoder>();
  let waiting: LogLine[] = [];
  let characters = 0;
  let dropped = 0;
  let tail = '';
  let timer: NodeJS.Timeout | undefined;
  let flushed = Promise.resolve();
  let flushes = 0;

  function decode(stream: string, data: Uint8Array | string): string {
    if (typeof data === 'string') return data;
    const decoder = decoders.get(stream) ?? new StringDecoder('utf8');
    decoders.set(stream, decoder);
    // PostgreSQL's text holds no NUL.
    return decoder.write(Buffer.from(data)).replaceAll('\0', '\uFFFD');
  }

  function keep(phase: LogLine['phase'], stream: LogLine['stream'], text: string): void {
    const last = waiting.at(-1);
    if (last?.phase === phase && last.stream === stream && last.text.length + text.length <= PIECE_CHARACTERS)
      last.text += text;
    else waiting.push({ release, phase, stream, text });
    characters += text.length;
  }

  async function store(lines: LogLine[]): Promise<void> {
    try {
      await appendLog(database.db, deployment_id, lines);
      if ((flushes += 1) % PRUNE_EVERY === 0) await pruneLog(database.db, deployment_id);
    } catch (error) {
      logger.warn({ err: error, deployment: deployment_id }, 'what a deployment said could not be kept');
    }
  }

  function flush(): Promise<void> {
    clearTimeout(timer);
    timer = undefined;
    if (dropped > 0) keep('run', 'system', `${dropped} characters were dropped\n`);
    const lines = waiting;
    waiting = [];
    characters = dropped = 0;
    if (lines.length > 0) flushed = flushed.then(() => store(lines));
    return flushed;
  }

  return {
    write: (phase, stream, data) => {
      const text = decode(stream, data);
      if (text === '') return;
      if (stream !== 'system') tail = (tail + text).slice(-TAIL_CHARACTERS);
      for (let at = 0; at < text.length; at += PIECE_CHARACTERS) {
        const piece = text.slice(at, at + PIECE_CHARACTERS);
        if (characters + piece.length > CHARACTERS_MAX) dropped += piece.length;
        else keep(phase, stream, piece);
      }
      timer ??= setTimeout(() => void flush(), FLUSH_MS);
    },
    tail: () => tail.trim(),
    flush,
  };
}
