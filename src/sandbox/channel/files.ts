/**
 * The files of execs: for each a name, its pipes, its script, and what sets it up where that is long.
 * Invariant: a name is used once on this machine, because processes are found by it.
 */

import { randomInt } from 'node:crypto';
import { chmod, unlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { makePipes } from '../launcher.ts';

const PIPES_AHEAD = 8;
const PIPES = ['in', 'out', 'err'];

/** Names are numbers: the random part tells awakenings apart, the rest counts. */
const COUNT_MAX = 1_000_000;

/** Where the execs' files are for the server, and for the loop. */
export type Directory = { outside: string; inside: string };

/** Some are made ahead. */
export function namesWithPipes({ outside }: Directory): () => Promise<string> {
  const ahead: string[] = [];
  let last = randomInt(1, 2 ** 32) * COUNT_MAX;
  let making: Promise<void> | null = null;
  const make = async (): Promise<void> => {
    const names = Array.from({ length: PIPES_AHEAD }, () => String((last += 1)));
    const paths = names.flatMap((name) => PIPES.map((kind) => join(outside, `${name}.${kind}`)));
    await makePipes(paths);
    ahead.push(...names);
  };
  const refill = (): Promise<void> => (making ??= make().finally(() => (making = null)));
  refill().catch(() => {});
  return async () => {
    while (ahead.length === 0) await refill();
    if (ahead.length < PIPES_AHEAD / 2) refill().catch(() => {});
    return ahead.shift() as string;
  };
}

/** Puts a file of an exec where the loop finds it; returns its path there. */
export async function writeInside(directory: Directory, name: string, content: string): Promise<string> {
  const path = join(directory.outside, name);
  await writeFile(path, content, { flag: 'wx', mode: 0o600 });
  // The directory's group is the computer's; a mode is set again because the server's umask may be stricter.
  await chmod(path, 0o640);
  return join(directory.inside, name);
}

/** Nobody waits for it. */
export async function removeFiles({ outside }: Directory, name: string): Promise<void> {
  const paths = ['script', 'setup', ...PIPES].map((kind) => join(outside, `${name}.${kind}`));
  await Promise.all(paths.map((path) => unlink(path).catch(() => {})));
}
