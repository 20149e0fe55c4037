/**
 * The commands of this node that outlive whoever asked for them. How one ended is kept for a while, within bounds that hold for its org
 * and for the node (room.ts): the oldest of the org make room. They end with the server; the computer's history says that they were.
 */
import { OverwinterError } from '../../../resource/error.ts';
import type { ComputerState } from '../../../resource/computer/life.ts';
import { quoted } from '../../../sandbox/shell.ts';
import type { Runtime } from '../../runtime.ts';
import type { Computers } from '../computers.ts';
import { runCommand } from '../exec.ts';
import { createRoom, type RoomBounds } from './room.ts';
import { createExecSession, type Asked, type ExecSession } from './session.ts';
import { createStdin } from './stdin.ts';

export type ExecRequest = {
  cmd: string;
  args: string[];
  env: Record<string, string>;
  cwd?: string | undefined;
  timeout_ms: number;
  /** Whether its standard input is what those who look at it type; otherwise it has none. */
  typed: boolean;
} & Pick<Asked, 'keeps' | 'linger_ms'>;

export type ExecSessions = {
  /** @throws OverwinterError `conflict` when the computer does not run, or has too many. */
  start: (org: string, computer: ComputerState, request: ExecRequest) => Promise<ExecSession>;
  find: (computer: string, id: string) => ExecSession | undefined;
  /** Those that run and those that are remembered, oldest first. */
  list: (computer: string) => ExecSession[];
  /** One that has ended: whoever wanted its result has it. */
  forget: (session: ExecSession) => void;
  /** Of no effect on one that has ended. */
  signal: (session: ExecSession, signal: number) => Promise<void>;
  /** Ends the connections of all who look. */
  close: () => void;
};

const RUNNING_MAX = 64;
const ENDED_MAX = 64;
const ENDED_MS = 600_000;
/** Of one stream of one command. */
const OUTPUT_BYTES_MAX = 16 * 1024 * 1024;
const KEPT: RoomBounds = { node_bytes_max: 256 * 1024 * 1024, org_bytes_max: 64 * 1024 * 1024 };
const KILL = 9;
const SIGNAL_MS = 10_000;
/** By this variable the processes of one are known inside. */
const MARK = 'OVERWINTER_EXEC';

type Held = { session: ExecSession; kill: () => void; ended_at: number | null };

export function createExecSessions(
  runtime: Runtime,
  computers: Computers,
  kept: RoomBounds = KEPT,
): ExecSessions {
  const held = new Map<string, Held>();
  /** Of each org, in the order of their ends. */
  const ended = new Map<string, Set<Held>>();
  const places = createPlaces();
  const room = createRoom(kept, (org) => {
    const [oldest] = ended.get(org) ?? [];
    if (oldest) forget(oldest);
    return oldest !== undefined;
  });

  function forget(entry: Held): void {
    const { id, org, kept_bytes } = entry.session;
    if (!held.delete(id)) return;
    room.give(org, kept_bytes());
    const of_org = ended.get(org);
    of_org?.delete(entry);
    if (of_org?.size === 0) ended.delete(org);
  }

  function sweep(): void {
    const now = runtime.now();
    for (const each of held.values())
      if (each.ended_at !== null && each.ended_at + ENDED_MS < now) forget(each);
  }

  function remember(entry: Held): void {
    const { id, org, computer } = entry.session;
    if (!held.has(id)) return;
    entry.ended_at = runtime.now();
    const of_org = ended.get(org) ?? new Set();
    ended.set(org, of_org.add(entry));
    const same = [...of_org].filter(({ session }) => session.computer === computer);
    for (const each of same.slice(0, -ENDED_MAX)) forget(each);
  }

  function list(computer: string): ExecSession[] {
    sweep();
    return [...held.values()].map(({ session }) => session).filter((each) => each.computer === computer);
  }

  async function start(org: string, computer: ComputerState, request: ExecRequest): Promise<ExecSession> {
    sweep();
    const leave = places.take(computer.id);
    try {
      const entry = await begin(org, computer, request);
      held.set(entry.session.id, entry);
      void entry.session.ended.then(() => {
        leave();
        remember(entry);
      });
      return entry.session;
    } catch (error) {
      leave();
      throw error;
    }
  }

  async function begin(org: string, computer: ComputerState, request: ExecRequest): Promise<Held> {
    const { cmd, args, keeps, linger_ms, timeout_ms, cwd } = request;
    const killed = new AbortController();
    const stdin = request.typed ? createStdin() : undefined;
    const id = runtime.newId('command');
    const command = await runCommand(runtime, computers, org, computer, {
      ...{ id, script: scriptOf(request), timeout_ms, source: 'api', signal: killed.signal },
      ...{ env: { ...request.env, [MARK]: id }, ...(cwd !== undefined && { cwd }), ...(stdin && { stdin }) },
      output_bytes_max: keeps === 'whole' ? OUTPUT_BYTES_MAX : Number.MAX_SAFE_INTEGER,
    });
    const asked = { org, computer: computer.id, command: cmd, args, keeps, linger_ms };
    const kill = (): void => killed.abort();
    const take = (bytes: number): boolean => room.take(org, bytes);
    const give = (bytes: number): void => room.give(org, bytes);
    return { session: createExecSession(asked, command, { stdin, kill, take, give }), kill, ended_at: null };
  }

  return {
    start,
    find: (computer, id) => {
      sweep();
      const session = held.get(id)?.session;
      return session?.computer === computer ? session : undefined;
    },
    list,
    forget: ({ id }) => {
      const entry = held.get(id);
      if (entry && entry.ended_at !== null) forget(entry);
    },
    signal: async ({ id, computer, exit }, signal) => {
      if (exit() !== null) return;
      if (signal === KILL) return held.get(id)?.kill();
      const script = `for file in $(grep -lsaF '${MARK}=${id}' /proc/[0-9]*/environ); do
  pid=\${file#/proc/}
  kill -s ${signal} "\${pid%/environ}" 2>/dev/null
done
exit 0`;
      await (await computers.use(computer)).exec({ script, timeout_ms: SIGNAL_MS }).exit;
    },
    close: () => {
      for (const { session } of held.values()) session.end('stopping');
    },
  };
}

type Places = {
  /** A place among those that run in the computer, and what gives it back. @throws OverwinterError `conflict` */
  take: (computer: string) => () => void;
};

function createPlaces(): Places {
  const taken = new Map<string, number>();
  const change = (computer: string, by: 1 | -1): void => {
    const left = (taken.get(computer) ?? 0) + by;
    if (left === 0) taken.delete(computer);
    else taken.set(computer, left);
  };
  return {
    take: (computer) => {
      if ((taken.get(computer) ?? 0) >= RUNNING_MAX)
        throw new OverwinterError(
          'conflict',
          `${RUNNING_MAX} commands run in the computer; end one of them first`,
        );
      change(computer, 1);
      return () => change(computer, -1);
    },
  };
}

/** A program with its arguments; without any, a line for the shell. */
function scriptOf({ cmd, args }: ExecRequest): string {
  const words = args.length > 0 ? [cmd, ...args] : ['sh', '-c', cmd];
  return `exec -- ${words.map(quoted).join(' ')}\n`;
}
