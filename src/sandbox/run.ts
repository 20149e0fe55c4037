/**
 * Short helper programs of the host. Invariant: each has a time limit, an empty environment but for PATH, and none of
 * the server's descriptors.
 */

import { spawn } from 'node:child_process';
import type { ChildProcess, StdioOptions } from 'node:child_process';

const PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';
const TEXT_BYTES_MAX = 65_536;

export type RunOptions = {
  cwd?: string;
  timeout_ms: number;
  /** Exit codes that are no failure; 0 alone without. */
  codes?: number[];
};

/** Starts a program with nothing of the server's own: no environment, no descriptor that is not listed. */
export function start(command: string[], stdio: StdioOptions, cwd = '/'): ChildProcess {
  const child = spawn(command[0] as string, command.slice(1), {
    cwd,
    stdio,
    env: { PATH, LC_ALL: 'C.UTF-8' },
  });
  // An `error` that nobody listens to, of a failed kill for one, would end the server.
  child.on('error', () => {});
  return child;
}

/** Runs to the end and returns its output. Rejects when it fails, with the end of what it said. */
export async function run(command: string[], { cwd, timeout_ms, codes }: RunOptions): Promise<string> {
  const child = start(command, ['ignore', 'pipe', 'pipe'], cwd);
  const output = collect(child, 'stdout');
  await succeeded(child, collect(child, 'stderr'), timeout_ms, codes);
  return output();
}

/** Resolves when the program ended well; kills it at the time limit. */
export async function succeeded(
  child: ChildProcess,
  complaint: () => string,
  timeout_ms: number,
  codes: number[] = [0],
): Promise<void> {
  const timer = setTimeout(() => child.kill('SIGKILL'), timeout_ms);
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  child.once('error', reject);
  child.once('close', (code, signal) => {
    if (code !== null && codes.includes(code)) resolve();
    else reject(new Error(`${child.spawnfile} ended with ${code ?? signal}: ${complaint().trim()}`));
  });
  await promise.finally(() => clearTimeout(timer));
}

/**
 * For the copy into a program that may end once it has read what it needs, as tar does before the padding of its
 * archive has arrived. Whether it had all it needed, its exit tells.
 */
export function unlessReaderClosed(error: NodeJS.ErrnoException): void {
  if (!['ERR_STREAM_PREMATURE_CLOSE', 'EPIPE', 'ECONNRESET'].includes(error.code ?? '')) throw error;
}

/** Keeps the first bytes of a stream and drains the rest. */
export function collect(child: ChildProcess, stream: 'stdout' | 'stderr'): () => string {
  const kept: Buffer[] = [];
  let bytes = 0;
  child[stream]?.on('data', (data: Buffer) => {
    if (bytes < TEXT_BYTES_MAX) kept.push(data.subarray(0, TEXT_BYTES_MAX - bytes));
    bytes += data.length;
  });
  return () => Buffer.concat(kept).toString();
}
