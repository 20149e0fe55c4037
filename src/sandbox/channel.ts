/**
 * The way of scripts into an awake computer and of their output out of it.
 * Invariant: every file that the server opens here lies in a directory that the inside can only read, so an agent that
 * forges reports or steals commands harms its own computer: an exec then ends by its time limit, at worst `lost`.
 */

import type { ChildProcess } from 'node:child_process';
import { chmod, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Readable, Writable } from 'node:stream';
import { ComputerLost } from '../resource/computer/driver.ts';
import type { ExecSpec, Execution, Exit, OutputChunk } from '../resource/computer/driver.ts';
import { prologue } from './loop.ts';
import { lingeringPipes, openOutput } from './output.ts';
import type { Output } from './output.ts';
import { run } from './run.ts';

/** An exec that does not end this long after it was told to costs the computer its life. */
const KILL_GRACE_MS = 800;
/** Reports that belong to no exec, until the computer is ended: each costs the server work. */
const JUNK_BYTES_MAX = 65_536;
const LINE_BYTES_MAX = 256;
const PIPES_AHEAD = 16;
const LINGERING_PIPES_MAX = 256;
const TIMER_MS_MAX = 2_147_483_647;
const WORKSPACE = '/workspace';

export type Inside = {
  /** The running sandbox: its stdin and stdout belong to the loop. */
  child: ChildProcess;
  /** Resolves when it has ended and all it wrote has been read. A promise, because the event may already be past. */
  closed: Promise<unknown>;
  /** Where the execs' files are for the server, and for the loop. */
  directory: { outside: string; inside: string };
  /** Ends every process of the computer at once. */
  kill: () => void;
  /** How this driver names a path or a text of the script; the identity where the inside has its own root. */
  translate: (text: string) => string;
  fail: (failpoint: string) => void | Promise<void>;
};

export type Channel = {
  /** Resolves when the loop runs; rejects with `ComputerLost` when it never will. */
  ready: Promise<void>;
  exec(spec: ExecSpec): Execution;
  close(): void;
};

type Pending = {
  settle: (exit: Exit) => void;
  pid: number | null;
  ending: 'timeout' | 'aborted' | null;
};

export function openChannel(inside: Inside): Channel {
  const pending = new Map<string, Pending>();
  const lingering = lingeringPipes(LINGERING_PIPES_MAX);
  const names = namesWithPipes(inside);
  const control = inside.child.stdin as Writable;
  control.on('error', () => inside.kill());
  const ready = readReports(inside, pending, control);
  void inside.closed.then(() => {
    for (const { settle } of pending.values()) settle(LOST);
    pending.clear();
    lingering.close();
  });

  return {
    ready,
    close: () => lingering.close(),
    exec(spec) {
      if (!(spec.cwd ?? WORKSPACE).startsWith('/')) throw new RangeError('cwd must be absolute');
      const opened = Promise.withResolvers<Output | null>();
      const made: Output[] = [];
      const open = (output: Output): void => {
        made.push(output);
        opened.resolve(output);
      };
      const exit = perform({ inside, pending, control, names, spec, open })
        // With the computer its directory goes, and an exec that was being prepared there fails in some way.
        .catch((error: unknown): Exit => {
          if (!gone(inside)) throw error;
          return LOST;
        })
        .finally(() => {
          lingering.add(made.flatMap((output) => output.finish()));
          opened.resolve(null);
        });
      exit.catch(() => {});
      return { exit, output: chunksOf(opened.promise) };
    },
  };
}

async function* chunksOf(opened: Promise<Output | null>): AsyncGenerator<OutputChunk, void> {
  const output = await opened;
  if (output !== null) yield* output.chunks();
}

type Performance = {
  inside: Inside;
  pending: Map<string, Pending>;
  control: Writable;
  names: () => Promise<string>;
  spec: ExecSpec;
  open: (output: Output) => void;
};

const LOST: Exit = { outcome: 'lost', exit_code: null };

async function perform(performance: Performance): Promise<Exit> {
  const { inside, names, spec, control } = performance;
  const settled = Promise.withResolvers<Exit>();
  const own: Pending = { settle: settled.resolve, pid: null, ending: null };
  const stopWatching = watchEnding({ own, spec, control, kill: inside.kill });
  try {
    if (gone(inside)) return LOST;
    const name = await names();
    await writeFiles(inside, name, spec);
    const exit = await startAndWait(performance, own, name, settled.promise);
    await removeFiles(inside, name);
    return exit;
  } finally {
    stopWatching();
  }
}

async function startAndWait(
  { inside, pending, control, open }: Performance,
  own: Pending,
  name: string,
  settled: Promise<Exit>,
): Promise<Exit> {
  const path = join(inside.directory.outside, name);
  open(await openOutput(`${path}.out`, `${path}.err`));
  if (own.ending !== null) return { outcome: own.ending, exit_code: null };
  if (gone(inside)) return LOST;
  pending.set(name, own);
  control.write(`exec ${name}\n`);
  await inside.fail('sandbox.exec_started');
  return await settled;
}

/** Ends the exec at its time limit or on abort: first its process group, after a grace the whole computer. */
function watchEnding(watch: {
  own: Pending;
  spec: ExecSpec;
  control: Writable;
  kill: () => void;
}): () => void {
  const { own, spec, control, kill } = watch;
  let grace: NodeJS.Timeout | undefined;
  const end = (reason: 'timeout' | 'aborted'): void => {
    if (own.ending !== null) return;
    own.ending = reason;
    if (own.pid !== null) control.write(`kill ${own.pid}\n`);
    grace = setTimeout(kill, KILL_GRACE_MS);
  };
  const abort = (): void => end('aborted');
  const timer = setTimeout(() => end('timeout'), Math.min(spec.timeout_ms, TIMER_MS_MAX));
  spec.signal?.addEventListener('abort', abort);
  if (spec.signal?.aborted === true) abort();
  return () => {
    clearTimeout(timer);
    clearTimeout(grace);
    spec.signal?.removeEventListener('abort', abort);
  };
}

/** Settles execs as the loop reports. A computer that floods this pipe is ended. */
function readReports(inside: Inside, pending: Map<string, Pending>, control: Writable): Promise<void> {
  const ready = Promise.withResolvers<void>();
  ready.promise.catch(() => {});
  let junk_bytes = 0;
  let line = '';
  const status = inside.child.stdout as Readable;
  status.on('data', (data: Buffer) => {
    const lines = (line + data.toString('latin1')).split('\n');
    line = lines.pop() ?? '';
    for (const each of lines) {
      if (each === 'ready') ready.resolve();
      if (each === 'ready' || !report(each, pending, control)) junk_bytes += each.length + 1;
    }
    if (junk_bytes > JUNK_BYTES_MAX || line.length > LINE_BYTES_MAX) inside.kill();
  });
  void inside.closed.then(() => ready.reject(new ComputerLost('the sandbox ended before it was ready')));
  return ready.promise;
}

/** Whether the line was about an exec that runs. */
function report(line: string, pending: Map<string, Pending>, control: Writable): boolean {
  const [, verb, name, number] = /^(started|exited) (\d{1,9}) (\d{1,9})$/.exec(line) ?? [];
  const own = name === undefined ? undefined : pending.get(name);
  if (own === undefined || name === undefined) return false;
  if (verb === 'exited') {
    pending.delete(name);
    own.settle({
      outcome: own.ending ?? 'exited',
      exit_code: own.ending === null ? Number(number) & 0xff : null,
    });
    return true;
  }
  if (own.pid !== null) return false;
  own.pid = Number(number);
  if (own.ending !== null) control.write(`kill ${own.pid}\n`);
  return true;
}

function gone(inside: Inside): boolean {
  return inside.child.exitCode !== null || inside.child.signalCode !== null;
}

/** Node cannot make named pipes; one `mkfifo` makes some ahead. */
function namesWithPipes({ directory }: Inside): () => Promise<string> {
  const ahead: string[] = [];
  let last = 0;
  let making: Promise<void> | null = null;
  const make = async (): Promise<void> => {
    const names = Array.from({ length: PIPES_AHEAD }, () => String((last += 1)));
    const paths = names.flatMap((name) => [`${name}.out`, `${name}.err`]);
    await run(['mkfifo', '-m', '660', '--', ...paths], { cwd: directory.outside, timeout_ms: 10_000 });
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

async function writeFiles(inside: Inside, name: string, spec: ExecSpec): Promise<void> {
  const { translate, directory } = inside;
  const env = Object.entries(spec.env ?? {}).map(([key, value]) => [key, translate(value)]);
  const start = prologue({
    directory: directory.inside,
    name,
    cwd: translate((spec.cwd ?? WORKSPACE).replaceAll('\0', '')),
    env: Object.fromEntries(env) as Record<string, string>,
    has_stdin: spec.stdin !== undefined,
  });
  const files: [string, string | Uint8Array][] = [
    ['sh', start],
    ['script', translate(spec.script.replaceAll('\0', ''))],
    ...(spec.stdin === undefined ? [] : ([['in', spec.stdin]] as [string, Uint8Array][])),
  ];
  await Promise.all(
    files.map(([kind, content]) => writeInside(join(directory.outside, `${name}.${kind}`), content)),
  );
}

/** The directory's group is the computer's; the mode is set again because the server's umask may be stricter. */
async function writeInside(path: string, content: string | Uint8Array): Promise<void> {
  await writeFile(path, content, { flag: 'wx', mode: 0o600 });
  await chmod(path, 0o640);
}

async function removeFiles({ directory }: Inside, name: string): Promise<void> {
  const kinds = ['sh', 'script', 'in', 'out', 'err'];
  const paths = kinds.map((kind) => join(directory.outside, `${name}.${kind}`));
  await Promise.all(paths.map((path) => rm(path, { force: true }).catch(() => {})));
}
