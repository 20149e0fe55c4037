/** Short helper programs of the host. Invariant: each has a time limit. */

import { start, type Program } from './launcher.ts';

const TEXT_BYTES_MAX = 65_536;

export type RunOptions = {
  cwd?: string;
  timeout_ms: number;
  /** Exit codes that are no failure; 0 alone without. */
  codes?: number[];
};

/** Runs to the end and returns its output. Rejects when it fails, with the end of what it said. */
export async function run(command: string[], { cwd = '/', timeout_ms, codes }: RunOptions): Promise<string> {
  const program = await start(command, ['ignore', 'pipe', 'pipe'], { cwd });
  const output = collect(program, 1);
  await succeeded(program, collect(program, 2), timeout_ms, codes);
  return output();
}

/** Runs to the end and returns its exit code, null where it was killed, and what it said: where failures differ. */
export async function tryRun(
  command: string[],
  { timeout_ms }: Pick<RunOptions, 'timeout_ms'>,
): Promise<{ code: number | null; said: string }> {
  const program = await start(command, ['ignore', 'pipe', 'pipe']);
  const said = [collect(program, 1), collect(program, 2)];
  const { code } = await endedIn(program, timeout_ms);
  return { code, said: said.map((each) => each().trim()).join(' ') };
}

/** Resolves when the program ended well; kills it at the time limit. */
export async function succeeded(
  program: Program,
  complaint: () => string,
  timeout_ms: number,
  codes: number[] = [0],
): Promise<void> {
  const { code, signal } = await endedIn(program, timeout_ms);
  if (code === null || !codes.includes(code))
    throw new Error(`${program.name} ended with ${code ?? `signal ${signal}`}: ${complaint().trim()}`);
}

async function endedIn(program: Program, timeout_ms: number): Program['closed'] {
  const timer = setTimeout(program.kill, timeout_ms);
  return await program.closed.finally(() => clearTimeout(timer));
}

/**
 * For the copy into a program that may end once it has read what it needs, as tar does before the padding of its
 * archive has arrived. Whether it had all it needed, its exit tells.
 */
export function unlessReaderClosed(error: NodeJS.ErrnoException): void {
  if (!['ERR_STREAM_PREMATURE_CLOSE', 'EPIPE', 'ECONNRESET'].includes(error.code ?? '')) throw error;
}

/** Keeps the first bytes of what it writes to a descriptor and drains the rest. */
export function collect({ pipes }: Program, descriptor: 1 | 2): () => string {
  const kept: Buffer[] = [];
  let bytes = 0;
  pipes[descriptor]?.on('data', (data: Buffer) => {
    if (bytes < TEXT_BYTES_MAX) kept.push(data.subarray(0, TEXT_BYTES_MAX - bytes));
    bytes += data.length;
  });
  return () => Buffer.concat(kept).toString();
}
