/**
 * A command's output as it comes. Old clients take every line that is not JSON for output, and new ones refuse an
 * event that they do not know, so a stream is kept alive by bare line feeds.
 */
import type { ServerResponse } from 'node:http';
import { StringDecoder } from 'node:string_decoder';
import type { RunningCommand } from '../../engine/computers/exec.ts';
import type { Logger } from '../../engine/runtime.ts';
import { drained } from '../sse.ts';

export type CommandStream = {
  command: RunningCommand;
  /** Aborts when the reader has left. */
  signal: AbortSignal;
  headers: Record<string, string>;
  timeout_seconds: number;
  keepalive_ms: number;
  /** How long a reader may take none of what is written. */
  stall_ms: number;
  warn: Logger['warn'];
};

/** Never rejects; a reader that leaves or stalls ends the command. */
export async function streamCommand(response: ServerResponse, stream: CommandStream): Promise<void> {
  const { command, headers, keepalive_ms, warn } = stream;
  response.writeHead(200, {
    ...headers,
    'content-type': 'text/event-stream',
    'cache-control': 'no-cache',
    'x-accel-buffering': 'no',
    'x-celesto-command-id': command.id,
  });
  const stop = keepAlive(response, '\n', keepalive_ms);
  try {
    await writeEvents(response, stream);
    response.end();
  } catch (error) {
    warn({ err: error, command: command.id }, 'the stream of a command broke off');
    response.destroy();
  } finally {
    stop();
  }
}

async function writeEvents(response: ServerResponse, stream: CommandStream): Promise<void> {
  const { command, signal, timeout_seconds, stall_ms } = stream;
  const { id: command_id, started_at } = command;
  const send = async (event: object): Promise<void> => {
    if (!signal.aborted && !response.write(`data: ${JSON.stringify(event)}\n\n`))
      await drained(response, stall_ms, signal);
  };
  const started_at_unix_ms = started_at.getTime();
  await send({ type: 'started', command_id, started_at_unix_ms, timeout_seconds });
  const decoders = { stdout: new StringDecoder('utf8'), stderr: new StringDecoder('utf8') };
  for await (const { stream: type, data } of command.output)
    for (const text of texts(decoders[type], data)) await send({ type, data: text });
  for (const type of ['stdout', 'stderr'] as const) {
    const rest = decoders[type].end();
    if (rest !== '') await send({ type, data: rest });
  }
  const { exit_code, duration_ms, timed_out } = await command.end;
  const ended_at_unix_ms = started_at_unix_ms + duration_ms;
  await send({
    ...{ type: 'exit', exit_code, command_id, started_at_unix_ms, ended_at_unix_ms, duration_ms, timed_out },
  });
}

/** One event is at most 1 MiB for its readers, and JSON writes a byte with at most six characters. */
const PIECE_BYTES = 128 * 1024;

/** Characters that the bytes cut in two come with the next ones. */
function* texts(decoder: StringDecoder, data: Uint8Array): Generator<string> {
  for (let at = 0; at < data.length; at += PIECE_BYTES) {
    const text = decoder.write(data.subarray(at, at + PIECE_BYTES));
    if (text !== '') yield text;
  }
}

/** Until the function that comes back is called. */
export function keepAlive(response: ServerResponse, sign: string, keepalive_ms: number): () => void {
  const timer = setInterval(() => {
    if (!response.writableNeedDrain && !response.writableEnded) response.write(sign);
  }, keepalive_ms);
  timer.unref();
  return () => clearInterval(timer);
}
