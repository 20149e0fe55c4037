/**
 * A small process that starts programs for the server. Node starts one by copying its own page tables: 10 to 30 ms for a server of
 * 700 MB, in which every turn stands still. A process of 6 MB has none to speak of.
 * Invariant: a program gets the descriptors that were named for it and no other, a fixed environment, and ends with the server: the
 * launcher kills what runs when its standard input ends.
 */
import { spawn, type ChildProcessByStdio } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { createServer, type Server, type Socket } from 'node:net';
import type { Readable, Writable } from 'node:stream';

/** `ignore` = `/dev/null`; `pipe` = a socket to this process; else a file to be read. */
export type Descriptor = 'ignore' | 'pipe' | { file: string };

/** Of a program that a signal ended, or whose end nobody saw, the code is null. */
type End = { code: number | null; signal: number | null };

export type StartOptions = {
  cwd?: string;
  /** Files of control groups that take its pid before it begins. */
  join?: string[];
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
};

type Pending = {
  /** The launcher's word on it. */
  told: (verb: string, rest: string) => void;
  arrived: (descriptor: number, socket: Socket) => void;
  /** The launcher is gone. */
  lost: () => void;
};

const PERL = '/usr/bin/perl';
const ENVIRONMENT = {
  PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
  LC_ALL: 'C.UTF-8',
};
const ID_BYTES = 16;
/** The id in hex, and two digits of the descriptor: nobody else on the host knows the id. */
const HEADER_BYTES = 2 * ID_BYTES + 2;
const LOST: End = { code: null, signal: null };
const GONE = 'the launcher is gone';

let current: Promise<Launcher> | null = null;

/**
 * Starts a program; resolves once its pipes are there. One that cannot be executed ends with 127, and says why on its standard error.
 * Rejects where nothing can be started.
 */
export async function start(
  command: string[],
  descriptors: Descriptor[],
  { cwd = '/', join = [] }: StartOptions = {},
): Promise<Program> {
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
  tell(launcher, ['start', id, cwd, ...counted(given), ...counted(join), ...command]);
  const pipes = arrivals.map((each) => each?.promise ?? null);
  try {
    const [pid, ...handed] = await Promise.race([Promise.all([started.promise, ...pipes]), refused.promise]);
    const kill = (): void => tell(launcher, ['kill', id]);
    void exited.promise.then(() => remove(launcher, id));
    return programOf({ name: command[0] ?? '', pid, pipes: handed }, exited.promise, kill);
  } catch (error) {
    remove(launcher, id);
    throw error;
  }
}

/** Makes named pipes that their group may use. Rejects with the first that could not be made. */
export async function makePipes(paths: string[]): Promise<void> {
  const launcher = await open();
  const id = randomBytes(ID_BYTES).toString('hex');
  const made = Promise.withResolvers<string>();
  add(launcher, id, {
    told: (_, rest) => made.resolve(rest),
    arrived: () => {},
    lost: () => made.resolve(GONE),
  });
  tell(launcher, ['pipes', id, ...paths]);
  const failure = await made.promise.finally(() => remove(launcher, id));
  if (failure !== '') throw new Error(`no named pipe: ${failure}`);
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

async function open(): Promise<Launcher> {
  current ??= launch();
  current.catch(() => (current = null));
  return await current;
}

/** In a session of its own: a Ctrl-C is for the server, which ends its programs in order. */
async function launch(): Promise<Launcher> {
  const name = `overwinter-${randomBytes(ID_BYTES).toString('hex')}`;
  const pending: Launcher['pending'] = new Map();
  const door = createServer({ allowHalfOpen: true }, (socket) => receive(socket, pending));
  await new Promise<void>((resolve, reject) => door.once('error', reject).listen(`\0${name}`, resolve));
  const child = spawn(PERL, ['-e', PROGRAM, name], {
    ...{ cwd: '/', env: ENVIRONMENT, detached: true },
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const launcher = { process: child, door, pending };
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

/** A pipe says first whose it is. */
function receive(socket: Socket, pending: Launcher['pending']): void {
  socket.on('error', () => socket.destroy());
  socket.once('end', () => socket.end());
  const look = (): void => {
    const header = socket.read(HEADER_BYTES) as Buffer | null;
    if (header === null) return;
    socket.off('readable', look);
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

/**
 * In Perl, which every Debian has. `start` → `started PID` and `ended STATUS`, or `refused` with what went wrong; `kill`; `pipes` → `made`, with what went wrong. The numbers
 * are those of pidfd_open, the same on every architecture, and of F_DUPFD_CLOEXEC: a program's descriptors are gathered above those
 * that it asks for, and put in their places at last.
 */
const PROGRAM = String.raw`use strict;
use Fcntl;
use POSIX ();
use Socket;
my ($pidfd_open, $dupfd_cloexec, $above) = (434, 1030, 64);
my $door = pack_sockaddr_un("\0$ARGV[0]");
my (%pids, %lives);
my $asked = '';
POSIX::close($_) for grep { $_ > 2 } map { /(\d+)$/ } glob '/proc/self/fd/*';
for (;;) {
  my $ready = '';
  vec($ready, $_, 1) = 1 for 0, keys %lives;
  next if select($ready, undef, undef, undef) < 1;
  reap($_) for grep { vec($ready, $_, 1) } keys %lives;
  next unless vec($ready, 0, 1);
  sysread(STDIN, $asked, 65536, length $asked) or last;
  obey(map { pack 'H*', substr $_, 1 } split / /, $1) while $asked =~ s/^(.*)\n//;
}
kill KILL => values %pids;

sub obey {
  my ($verb, $id, @rest) = @_;
  if ($verb eq 'start') { launch($id, @rest) }
  elsif ($verb eq 'pipes') { report('made', $id, pipes(@rest)) }
  elsif ($pids{$id}) { kill KILL => $pids{$id} }
}

sub report { syswrite(STDOUT, join(' ', @_) . "\n") }

sub launch {
  my ($id, @rest) = @_;
  my $pid = fork;
  return report('refused', $id, "no process: $!") unless defined $pid;
  become($id, @rest) unless $pid;
  my $life = syscall($pidfd_open, $pid, 0);
  die "pidfd_open: $!: Linux 5.3 or later is needed\n" if $life < 0;
  $lives{$life} = $id;
  $pids{$id} = $pid;
}

sub reap {
  my ($life) = @_;
  my $id = delete $lives{$life};
  waitpid(delete $pids{$id}, 0);
  POSIX::close($life);
  report('ended', $id, $?);
}

sub become {
  my ($id, $cwd, $count, @rest) = @_;
  my @given = splice @rest, 0, $count;
  my @groups = splice @rest, 0, shift @rest;
  my @held = map { handed($id, $_, $given[$_]) } 0 .. $#given;
  report('started', $id, $$);
  POSIX::dup2($held[$_], $_) for 0 .. $#held;
  join_group($_) for @groups;
  chdir $cwd or failed("cannot enter $cwd");
  exec { $rest[0] } @rest or failed("cannot start $rest[0]");
}

sub handed {
  my ($id, $descriptor, $what) = @_;
  my $handle;
  my $opened = $what eq '|'
    ? socket($handle, PF_UNIX, SOCK_STREAM, 0) && connect($handle, $door) && syswrite($handle, sprintf '%s%02d', $id, $descriptor)
    : sysopen($handle, $what eq '-' ? '/dev/null' : $what, $what eq '-' ? O_RDWR : O_RDONLY);
  return fcntl($handle, $dupfd_cloexec, $above) if $opened;
  report('refused', $id, "$what: $!");
  POSIX::_exit(126);
}

sub join_group {
  my ($path) = @_;
  my $group;
  sysopen($group, $path, O_WRONLY) && syswrite($group, $$) or failed("cannot join $path");
}

sub failed {
  my ($what) = @_;
  syswrite(STDERR, "$what: $!\n");
  POSIX::_exit(127);
}

sub pipes {
  for (@_) { POSIX::mkfifo($_, 0660) && chmod(0660, $_) or return "$_: $!" }
  return '';
}
`;
