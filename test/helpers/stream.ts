/** A reader of an event stream that keeps every byte, so that tests can check the frames themselves. */
import { createParser, type EventSourceMessage } from 'eventsource-parser';
import type { Json } from './http.ts';
import { recordedFetch } from './records.ts';

export type Frame = { text: string; id: number | undefined; event: string | undefined; data: Json };

export type Stream = {
  status: number;
  headers: Headers;
  /** All frames so far, comments included. */
  frames: Frame[];
  /** Reads on until `done` holds; rejects when the stream ends before. */
  until: (done: (frames: Frame[]) => boolean) => Promise<Frame[]>;
  /** Resolves when the server ends the stream. */
  ended: () => Promise<void>;
  close: () => void;
};

export async function openStream(url: string, headers: Record<string, string>): Promise<Stream> {
  const leaving = new AbortController();
  const response = await recordedFetch(url, { headers, signal: leaving.signal });
  const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
  const frames: Frame[] = [];
  let rest = '';
  const readMore = async (): Promise<boolean> => {
    const { done, value } = await reader.read();
    if (done) return false;
    const parts = (rest + value).split('\n\n');
    rest = parts.pop() ?? '';
    frames.push(...parts.map(parseFrame));
    return true;
  };
  return {
    ...{ status: response.status, headers: response.headers, frames },
    until: async (done) => {
      while (!done(frames))
        if (!(await readMore())) throw new Error(`the stream ended after ${frames.length} frames`);
      return frames;
    },
    ended: async () => {
      while (await readMore());
    },
    close: () => leaving.abort(),
  };
}

/** Read by a parser that is not ours: the frames must be what any client takes them for. */
function parseFrame(text: string): Frame {
  let message: EventSourceMessage | undefined;
  createParser({ onEvent: (parsed) => (message = parsed) }).feed(`${text}\n\n`);
  return {
    text,
    id: message?.id === undefined ? undefined : Number(message.id),
    event: message?.event,
    data: JSON.parse(message?.data ?? 'null') as Json,
  };
}

/** The seqs of the events among the frames. */
export function seqs(frames: Frame[]): number[] {
  return frames.flatMap(({ id }) => (id === undefined ? [] : [id]));
}
