/**
 * A login shell on a terminal that the daemon makes for an exec.
 * Invariant: what closes it ends also what runs in it, as an exec's end does.
 */

import { randomBytes } from 'node:crypto';
import type { Socket } from 'node:net';
import type { Exec } from 'dockerode';
import { setTimeout as delay } from 'node:timers/promises';
import { ComputerLost } from '../../resource/computer/driver.ts';
import type { Exit, PtySpec, Terminal } from '../../resource/computer/driver.ts';
import { unless } from './daemon.ts';
import { startExec, sweep } from './exec.ts';
import type { Body } from './exec.ts';
import { commandOf } from './scripts.ts';

/** As the kernel's `struct winsize` has them. */
const SIZE_MAX = 65_535;
const START_MS_MAX = 30_000;
const EARLY_BYTES_MAX = 65_536;
/** The daemon may learn of the end a little after the terminal's last byte. */
const EXIT_POLLS_MAX = 200;
const EXIT_POLL_MS = 20;
const LOST: Exit = { outcome: 'lost', exit_code: null };

/** @throws RangeError for a size that no terminal has. */
export async function openTerminal(body: Body, { rows, cols, cwd, env }: PtySpec): Promise<Terminal> {
  expectSize(rows, cols);
  const name = body.name();
  const mark = `\x1e${randomBytes(16).toString('hex')}`;
  const command = commandOf('shell', name, mark, cwd ?? '/workspace', String(rows), String(cols));
  const { exec, socket } = await startExec(body, command, { tty: true, env: environmentOf(env ?? {}) });
  socket.on('error', () => socket.destroy());
  const over = new Promise<void>((resolve) => {
    for (const event of ['end', 'close']) socket.once(event, () => resolve());
  });
  const first = await untilStarted(body, socket, mark).catch((error: unknown) => {
    // It may start yet, with nobody there.
    sweep(body, name).catch(() => body.kill());
    throw error;
  });
  let swept: Promise<void> | null = null;
  const close = (): void => {
    swept ??= sweep(body, name)
      .catch(() => body.kill())
      .finally(() => socket.destroy());
  };
  const gone = Promise.withResolvers<Exit>();
  const forget = body.onEnded(() => {
    gone.resolve(LOST);
    socket.destroy();
  });
  const exit = Promise.race([exitOf(exec, body, over, () => swept), gone.promise]).finally(forget);
  exit.catch(() => {});
  return {
    ...{ exit, close, output: screen(first, socket) },
    write: (data) => new Promise((resolve) => void socket.write(data, () => resolve())),
    async resize(new_rows, new_cols) {
      expectSize(new_rows, new_cols);
      // A terminal that is gone has no size.
      await exec.resize({ h: new_rows, w: new_cols }).catch(unless(404, 409, 500));
    },
  };
}

function expectSize(rows: number, cols: number): void {
  for (const size of [rows, cols]) {
    if (!Number.isInteger(size) || size < 1 || size > SIZE_MAX)
      throw new RangeError(`a terminal cannot have ${rows} rows and ${cols} columns`);
  }
}

function environmentOf(env: Record<string, string>): string[] {
  const usable = Object.entries({ TERM: 'xterm-256color', ...env }).filter(
    ([key, value]) => /^[A-Za-z_][A-Za-z0-9_]*$/.test(key) && !value.includes('\0'),
  );
  return usable.map(([key, value]) => `${key}=${value}`);
}

/** Returns what follows the mark. */
async function untilStarted(body: Body, socket: Socket, mark: string): Promise<Buffer> {
  const timer = setTimeout(() => socket.destroy(), START_MS_MAX);
  let early = Buffer.alloc(0);
  try {
    for await (const chunk of socket.iterator({ destroyOnReturn: false })) {
      early = Buffer.concat([early, chunk as Buffer]);
      const at = early.indexOf(mark);
      if (at !== -1) return early.subarray(at + mark.length);
      if (early.length > EARLY_BYTES_MAX) break;
    }
  } catch {
    // The socket was destroyed: there is no more to come.
  } finally {
    clearTimeout(timer);
  }
  socket.destroy();
  if (!body.alive()) throw new ComputerLost('the computer ended before the terminal started');
  throw new Error(`the terminal did not start: ${early.toString().trim()}`);
}

async function exitOf(
  exec: Exec,
  body: Body,
  over: Promise<void>,
  closing: () => Promise<void> | null,
): Promise<Exit> {
  await over;
  if (closing() !== null) {
    await closing();
    return body.alive() ? { outcome: 'aborted', exit_code: null } : LOST;
  }
  for (let polls = 0; polls < EXIT_POLLS_MAX && body.alive(); polls += 1) {
    const { Running, ExitCode } = await exec.inspect();
    if (!Running && ExitCode !== null) return { outcome: 'exited', exit_code: ExitCode };
    await delay(EXIT_POLL_MS);
  }
  return body.alive() ? { outcome: 'aborted', exit_code: null } : LOST;
}

async function* screen(first: Buffer, socket: Socket): AsyncGenerator<Uint8Array, void> {
  try {
    if (first.length > 0) yield first;
    for await (const chunk of socket.iterator({ destroyOnReturn: false })) yield chunk as Buffer;
  } catch {
    // It was closed.
  } finally {
    socket.resume();
  }
}
