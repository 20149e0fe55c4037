/**
 * The way of scripts into an awake computer and of their output out of it.
 * Invariant: every file that the server opens here lies in a directory that the inside can only read, so an agent that
 * forges reports or steals commands harms its own computer: an exec then ends by its time limit, at worst `lost`.
 */

import { join } from 'node:path';
import type { Duplex, Readable, Writable } from 'node:stream';
import type {
  ExecSpec,
  Execution,
  Exit,
  OutputChunk,
  PtySpec,
  Terminal,
  Fail,
} from '../../resource/computer/driver.ts';
import type { Program } from '../launcher.ts';
import { directoryOf, onOneLine } from '../shell.ts';
import { openConnection } from './connect.ts';
import { namesWithPipes, removeFiles, writeInside } from './files.ts';
import type { Directory } from './files.ts';
import { openInput } from './input.ts';
import type { Input } from './input.ts';
import { setUpOf } from './loop.ts';
import { lingeringPipes, openOutput } from './output.ts';
import type { Output } from './output.ts';
import { readReports } from './reports.ts';
import type { Pending } from './reports.ts';
import { openTerminal } from './terminal.ts';

/** An exec that does not end this long after it was told to costs the computer its life. */
const KILL_GRACE_MS = 2000;
const LINGERING_PIPES_MAX = 256;
/** bash takes two milliseconds for a thousand. */
const LINE_LENGTH_MAX = 512;
/** A longer timer fires at once: what may take longer has none. */
const TIMER_MS_MAX = 2_147_483_647;

export type Inside = {
  /** The running sandbox: its standard input and output belong to the loop. */
  program: Program;
  directory: Directory;
  /** Ends every process of the computer at once. */
  kill: () => void;
  /** Whether it is made to stand still, so that it cannot obey. */
  held: () => boolean;
  /** How often the kernel killed something of the computer for want of memory; null = nobody counts. */
  memory_kills: () => number | null;
  /** How this driver names a path or a text of the script; the identity where the inside has its own root. */
  translate: (text: string) => string;
  fail: Fail;
};

export type Channel = {
  /** Resolves when the loop runs; rejects with `ComputerLost` when it never will. */
  ready: Promise<void>;
  exec: (spec: ExecSpec) => Execution;
  connect: (port: number) => Promise<Duplex>;
  pty: (spec: PtySpec) => Promise<Terminal>;
  close: () => void;
};

type Line = {
  inside: Inside;
  pending: Map<string, Pending>;
  control: Writable;
  names: () => Promise<string>;
};

export function openChannel(inside: Inside): Channel {
  const pending = new Map<string, Pending>();
  const lingering = lingeringPipes(LINGERING_PIPES_MAX);
  const control = inside.program.pipes[0] as Writable;
  control.on('error', () => inside.kill());
  const line: Line = { inside, pending, control, names: namesWithPipes(inside.directory) };
  const { kill } = inside;
  const { closed } = inside.program;
  const status = inside.program.pipes[1] as Readable;
  const ready = readReports({ status, pending, kill, closed, end: (own) => sendKill(line, own) });
  void closed.then(() => {
    for (const { settle } of pending.values()) settle(LOST);
    pending.clear();
    lingering.close();
  });

  const exec = (spec: ExecSpec): Execution => {
    directoryOf(spec);
    const opened = Promise.withResolvers<Output | null>();
    const made: Output[] = [];
    const open = (output: Output): void => {
      made.push(output);
      opened.resolve(output);
    };
    const exit = perform({ ...line, spec, open })
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
  };

  return {
    ready,
    exec,
    connect: (port) => openConnection(exec, inside.directory.inside, port),
    pty: (spec) => openTerminal(exec, spec),
    close: () => lingering.close(),
  };
}

async function* chunksOf(opened: Promise<Output | null>): AsyncGenerator<OutputChunk, void> {
  const output = await opened;
  if (output !== null) yield* output.chunks();
}

type Performance = Line & { spec: ExecSpec; open: (output: Output) => void };

const LOST: Exit = { outcome: 'lost', exit_code: null };

async function perform(performance: Performance): Promise<Exit> {
  const { inside, names, spec } = performance;
  const settled = Promise.withResolvers<Exit>();
  const started = Promise.withResolvers<void>();
  const own: Pending = {
    ...{ name: null, pid: null, ending: null, exited: false, swept: false },
    started: started.resolve,
    settle: settled.resolve,
  };
  const ending = watchEnding(performance, own);
  try {
    if (gone(inside)) return LOST;
    const kills_before = inside.memory_kills();
    const name = await names();
    const set_up = await setUp(inside, name, spec);
    const exit = await startAndWait(
      performance,
      { own, name, ending, set_up },
      started.promise,
      settled.promise,
    );
    void removeFiles(inside.directory, name);
    return withMemoryKills(exit, kills_before, inside);
  } finally {
    ending.stop();
  }
}

async function startAndWait(
  { inside, pending, control, spec, open }: Performance,
  { own, name, ending, set_up }: { own: Pending; name: string; ending: Ending; set_up: string },
  taken: Promise<void>,
  settled: Promise<Exit>,
): Promise<Exit> {
  const path = join(inside.directory.outside, name);
  open(await openOutput(`${path}.out`, `${path}.err`));
  let input: Input | null = null;
  try {
    const { stdin: source } = spec;
    const failed = (): void => ending.end('aborted');
    if (source !== undefined) input = await openInput(`${path}.in`, { source, taken, failed });
    if (own.ending !== null) return { outcome: own.ending, exit_code: null };
    if (gone(inside)) return LOST;
    own.name = name;
    pending.set(name, own);
    control.write(`${input === null ? 'exec' : 'feed'} ${name} ${set_up}\n`);
    await inside.fail('sandbox.exec_started');
    return await settled;
  } finally {
    input?.close();
  }
}

/** Puts the script in place, and what is too long for a line to the loop. Returns the line. */
async function setUp({ directory, translate }: Inside, name: string, spec: ExecSpec): Promise<string> {
  const content = translate(spec.script.replaceAll('\0', ''));
  const script = await writeInside(directory, `${name}.script`, content);
  const env = Object.entries(spec.env ?? {}).map(([key, value]) => [key, translate(value)]);
  const line = setUpOf({ script, cwd: translate(directoryOf(spec)), env: Object.fromEntries(env) });
  if (line.length <= LINE_LENGTH_MAX) return line;
  return `. ${onOneLine(await writeInside(directory, `${name}.setup`, line))}`;
}

function withMemoryKills(exit: Exit, before: number | null, inside: Inside): Exit {
  if (before === null) return exit;
  const after = inside.memory_kills();
  return after !== null && after > before ? { ...exit, out_of_memory: true } : exit;
}

type Ending = { end: (reason: 'timeout' | 'aborted') => void; stop: () => void };

/** Ends the exec at its time limit or on abort: first what it started, after a grace the whole computer. */
function watchEnding(line: Line & { spec: ExecSpec }, own: Pending): Ending {
  const { spec, inside } = line;
  let grace: NodeJS.Timeout | undefined;
  let over = false;
  const giveUp = (was_held: boolean): void => {
    const held = inside.held();
    if (held || was_held) grace = setTimeout(giveUp, KILL_GRACE_MS, held);
    else inside.kill();
  };
  const end = (reason: 'timeout' | 'aborted'): void => {
    if (over || own.ending !== null) return;
    own.ending = reason;
    if (own.pid !== null) sendKill(line, own);
    grace = setTimeout(giveUp, KILL_GRACE_MS, inside.held());
  };
  const abort = (): void => end('aborted');
  const is_limited = spec.timeout_ms <= TIMER_MS_MAX;
  const timer = is_limited ? setTimeout(() => end('timeout'), spec.timeout_ms) : undefined;
  spec.signal?.addEventListener('abort', abort);
  if (spec.signal?.aborted === true) abort();
  return {
    end,
    stop() {
      over = true;
      clearTimeout(timer);
      clearTimeout(grace);
      spec.signal?.removeEventListener('abort', abort);
    },
  };
}

function sendKill({ control }: Line, own: Pending): void {
  control.write(`kill ${own.name} ${own.pid}\n`);
}

function gone({ program }: Inside): boolean {
  return program.end() !== null;
}
