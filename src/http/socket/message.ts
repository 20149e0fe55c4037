/** What a terminal's client sends: a text frame that is a JSON object of ours is control, everything else is typed into the shell. */
import type { RawData } from 'ws';

export type TerminalMessage =
  | { type: 'resize'; rows: number; cols: number }
  | { type: 'close' }
  | { type: 'token'; token: string }
  | { type: 'nothing' }
  | { type: 'input'; data: Uint8Array };

/** As the WebSocket gives it: the bytes, and whether the frame was binary. */
export type Frame = [data: RawData, is_binary: boolean];

/** No control message is longer. */
const CONTROL_BYTES_MAX = 1024;
const SIZE_MAX = 1000;

export function parseMessage([raw, is_binary]: Frame): TerminalMessage {
  const data = bytesOf(raw);
  const control = is_binary || data.length > CONTROL_BYTES_MAX ? undefined : controlOf(data.toString());
  return control ?? { type: 'input', data };
}

/** Of a terminal whose client sends nothing but what is typed. */
export function parseTyped([raw]: Frame): TerminalMessage {
  return { type: 'input', data: bytesOf(raw) };
}

/** Of a command whose client marks each frame: 0 and then what goes to its standard input. */
export function parseStdin([raw, is_binary]: Frame): TerminalMessage {
  const data = bytesOf(raw);
  const fits = is_binary && data.length > 1 && data[0] === 0;
  return fits ? { type: 'input', data: data.subarray(1) } : { type: 'nothing' };
}

/** What the first message of a connection without headers says; `{"token"}` needs no type there. */
export function tokenOf([raw, is_binary]: Frame): string | undefined {
  const data = bytesOf(raw);
  if (is_binary || data.length > CONTROL_BYTES_MAX) return undefined;
  const token = objectOf(data.toString())?.['token'];
  return typeof token === 'string' ? token : undefined;
}

function controlOf(text: string): TerminalMessage | undefined {
  const { type, rows, cols, token } = objectOf(text) ?? {};
  switch (type) {
    case 'resize':
      return { type, rows: sizeOf(rows, 24), cols: sizeOf(cols, 80) };
    case 'close':
      return { type };
    case 'token':
      return { type, token: String(token) };
    default:
      return undefined;
  }
}

function objectOf(text: string): Record<string, unknown> | undefined {
  if (!text.startsWith('{')) return undefined;
  try {
    return JSON.parse(text) as Record<string, unknown>;
  } catch {
    return undefined;
  }
}

/** A whole number within what terminals can be. */
function sizeOf(value: unknown, fallback: number): number {
  const whole = Math.floor(Number(value));
  return Number.isFinite(whole) && whole > 0 ? Math.min(whole, SIZE_MAX) : fallback;
}

function bytesOf(raw: RawData): Buffer {
  if (Array.isArray(raw)) return Buffer.concat(raw);
  return raw instanceof ArrayBuffer ? Buffer.from(raw) : raw;
}
