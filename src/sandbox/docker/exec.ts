/**
 * One script in an awake container: an exec of the daemon that a keeper inside looks after.
 * Invariant: an exec that was told to end has ended, with all it started, before its exit settles; or its computer has.
 */

import { randomBytes } from 'node:crypto';
import type { Socket } from 'node:net';
import type { Exec } from 'dockerode';
import { setTimeout as delay } from 'node:timers/promises';
import type { ExecSpec, Execution, Exit, OutputChunk, Fail } from '../../resource/computer/driver.ts';
import { isConflict } from './daemon.ts';
import type { Container } from './daemon.ts';
import { frames, openOutput } from './frames.ts';
import type { Output, Verdict } from './frames.ts';
import { directoryOf } from '../shell.ts';
import { commandOf, setUp, SWEPT } from './scripts.ts';

/** The awake container that execs run in. */
export type Body = {
  container: Container;
  alive: () => boolean;
  /** Ends every process of the computer. */
  kill: () => void;
  /** Resolves when no process is left. */
  ended: Promise<void>;
  /** Calls back when that is so; what it returns takes that back. */
  onEnded: (call: () => void) => () => void;
  /** Whether it is made to stand still, so that it cannot obey. */
  held: () => boolean;
  /** Resolves when it does not stand still. */
  going: () => Promise<void>;
  /** A number that this container has not had. */
  name: () => string;
  fail: Fail;
};

/** An exec that does not end this long after it was told to costs the computer its life. */
const KILL_GRACE_MS = 20_000;
/** So long the daemon may take before a script begins; its own time begins then. */
const START_MS_MAX = 30_000;
/** What a script wrote before it was killed and nobody has read by then is dropped. */
const DRAIN_MS_MAX = 2000;
/** A longer timer fires at once: what may take longer has none. */
const TIMER_MS_MAX = 2_147_483_647;
const ATTEMPTS_MAX = 8;
const LOST: Exit = { outcome: 'lost', exit_code: null };
const NOT_STARTED_CODE = 126;

type Reason = 'timeout' | 'aborted';

type Running = {
  body: Body;
  spec: ExecSpec;
  name: string;
  mark: string;
  reason: Reason | null;
  /** Settles when all that the exec started has ended, once its end has begun. */
  swept: Promise<void> | null;
  /** The script has been handed over: from here on it takes a killer to end it. */
  handed: boolean;
  open: (output: Output) => void;
};

export function execIn(body: Body, spec: ExecSpec): Execution {
  directoryOf(spec);
  const opened = Promise.withResolvers<Output | null>();
  const outputs: Output[] = [];
  const open = (output: Output): void => {
    outputs.push(output);
    opened.resolve(output);
  };
  // The first byte is of no text, so that what might be a mark is seldom held back.
  const mark = `\x1e${randomBytes(16).toString('hex')}`;
  const state = { reason: null, swept: null, handed: false };
  const exit = perform({ body, spec, open, mark, name: body.name(), ...state })
    .catch(async (error: unknown): Promise<Exit> => {
      if (body.alive()) throw error;
      return LOST;
    })
    .finally(() => {
      for (const output of outputs) output.close();
      opened.resolve(null);
    });
  exit.catch(() => {});
  return { exit, output: chunksOf(opened.promise) };
}

async function* chunksOf(opened: Promise<Output | null>): AsyncGenerator<OutputChunk, void> {
  const output = await opened;
  if (output !== null) yield* output.chunks();
}

async function perform(running: Running): Promise<Exit> {
  const { body } = running;
  if (!body.alive()) return LOST;
  const ending = watchEnding(running);
  const gone = Promise.withResolvers<Exit>();
  const forget = body.onEnded(() => gone.resolve(LOST));
  try {
    return await Promise.race([runScript(running, ending), gone.promise]);
  } finally {
    forget();
    ending.stop();
    ending.closeSource();
  }
}

async function runScript(running: Running, ending: Ending): Promise<Exit> {
  const { body, spec, name, mark } = running;
  const start = setUp(name, directoryOf(spec), spec.env ?? {});
  const parts = [start, spec.script.replaceAll('\0', '')].map((text) => Buffer.from(text));
  const sizes = parts.map((part) => String(part.length));
  const command = commandOf('keep', name, ...sizes, spec.stdin === undefined ? '' : 'input');
  const { socket } = await startExec(body, command);
  const output = openOutput(socket, mark);
  running.open(output);
  if (running.reason !== null) return { outcome: running.reason, exit_code: null };
  running.handed = true;
  void output.started.then(() => ending.begin());
  void feed(running, socket, [Buffer.from(`${mark}\n`), ...parts], ending).catch(() => ending.end('aborted'));
  await body.fail('sandbox.exec_started');
  const verdict = await Promise.race([output.verdict, ending.swept]);
  return await exitOf(running, output, verdict ?? null);
}

type Started = { exec: Exec; socket: Socket };

/** Refused while the computer stands still, which may begin at any time. */
export async function startExec(
  body: Body,
  command: string[],
  { tty, env }: { tty: boolean; env: string[] } = { tty: false, env: [] },
): Promise<Started> {
  for (let attempt = 1; ; attempt += 1) {
    await body.going();
    try {
      const exec = await body.container.exec({
        ...{ Cmd: command, Tty: tty, Env: env, User: '0:0', WorkingDir: '/' },
        ...{ AttachStdin: true, AttachStdout: true, AttachStderr: true },
      });
      return { exec, socket: (await exec.start({ hijack: true, stdin: true, Tty: tty })) as Socket };
    } catch (error) {
      if (attempt === ATTEMPTS_MAX || !isConflict(error) || !body.alive()) throw error;
    }
  }
}

async function feed(running: Running, socket: Socket, parts: Buffer[], ending: Ending): Promise<void> {
  for (const part of parts) await written(socket, part);
  const { stdin } = running.spec;
  if (stdin === undefined) return;
  const chunks = (stdin instanceof Uint8Array ? one(stdin) : stdin)[Symbol.asyncIterator]();
  ending.source(chunks);
  for (let next = await chunks.next(); next.done !== true; next = await chunks.next()) {
    if (!(await written(socket, next.value))) return;
  }
  socket.end();
}

async function* one(bytes: Uint8Array): AsyncGenerator<Uint8Array, void> {
  yield bytes;
}

function written(socket: Socket, data: Uint8Array): Promise<boolean> {
  return new Promise((resolve) => {
    socket.write(data, (error) => resolve(error === null || error === undefined));
  });
}

async function exitOf(running: Running, output: Output, verdict: Verdict | null): Promise<Exit> {
  const { body } = running;
  if (running.reason !== null) {
    await running.swept;
    const said = await Promise.race([output.verdict, delay(DRAIN_MS_MAX, null, { ref: false })]);
    return { outcome: running.reason, exit_code: null, ...memory(said) };
  }
  if (verdict !== null) return { outcome: 'exited', exit_code: verdict.exit_code, ...memory(verdict) };
  if (body.alive() && output.complaint() !== '') return { outcome: 'exited', exit_code: NOT_STARTED_CODE };
  // Nobody is left who would say how the script ends.
  body.kill();
  await body.ended;
  return LOST;
}

function memory(verdict: Verdict | null): { out_of_memory?: true } {
  return verdict?.out_of_memory === true ? { out_of_memory: true } : {};
}

type Ending = {
  /** The script runs: its time begins. */
  begin: () => void;
  end: (reason: Reason) => void;
  /** Resolves once an end was told and carried out. */
  swept: Promise<null>;
  source: (chunks: AsyncIterator<Uint8Array>) => void;
  closeSource: () => void;
  stop: () => void;
};

/** Ends the exec at its time limit or on abort: first what it started, after a grace the whole computer. */
function watchEnding(running: Running): Ending {
  const { spec, body } = running;
  const swept = Promise.withResolvers<null>();
  const grace = graceOf(body);
  let over = false;
  let chunks: AsyncIterator<Uint8Array> | null = null;
  const end = (reason: Reason): void => {
    if (over || running.reason !== null) return;
    running.reason = reason;
    grace.begin();
    if (!running.handed) return;
    running.swept = sweep(body, running.name).catch(() => body.kill());
    void running.swept.then(() => swept.resolve(null));
  };
  const abort = (): void => end('aborted');
  let timer = setTimeout(() => end('timeout'), START_MS_MAX);
  spec.signal?.addEventListener('abort', abort);
  if (spec.signal?.aborted === true) abort();
  return {
    end,
    swept: swept.promise,
    begin() {
      clearTimeout(timer);
      if (!over && spec.timeout_ms <= TIMER_MS_MAX) timer = setTimeout(() => end('timeout'), spec.timeout_ms);
    },
    source: (given) => void (chunks = given),
    closeSource: () => void Promise.resolve(chunks?.return?.()).catch(() => {}),
    stop() {
      over = true;
      clearTimeout(timer);
      grace.stop();
      spec.signal?.removeEventListener('abort', abort);
    },
  };
}

function graceOf(body: Body): { begin: () => void; stop: () => void } {
  let timer: NodeJS.Timeout | undefined;
  const giveUp = (was_held: boolean): void => {
    const held = body.held();
    if (held || was_held) timer = setTimeout(giveUp, KILL_GRACE_MS, held);
    else body.kill();
  };
  return {
    begin: () => void (timer = setTimeout(giveUp, KILL_GRACE_MS, body.held())),
    stop: () => clearTimeout(timer),
  };
}

/** Ends all that an exec or a terminal started. Rejects when something is left. */
export async function sweep(body: Body, name: string): Promise<void> {
  const { socket } = await startExec(body, commandOf('kill', name));
  let said = '';
  const cut = frames((_stream, data) => (said = (said + data.toString('latin1')).slice(-SWEPT.length)));
  socket.on('data', cut);
  await new Promise((resolve) => {
    for (const event of ['end', 'close', 'error']) socket.on(event, resolve);
  });
  socket.destroy();
  if (said !== SWEPT) throw new Error('an exec did not end');
}
