/**
 * The commands of this node that outlive whoever asked for them. How one ended is kept for a while, within bounds that hold for the whole
 * node: the oldest make room. They end with the server; the computer's history says that they were.
 */
import { OverwinterError } from '../../../resource/error.ts';
import type { ComputerState } from '../../../resource/computer/life.ts';
import { quoted } from '../../../sandbox/channel/loop.ts';
import type { Runtime } from '../../runtime.ts';
import type { Computers } from '../computers.ts';
import { runCommand } from '../exec.ts';
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
/** Of all that is kept. */
const KEPT_BYTES_MAX = 256 * 1024 * 1024;
const KILL = 9;
const SIGNAL_MS = 10_000;
/** By this variable the processes of one are known inside. */
const MARK = 'OVERWINTER_EXEC';

type Held = { session: ExecSession; kill: () => void; ended_at: number | null };

export function createExecSessions(runtime: Runtime, computers: Computers): ExecSessions {
  const held = new Map<string, Held>();
  const kept = (): number => [...held.values()].reduce((sum, { session }) => sum + session.kept_bytes(), 0);

  /** Oldest first: their ids are. */
  const ended = (): Held[] => [...held.values()].filter(({ ended_at }) => ended_at !== null);

  function forget({ session }: Held): void {
    held.delete(session.id);
  }

  function sweep(): void {
    const now = runtime.now();
    for (const each of ended()) if (each.ended_at! + ENDED_MS < now) forget(each);
  }

  function fits(bytes: number): boolean {
    for (const each of ended()) {
      if (kept() + bytes <= KEPT_BYTES_MAX) return true;
      forget(each);
    }
    return kept() + bytes <= KEPT_BYTES_MAX;
  }

  function remember(entry: Held): void {
    entry.ended_at = runtime.now();
    const same = ended().filter(({ session }) => session.computer === entry.session.computer);
    for (const each of same.slice(0, -ENDED_MAX)) forget(each);
  }

  function list(computer: string): ExecSession[] {
    sweep();
    return [...held.values()].map(({ session }) => session).filter((each) => each.computer === computer);
  }

  async function start(org: string, computer: ComputerState, request: ExecRequest): Promise<ExecSession> {
    const running = list(computer.id).filter((each) => each.exit() === null);
    if (running.length >= RUNNING_MAX)
      throw new OverwinterError(
        'conflict',
        `${RUNNING_MAX} commands run in the computer; end one of them first`,
      );
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
    const session = createExecSession(asked, command, { stdin, kill, fits });
    const entry: Held = { session, kill, ended_at: null };
    held.set(id, entry);
    void session.ended.then(() => remember(entry));
    return session;
  }

  return {
    start,
    find: (computer, id) => {
      sweep();
      const session = held.get(id)?.session;
      return session?.computer === computer ? session : undefined;
    },
    list,
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

/** A program with its arguments; without any, a line for the shell. */
function scriptOf({ cmd, args }: ExecRequest): string {
  const words = args.length > 0 ? [cmd, ...args] : ['sh', '-c', cmd];
  return `exec -- ${words.map(quoted).join(' ')}\n`;
}
