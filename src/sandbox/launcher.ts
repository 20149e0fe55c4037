/**
 * A small process that starts programs for the server. Node starts one by copying its own page tables: 10 to 30 ms for a server of
 * 700 MB, in which every turn stands still. A process of 6 MB has none to speak of.
 * Invariant: a program gets the descriptors that were named for it and no other, a fixed environment, and ends with the server: the
 * launcher kills what runs when its standard input ends.
 */
import { spawn, type ChildProcessByStdio } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import type { Readable, Writable } from 'node:stream';
import { DriverBusy } from '../resource/computer/driver.ts';
import { callNumbers, type Step } from './prepare.ts';

/** `ignore` = `/dev/null`; `pipe` = a socket to this process; else a file to be read. */
export type Descriptor = 'ignore' | 'pipe' | { file: string };

/** Of a program that a signal ended, or whose end nobody saw, the code is null. */
type End = { code: number | null; signal: number | null };

export type StartOptions = {
  cwd?: string;
  /** The `cgroup.procs` or `tasks` of control groups that have it before it begins. */
  join?: string[];
  /** Done in its process, in this order, once it is in its groups. A step that fails ends it with 125. */
  prepare?: Step[];
  answer_ms_max?: number;
};

/** A program that runs, or has run. */
export type Program = {
  name: string;
  pid: number;
  /** By descriptor; null where there is no pipe. */
  pipes: (Socket | null)[];
  /** null while it runs. */
  end: () => End | null;
  exited: Promise<End>;
  /** Once it has ended, and what it wrote has been read. */
  closed: Promise<End>;
  kill: () => void;
};

type Launcher = {
  process: ChildProcessByStdio<Writable, Readable, null>;
  /** Where programs bring their ends of the pipes. */
  door: Server;
  /** What is running or being made, by id. */
  pending: Map<string, Pending>;
  /** How many requests wait for their answer. */
  waiting: number;
};

type Pending = {
  /** The launcher's word on it. */
  told: (verb: string, rest: string) => void;
  arrived: (descriptor: number, socket: Socket) => void;
  /** The launcher is gone. */
  lost: () => void;
};

const PERL = '/usr/bin/perl';
const PROGRAM = ['prepare.pl', 'launcher.pl']
  .map((name) => readFileSync(new URL(name, import.meta.url), 'utf8'))
  .join('\n');
/** For `prepare.pl`; null = it cannot prepare anything here. */
const CALLS = callNumbers(process.arch);
const ENVIRONMENT = {
  PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
  LC_ALL: 'C.UTF-8',
};
const ID_BYTES = 16;
/** The id in hex, and two digits of the descriptor: nobody else on the host knows the id. */
const HEADER_BYTES = 2 * ID_BYTES + 2;
const LOST: End = { code: null, signal: null };
const GONE = 'the launcher is gone';
const ANSWER_MS_MAX = 30_000;
/** Requests that wait for their answer, and what the launcher has not read of them. */
const WAITING_MAX = 1024;
const UNREAD_BYTES_MAX = 16_777_216;
/** Connections that have not said whose they are: a program says so at once, of each of its pipes. */
const UNHEARD_MAX = 8 * WAITING_MAX;

let current: Promise<Launcher> | null = null;

/**
 * Starts a program; resolves once its pipes are there. One that cannot be executed ends with 127, and says why on its standard error.
 * Rejects where nothing can be started. @throws DriverBusy; what begins after that is killed.
 */
export async function start(
  command: string[],
  descriptors: Descriptor[],
  { cwd = '/', join = [], prepare = [], answer_ms_max = ANSWER_MS_MAX }: StartOptions = {},
): Promise<Program> {
  if (prepare.length > 0 && CALLS === null) throw new Error(`no system calls are known for ${process.arch}`);
  const launcher = await open();
  const id = randomBytes(ID_BYTES).toString('hex');
  const exited = Promise.withResolvers<End>();
  const started = Promise.withResolvers<number>();
  const refused = Promise.withResolvers<never>();
  refused.promise.catch(() => {});
  const arrivals = descriptors.map((each) => (each === 'pipe' ? Promise.withResolvers<Socket>() : null));
  const refuse = (why: string): void =>
    refused.reject(new Error(`${command[0]} could not be started: ${why}`));
  add(launcher, id, {
    told(verb, rest) {
      if (verb === 'started') started.resolve(Number(rest));
      else if (verb === 'ended') exited.resolve(endOf(Number(rest)));
      else refuse(rest);
    },
    arrived: (descriptor, socket) => arrivals[descriptor]?.resolve(socket),
    lost() {
      exited.resolve(LOST);
      refuse(GONE);
    },
  });
  const given = descriptors.map((each) => (typeof each === 'string' ? GIVEN[each] : each.file));
  const steps = [String(prepare.length), ...prepare.flatMap(counted)];
  tell(launcher, ['start', id, cwd, ...counted(given), ...counted(join), ...steps, ...command]);
  const pipes = arrivals.map((each) => each?.promise ?? null);
  const kill = (): void => tell(launcher, ['kill', id]);
  try {
    const begun = Promise.race([Promise.all([started.promise, ...pipes]), refused.promise]);
    const [pid, ...handed] = await answered(launcher, begun, answer_ms_max);
    void exited.promise.then(() => remove(launcher, id));
    return programOf({ name: command[0] ?? '', pid, pipes: handed }, exited.promise, kill);
  } catch (error) {
    remove(launcher, id);
    kill();
    for (const each of arrivals) void each?.promise.then((socket) => socket.destroy());
    throw error;
  }
}

/** Makes named pipes that their group may use. Rejects with the first that could not be made. @throws DriverBusy */
export async function makePipes(paths: string[], answer_ms_max = ANSWER_MS_MAX): Promise<void> {
  const launcher = await open();
  const id = randomBytes(ID_BYTES).toString('hex');
  const made = Promise.withResolvers<string>();
  add(launcher, id, {
    told: (_, rest) => made.resolve(rest),
    arrived: () => {},
    lost: () => made.resolve(GONE),
  });
  tell(launcher, ['pipes', id, ...paths]);
  const failure = await answered(launcher, made.promise, answer_ms_max).finally(() => remove(launcher, id));
  if (failure !== '') throw new Error(`no named pipe: ${failure}`);
}

/** What the launcher says to a request. @throws DriverBusy when it takes too long. */
async function answered<T>(launcher: Launcher, answer: Promise<T>, ms_max: number): Promise<T> {
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(
    () => late.reject(new DriverBusy(`the launcher did not answer within ${ms_max / 1000} s`)),
    ms_max,
  );
  return await Promise.race([answer, late.promise]).finally(() => {
    launcher.waiting -= 1;
    clearTimeout(timer);
  });
}

const GIVEN = { ignore: '-', pipe: '|' };

function counted(fields: string[]): string[] {
  return [String(fields.length), ...fields];
}

/** A wait status, as the kernel gives it. */
function endOf(status: number): End {
  const signal = status & 0x7f;
  return signal === 0 ? { code: status >> 8, signal: null } : { code: null, signal };
}

function programOf(
  program: Pick<Program, 'name' | 'pid' | 'pipes'>,
  exited: Promise<End>,
  kill: () => void,
): Program {
  let ended: End | null = null;
  const closings = program.pipes.flatMap((pipe) => (pipe ? [untilClosed(pipe)] : []));
  const closed = exited.then(async (end) => {
    // Nobody asked for what is left in these.
    for (const pipe of program.pipes) if (pipe?.readableFlowing === null) pipe.resume();
    await Promise.all(closings);
    return end;
  });
  void exited.then((end) => (ended = end));
  return { ...program, exited, closed, end: () => ended, kill: () => void (ended ?? kill()) };
}

async function untilClosed(pipe: Socket): Promise<void> {
  if (!pipe.closed) await new Promise((resolve) => pipe.once('close', resolve));
}

/** With a place for a request, which `answered` gives back. @throws DriverBusy */
async function open(): Promise<Launcher> {
  current ??= launch();
  current.catch(() => (current = null));
  const launcher = await current;
  const unread_bytes = launcher.process.stdin.writableLength;
  if (launcher.waiting >= WAITING_MAX || unread_bytes > UNREAD_BYTES_MAX)
    throw new DriverBusy('too many requests wait for the launcher');
  launcher.waiting += 1;
  return launcher;
}

/** In a session of its own: a Ctrl-C is for the server, which ends its programs in order. */
async function launch(): Promise<Launcher> {
  const name = `overwinter-${randomBytes(ID_BYTES).toString('hex')}`;
  const pending: Launcher['pending'] = new Map();
  const unheard = new Set<Socket>();
  const door = createServer({ allowHalfOpen: true }, (socket) => receive(socket, pending, unheard));
  await new Promise<void>((resolve, reject) => door.once('error', reject).listen(`\0${name}`, resolve));
  const child = spawn(PERL, ['-e', PROGRAM, name, ...(CALLS ?? [])], {
    ...{ cwd: '/', env: ENVIRONMENT, detached: true },
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const launcher = { process: child, door, pending, waiting: 0 };
  child.once('close', () => {
    current = null;
    door.close();
    for (const { lost } of pending.values()) lost();
  });
  child.stdin.on('error', () => child.kill('SIGKILL'));
  await new Promise((resolve, reject) => child.once('spawn', resolve).once('error', reject));
  listen(launcher);
  rest(launcher);
  return launcher;
}

function listen({ process, pending }: Launcher): void {
  let text = '';
  process.stdout.on('data', (data: Buffer) => {
    const lines = (text + data.toString('latin1')).split('\n');
    text = lines.pop() ?? '';
    for (const line of lines) {
      const [, verb = '', id = '', rest = ''] = /^(\w+) (\w+) ?(.*)$/.exec(line) ?? [];
      pending.get(id)?.told(verb, rest);
    }
  });
}

/** A pipe says first whose it is. Anybody on the host can come to the door: who says nothing for longest makes room. */
function receive(socket: Socket, pending: Launcher['pending'], unheard: Set<Socket>): void {
  const [longest] = unheard;
  if (longest && unheard.size >= UNHEARD_MAX) {
    unheard.delete(longest);
    longest.destroy();
  }
  unheard.add(socket);
  socket.on('error', () => socket.destroy());
  socket.once('close', () => unheard.delete(socket));
  socket.once('end', () => socket.end());
  const look = (): void => {
    const header = socket.read(HEADER_BYTES) as Buffer | null;
    if (header === null) return;
    socket.off('readable', look);
    unheard.delete(socket);
    const text = header.toString('latin1');
    const whose = pending.get(text.slice(0, 2 * ID_BYTES));
    if (whose) whose.arrived(Number(text.slice(2 * ID_BYTES)), socket);
    else socket.destroy();
  };
  socket.on('readable', look);
}

/** Any text goes: each field in hex, one request a line. */
function tell({ process }: Launcher, fields: string[]): void {
  process.stdin.write(`${fields.map((field) => `x${Buffer.from(field).toString('hex')}`).join(' ')}\n`);
}

/** While it has nothing to do, the launcher keeps no process from ending. */
function add(launcher: Launcher, id: string, pending: Pending): void {
  launcher.pending.set(id, pending);
  for (const handle of handlesOf(launcher)) handle.ref();
}

function remove(launcher: Launcher, id: string): void {
  launcher.pending.delete(id);
  if (launcher.pending.size === 0) rest(launcher);
}

function rest(launcher: Launcher): void {
  for (const handle of handlesOf(launcher)) handle.unref();
}

function handlesOf({ process, door }: Launcher): { ref(): unknown; unref(): unknown }[] {
  return [process, door, process.stdin as Socket, process.stdout as Socket];
}
