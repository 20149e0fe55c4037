/**
 * What the releases of one deployment say, on its way into the deployment's log: in one order, in pieces, and never more ahead of the
 * database than a bound. What comes faster is dropped, and that is said.
 */
import { StringDecoder } from 'node:string_decoder';
import { appendLog, pruneLog, type LogLine } from '../../store/deployment/logs.ts';
import type { Runtime } from '../runtime.ts';

export type Speaker = {
  write: (phase: LogLine['phase'], stream: LogLine['stream'], data: Uint8Array | string) => void;
  /** The last that its program said, for a sentence that says why something failed. */
  tail: () => string;
};

export type Voice = {
  /** One release of it, or one program. */
  speaker: (release: number) => Speaker;
  /** Resolves when all that was said is kept, or will not be. */
  flush: () => Promise<void>;
};

const FLUSH_MS = 500;
const PIECE_CHARACTERS = 4096;
/** What may wait for one flush. */
const CHARACTERS_MAX = 65_536;
const PIECES_MAX = 200;
const TAIL_CHARACTERS = 2000;
const PRUNE_EVERY = 20;

export function createVoice(
  { database: { db }, logger }: Pick<Runtime, 'database' | 'logger'>,
  deployment_id: string,
): Voice {
  let waiting: LogLine[] = [];
  let characters = 0;
  let dropped = 0;
  let timer: NodeJS.Timeout | undefined;
  let flushing: Promise<void> | undefined;
  let flushes = 0;

  function keep(line: LogLine): void {
    const { text, ...of } = line;
    const last = waiting.at(-1);
    const same =
      last?.release === of.release && last.phase === of.phase && last.stream === of.stream ? last : undefined;
    const joins = same !== undefined && same.text.length + text.length <= PIECE_CHARACTERS;
    if (characters + text.length > CHARACTERS_MAX || (!joins && waiting.length >= PIECES_MAX)) {
      dropped += text.length;
      return;
    }
    characters += text.length;
    if (joins) same.text += text;
    else waiting.push(line);
  }

  async function store(): Promise<void> {
    const last = waiting.at(-1);
    const lines = waiting;
    if (last && dropped > 0) {
      const { release, phase } = last;
      lines.push({ release, phase, stream: 'system', text: `${dropped} characters were dropped\n` });
    }
    waiting = [];
    characters = dropped = 0;
    if (lines.length === 0) return;
    try {
      await appendLog(db, deployment_id, lines);
      if (flushes++ % PRUNE_EVERY === 0) await pruneLog(db, deployment_id);
    } catch (error) {
      logger.warn({ err: error, deployment: deployment_id }, 'what a deployment said could not be kept');
    }
  }

  async function flush(): Promise<void> {
    clearTimeout(timer);
    timer = undefined;
    await flushing;
    flushing ??= store().finally(() => (flushing = undefined));
    await flushing;
  }

  function speaker(release: number): Speaker {
    const decoders = { stdout: new StringDecoder('utf8'), stderr: new StringDecoder('utf8') };
    let tail = '';
    return {
      write: (phase, stream, data) => {
        const bytes = typeof data === 'string' ? Buffer.from(data) : Buffer.from(data);
        // PostgreSQL's text holds no NUL.
        const text = (stream === 'system' ? bytes.toString() : decoders[stream].write(bytes)).replaceAll(
          '\0',
          '\uFFFD',
        );
        if (stream !== 'system') tail = (tail + text).slice(-TAIL_CHARACTERS);
        for (let at = 0; at < text.length; at += PIECE_CHARACTERS)
          keep({ release, phase, stream, text: text.slice(at, at + PIECE_CHARACTERS) });
        timer ??= setTimeout(() => void flush(), FLUSH_MS);
      },
      tail: () => tail.trim(),
    };
  }

  return { speaker, flush };
}
