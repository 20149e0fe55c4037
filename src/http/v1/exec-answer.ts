/**
 * The answer to a command as a whole. A short one is made at once; a long one is written in pieces, as its reader takes them: JSON may
 * need six characters for a byte, and a server that made it in one would stand still for seconds.
 */
import type { ServerResponse } from 'node:http';
import type { CommandResult } from '../../engine/computers/exec.ts';
import { drained } from '../sse.ts';
import { keepAlive } from './exec-stream.ts';

/** Up to here an answer is made at once. */
export const SHORT_BYTES = 262_144;
const PIECE_BYTES = 131_072;

export type Pace = {
  keepalive_ms: number;
  /** How long a reader may take none of what is written. */
  stall_ms: number;
  /** Aborts when the reader has left. */
  signal: AbortSignal;
};

export function isShort({ stdout, stderr }: CommandResult): boolean {
  return [...stdout, ...stderr].reduce((bytes, { length }) => bytes + length, 0) <= SHORT_BYTES;
}

export function renderShort(result: CommandResult) {
  return { ...fieldsOf(result), stdout: whole(result.stdout), stderr: whole(result.stderr) };
}

/**
 * Writes the answer once there is one; until then spaces keep the connection alive. When the command fails the connection is cut: the
 * status has been sent. Never rejects.
 */
export async function answerInPieces(
  response: ServerResponse,
  headers: Record<string, string>,
  result: Promise<CommandResult>,
  pace: Pace,
): Promise<void> {
  response.writeHead(200, { ...headers, 'content-type': 'application/json' });
  response.write(' ');
  const stop = keepAlive(response, ' ', pace.keepalive_ms);
  try {
    const pieces = piecesOf(await result.finally(stop));
    for (const piece of pieces) {
      if (pace.signal.aborted || response.destroyed) break;
      if (!response.write(piece)) await drained(response, pace.stall_ms, pace.signal);
    }
    response.end();
  } catch {
    response.destroy();
  }
}

function* piecesOf(result: CommandResult): Generator<string> {
  yield JSON.stringify(fieldsOf(result)).slice(0, -1);
  for (const name of ['stdout', 'stderr'] as const) {
    yield `,"${name}":"`;
    for (const text of textsOf(result[name])) yield JSON.stringify(text).slice(1, -1);
    yield '"';
  }
  yield '}';
}

function fieldsOf({ id, exit_code, duration_ms, timed_out, truncated, error_type }: CommandResult) {
  return { exit_code, command_id: id, duration_ms, timed_out, truncated, error_type };
}

function whole(blocks: Uint8Array[]): string {
  return [...textsOf(blocks)].join('');
}

/** Bytes that are no UTF-8 are replaced; a mark at the beginning is a part of the output. */
function* textsOf(blocks: Uint8Array[]): Generator<string> {
  const decoder = new TextDecoder('utf-8', { ignoreBOM: true });
  for (const block of blocks)
    for (let at = 0; at < block.length; at += PIECE_BYTES)
      yield decoder.decode(block.subarray(at, at + PIECE_BYTES), { stream: true });
  yield decoder.decode();
}
