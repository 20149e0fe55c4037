/**
 * The files of execs: for each a name, its pipes, its script and what sets it up.
 * Invariant: a name is used once on this machine, because processes are found by it.
 */

import { randomInt } from 'node:crypto';
import { chmod, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { ExecSpec } from '../../resource/computer/driver.ts';
import { makePipes } from '../launcher.ts';
import { prologue } from './loop.ts';

const PIPES_AHEAD = 16;
const PIPES = ['in', 'out', 'err'];
const WORKSPACE = '/workspace';

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

/** @param translate how the driver names a path or a text of the script. */
export async function writeFiles(
  { inside, outside }: Directory,
  name: string,
  spec: ExecSpec,
  translate: (text: string) => string,
): Promise<void> {
  const env = Object.entries(spec.env ?? {}).map(([key, value]) => [key, translate(value)]);
  const start = prologue({
    directory: inside,
    name,
    cwd: translate((spec.cwd ?? WORKSPACE).replaceAll('\0', '')),
    env: Object.fromEntries(env) as Record<string, string>,
  });
  await Promise.all([
    writeInside(join(outside, `${name}.sh`), start),
    writeInside(join(outside, `${name}.script`), translate(spec.script.replaceAll('\0', ''))),
  ]);
}

/** Nobody waits for it. */
export async function removeFiles({ outside }: Directory, name: string): Promise<void> {
  const paths = ['sh', 'script', ...PIPES].map((kind) => join(outside, `${name}.${kind}`));
  await Promise.all(paths.map((path) => rm(path, { force: true }).catch(() => {})));
}

/** The directory's group is the computer's; the mode is set again because the server's umask may be stricter. */
async function writeInside(path: string, content: string): Promise<void> {
  await writeFile(path, content, { flag: 'wx', mode: 0o600 });
  await chmod(path, 0o640);
}
