/**
 * A login shell on a pseudo-terminal that `script` of util-linux makes inside the computer; the server sees three pipes.
 * Invariant: the terminal's name is only the computer's claim, and used for nothing but a command inside it.
 */

import { PassThrough } from 'node:stream';
import { ComputerLost, Unsupported } from '../../resource/computer/driver.ts';
import type {
  ExecSpec,
  Execution,
  Exit,
  OutputChunk,
  PtySpec,
  Terminal,
} from '../../resource/computer/driver.ts';
import { quoted } from '../shell.ts';

/** Longer than any timer: a terminal has no time limit of its own. */
const NO_LIMIT_MS = Number.MAX_SAFE_INTEGER;
const RESIZE_MS_MAX = 10_000;
const NOT_FOUND_CODE = 127;
/** What may be shown before the terminal has said its name. */
const EARLY_CHUNKS_MAX = 64;
const NAME = /^(\/dev\/pts\/\d{1,6})\n$/;
/** As the kernel's `struct winsize` has them. */
const SIZE_MAX = 65_535;

const ENVIRONMENT = {
  TERM: 'xterm-256color',
  // `script` runs its command with it.
  SHELL: '/bin/sh',
};

/** Set late: a bash that is not interactive drops it. */
const PROMPT = String.raw`\u@\h:\w\$ `;

type Exec = (spec: ExecSpec) => Execution;

/** @throws Unsupported where there is no `script`; RangeError for a size that no terminal has. */
export async function openTerminal(exec: Exec, { rows, cols, cwd, env }: PtySpec): Promise<Terminal> {
  const input = new PassThrough();
  input.on('error', () => {});
  const abort = new AbortController();
  const { output, exit } = exec({
    script: startScript(rows, cols),
    ...(cwd === undefined ? {} : { cwd }),
    env: { ...ENVIRONMENT, ...env, SHELL: ENVIRONMENT.SHELL },
    stdin: input,
    timeout_ms: NO_LIMIT_MS,
    signal: abort.signal,
  });
  const over = (): void => void input.destroy();
  exit.then(over, over);
  const chunks = output[Symbol.asyncIterator]();
  const { name, shown } = await opening(chunks, exit);
  return {
    output: screen(shown, chunks),
    exit,
    write: (data) => new Promise((resolve) => void input.write(data, () => resolve())),
    resize: (new_rows, new_cols) => resize(exec, name, new_rows, new_cols),
    close: () => abort.abort(),
  };
}

/**
 * `script` turns echo off when its own input is no terminal. The size is there before the shell starts. The name goes
 * out beside the terminal, through the error output of the exec.
 */
function startScript(rows: number, cols: number): string {
  const inner =
    `/usr/bin/stty sane iutf8 ${sizeWords(rows, cols)}; tty >&3; exec 3>&-; ` +
    `export SHELL=/bin/bash PS1=${quoted(PROMPT)}; exec /bin/bash --login`;
  return `exec 3>&2; exec /usr/bin/script -qefc ${quoted(inner)} /dev/null`;
}

function sizeWords(rows: number, cols: number): string {
  for (const size of [rows, cols]) {
    if (!Number.isInteger(size) || size < 1 || size > SIZE_MAX)
      throw new RangeError(`a terminal cannot have ${rows} rows and ${cols} columns`);
  }
  return `rows ${rows} cols ${cols}`;
}

async function opening(
  chunks: AsyncIterator<OutputChunk>,
  exit: Promise<Exit>,
): Promise<{ name: string; shown: Uint8Array[] }> {
  const shown: Uint8Array[] = [];
  let said = '';
  while (shown.length < EARLY_CHUNKS_MAX) {
    const next = await chunks.next();
    if (next.done === true) break;
    const { stream, data } = next.value;
    if (stream === 'stdout') shown.push(data);
    else said = Buffer.from(data).toString();
    const name = NAME.exec(said)?.[1];
    if (name !== undefined) return { name, shown };
  }
  await chunks.return?.();
  throw failure(await exit, said);
}

function failure({ outcome, exit_code }: Exit, said: string): Error {
  if (outcome === 'lost') return new ComputerLost('the computer ended before the terminal started');
  if (exit_code === NOT_FOUND_CODE)
    return new Unsupported('terminals need the program `script` of util-linux');
  return new Error(`the terminal did not start (${outcome} ${exit_code}): ${said.trim()}`);
}

async function* screen(
  shown: Uint8Array[],
  chunks: AsyncIterator<OutputChunk>,
): AsyncGenerator<Uint8Array, void> {
  try {
    for (let first = shown.shift(); first !== undefined; first = shown.shift()) yield first;
    for (let next = await chunks.next(); next.done !== true; next = await chunks.next()) {
      if (next.value.stream === 'stdout') yield next.value.data;
    }
  } finally {
    await chunks.return?.();
  }
}

/** The kernel sends SIGWINCH. A terminal that is gone has no size. */
async function resize(exec: Exec, name: string, rows: number, cols: number): Promise<void> {
  const script = `/usr/bin/stty -F ${name} ${sizeWords(rows, cols)}`;
  const { output, exit } = exec({ script, cwd: '/', timeout_ms: RESIZE_MS_MAX });
  for await (const chunk of output) void chunk;
  await exit;
}
