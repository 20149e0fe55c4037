/**
 * A command that outlives whoever asked for it: its output is kept, whole or its last part, and shown to everyone who looks, in frames of
 * which the first byte says what they are. Invariant: whoever comes sees what is kept, a mark, and then what follows, in order.
 */
import type { OutputChunk } from '../../../resource/computer/driver.ts';
import { OverwinterError } from '../../../resource/error.ts';
import {
  createAudience,
  PIECE_BYTES_MAX,
  type AudienceBounds,
  type TerminalEnd,
  type Viewer,
} from '../audience.ts';
import { FAILED, type CommandEnd, type RunningCommand } from '../exec.ts';
import type { Attached } from '../shell.ts';
import type { Stdin } from './stdin.ts';

export type Asked = {
  org: string;
  computer: string;
  command: string;
  args: string[];
  /** `whole`: for who asks how it ended; `end`: for who looks, what was shown last. */
  keeps: 'whole' | 'end';
  /** So long it goes on when nobody looks any more; null = to its end. */
  linger_ms: number | null;
};

type Result = { exit: CommandEnd | null; stdout: string; stderr: string; truncated: boolean };

export type ExecSession = Asked & {
  readonly id: string;
  readonly started_at: Date;
  exit: () => CommandEnd | null;
  clients: () => number;
  /** @throws OverwinterError `conflict` when too many look at it. */
  attach: (viewer: Viewer) => Attached;
  result: () => Result;
  /** Ends the connections of those who look; the command goes on. */
  end: (why: TerminalEnd) => void;
  kept_bytes: () => number;
  ended: Promise<CommandEnd>;
};

const FRAME = { stdin: 0, stdout: 1, stderr: 2, exit: 3, scrollback_end: 4 } as const;

const BOUNDS: AudienceBounds = { stall_ms: 15_000, viewers_max: 16, backlog_bytes_max: 4_194_304 };
const SHOWN_BYTES_MAX = 262_144;

export type Means = {
  /** What is typed goes there; undefined = it has no input. */
  stdin: Stdin | undefined;
  /** Ends the command. */
  kill: () => void;
  /** Whether so many bytes more may be kept; if so, there is room for them until they are given back. */
  take: (bytes: number) => boolean;
  give: (bytes: number) => void;
};

export function createExecSession(
  asked: Asked,
  command: RunningCommand,
  { stdin, kill, take, give }: Means,
): ExecSession {
  const kept: OutputChunk[] = [];
  let kept_bytes = 0;
  let is_cut = false;
  let exit: CommandEnd | null = null;
  let linger: NodeJS.Timeout | undefined;
  const audience = createAudience(BOUNDS, () => {
    if (asked.linger_ms === null || exit) return;
    clearTimeout(linger);
    linger = setTimeout(kill, asked.linger_ms);
    linger.unref();
  });

  function keep({ stream, data }: OutputChunk): void {
    while (asked.keeps === 'end' && kept.length > 0 && kept_bytes + data.length > SHOWN_BYTES_MAX) drop();
    // What is whole has no gaps: nothing follows where something is missing.
    const is_over = exit !== null || (is_cut && asked.keeps === 'whole');
    if (is_over || !take(data.length)) return void (is_cut = true);
    kept.push({ stream, data: Uint8Array.from(data) });
    kept_bytes += data.length;
  }

  function drop(): void {
    const { length } = kept.shift()!.data;
    kept_bytes -= length;
    give(length);
  }

  async function pump(): Promise<void> {
    for await (const chunk of command.output) {
      keep(chunk);
      for (const frame of framesOf(chunk)) audience.deliverAll(frame);
      await audience.pace();
    }
  }

  async function follow(): Promise<CommandEnd> {
    const end = await Promise.all([command.end, pump()]).then(
      ([ended]) => ended,
      () => {
        // It may run on, with nobody who could learn of it.
        kill();
        return FAILED;
      },
    );
    exit = end;
    clearTimeout(linger);
    stdin?.close();
    audience.deliverAll(exitFrame(end));
    audience.dismiss('exited');
    return end;
  }

  function attach(viewer: Viewer): Attached {
    const seat = audience.seat(viewer);
    if (!seat) throw new OverwinterError('conflict', `${BOUNDS.viewers_max} clients look at the command`);
    clearTimeout(linger);
    for (const chunk of lastOf(kept)) for (const frame of framesOf(chunk)) audience.deliver(seat, frame);
    audience.deliver(seat, Uint8Array.of(FRAME.scrollback_end));
    if (exit) {
      audience.deliver(seat, exitFrame(exit));
      audience.dismiss('exited');
    }
    const input = stdin?.push ?? (() => Promise.resolve());
    return { input, resize: () => undefined, leave: () => audience.leave(seat) };
  }

  return {
    ...{ ...asked, id: command.id, started_at: command.started_at },
    exit: () => exit,
    clients: audience.size,
    attach,
    result: () => {
      const truncated = is_cut || command.said.truncated;
      return { exit, stdout: textOf(kept, 'stdout'), stderr: textOf(kept, 'stderr'), truncated };
    },
    end: audience.dismiss,
    kept_bytes: () => kept_bytes,
    ended: follow(),
  };
}

/** The last of it that one who comes is shown. */
function lastOf(kept: OutputChunk[]): OutputChunk[] {
  let bytes = 0;
  const from = kept.findLastIndex(({ data }) => (bytes += data.length) > SHOWN_BYTES_MAX);
  return kept.slice(from + 1);
}

function* framesOf({ stream, data }: OutputChunk): Generator<Uint8Array> {
  const piece = PIECE_BYTES_MAX - 1;
  for (let at = 0; at < data.length; at += piece)
    yield Buffer.concat([Uint8Array.of(FRAME[stream]), data.subarray(at, at + piece)]);
}

function exitFrame({ exit_code }: CommandEnd): Uint8Array {
  const frame = Buffer.alloc(5);
  frame[0] = FRAME.exit;
  frame.writeInt32BE(exit_code, 1);
  return frame;
}

function textOf(kept: OutputChunk[], of: OutputChunk['stream']): string {
  const bytes = Buffer.concat(kept.filter(({ stream }) => stream === of).map(({ data }) => data));
  return new TextDecoder('utf-8', { ignoreBOM: true }).decode(bytes);
}
