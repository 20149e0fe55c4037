/**
 * One shell on a terminal and everyone who looks at it. Each viewer gets what was shown before, then what follows, whole and in order,
 * or is dropped. The shell goes at the pace of its fastest viewer, and freely without one; a viewer that falls too far behind the
 * fastest, or takes nothing at all, is dropped, so no slow one holds up the others, and none the shell for long.
 */
import type { Terminal } from '../../resource/computer/driver.ts';
import { OverwinterError } from '../../resource/error.ts';
import { createConnectTokens, type ConnectTokens } from './connect-tokens.ts';
import { createScrollback } from './scrollback.ts';

/** Why a viewer sees no more. `lost`: the computer's processes have ended; `closed`: a viewer asked for it. */
export type TerminalEnd = 'exited' | 'lost' | 'closed' | 'idle' | 'stopping' | 'slow';

/** Whoever looks at a terminal. */
export type Viewer = {
  /** At most `PIECE_BYTES_MAX` at a time; resolves when it is taken, rejects when the viewer is gone. */
  show: (data: Uint8Array) => Promise<void>;
  /** Called once at most, and not after `leave`; nothing is shown after it. */
  end: (why: TerminalEnd) => void;
};

export type Attached = {
  /** Resolves when the terminal has taken it. */
  input: (data: Uint8Array) => Promise<void>;
  /** The last one wins. */
  resize: (rows: number, cols: number) => void;
  leave: () => void;
};

export type Shell = {
  readonly id: string;
  readonly org: string;
  readonly computer: string;
  readonly tokens: ConnectTokens;
  /** @throws OverwinterError `conflict` when too many look at it. */
  attach: (viewer: Viewer) => Attached;
  /** Hangs up. Idempotent. */
  end: (why: TerminalEnd) => void;
};

export type ShellBounds = {
  /** How long it lives with nobody attached. */
  idle_ms: number;
  /** How long viewers may take nothing before they are dropped. */
  stall_ms: number;
  viewers_max: number;
  scrollback_bytes_max: number;
  /** What may wait for one viewer while another is ahead. */
  backlog_bytes_max: number;
};

export const SHELL_BOUNDS: ShellBounds = {
  idle_ms: 3_600_000,
  stall_ms: 15_000,
  viewers_max: 16,
  scrollback_bytes_max: 262_144,
  backlog_bytes_max: 4_194_304,
};

const PIECE_BYTES_MAX = 65_536;
/** What may wait for the fastest viewer before the shell waits too. */
const AHEAD_BYTES_MAX = 262_144;
/** After the shell's exit, for what it has shown last. */
const LAST_OUTPUT_MS = 2000;

type Seat = { viewer: Viewer; waiting_bytes: number };
type Identity = Pick<Shell, 'id' | 'org' | 'computer'>;

/** @param ended called once, when the shell is over. */
export function createShell(
  identity: Identity,
  terminal: Terminal,
  bounds: ShellBounds,
  now: () => number,
  ended: () => void,
): Shell {
  const seats = new Set<Seat>();
  const scrollback = createScrollback(bounds.scrollback_bytes_max);
  const { input, resize } = keyboard(terminal);
  let is_over = false;
  let idle: NodeJS.Timeout | undefined;
  let moved = Promise.withResolvers<void>();

  /** Something was taken, or someone left: who waits for that looks again. */
  function move(): void {
    moved.resolve();
    moved = Promise.withResolvers<void>();
  }

  function drop(seat: Seat, why?: TerminalEnd): void {
    if (!seats.delete(seat)) return;
    if (why !== undefined) seat.viewer.end(why);
    if (seats.size === 0) waitIdle();
    move();
  }

  function deliver(seat: Seat, data: Uint8Array): void {
    for (let from = 0; from < data.length && seats.has(seat); from += PIECE_BYTES_MAX)
      deliverPiece(seat, data.subarray(from, from + PIECE_BYTES_MAX));
  }

  function deliverPiece(seat: Seat, piece: Uint8Array): void {
    seat.waiting_bytes += piece.length;
    if (seat.waiting_bytes > bounds.backlog_bytes_max) return drop(seat, 'slow');
    const taken = (): void => {
      seat.waiting_bytes -= piece.length;
      move();
    };
    seat.viewer.show(piece).then(taken, () => drop(seat));
  }

  /** Resolves when the fastest viewer keeps up; drops them all when none takes anything for too long. */
  async function pace(): Promise<void> {
    while (seats.size > 0 && [...seats].every((seat) => seat.waiting_bytes > AHEAD_BYTES_MAX)) {
      if (await within(moved.promise, bounds.stall_ms)) continue;
      for (const seat of seats) drop(seat, 'slow');
    }
  }

  async function pump(): Promise<void> {
    for await (const data of terminal.output) {
      scrollback.add(data);
      for (const seat of seats) deliver(seat, data);
      await pace();
    }
  }

  function waitIdle(): void {
    clearTimeout(idle);
    if (is_over) return;
    idle = setTimeout(() => end('idle'), bounds.idle_ms);
    idle.unref();
  }

  function end(why: TerminalEnd): void {
    if (is_over) return;
    is_over = true;
    for (const seat of seats) drop(seat, why);
    clearTimeout(idle);
    terminal.close();
    ended();
  }

  function attach(viewer: Viewer): Attached {
    if (is_over) throw new OverwinterError('conflict', 'the shell has ended');
    if (seats.size >= bounds.viewers_max)
      throw new OverwinterError('conflict', `${bounds.viewers_max} clients are attached to the terminal`);
    const seat: Seat = { viewer, waiting_bytes: 0 };
    seats.add(seat);
    clearTimeout(idle);
    deliver(seat, scrollback.read());
    return { input, resize, leave: () => drop(seat) };
  }

  const shown = pump().catch(() => undefined);
  void terminal.exit
    .catch(() => ({ outcome: 'lost' as const }))
    .then(async ({ outcome }) => {
      await within(shown, LAST_OUTPUT_MS);
      end(outcome === 'lost' ? 'lost' : 'exited');
    });
  waitIdle();
  return { ...identity, tokens: createConnectTokens(now), attach, end };
}

/** Whether it settled in time. */
async function within(promise: Promise<unknown>, bound_ms: number): Promise<boolean> {
  const late = Promise.withResolvers<boolean>();
  const timer = setTimeout(() => late.resolve(false), bound_ms);
  const settled = await Promise.race([promise.then(() => true), late.promise]);
  clearTimeout(timer);
  return settled;
}

/** Input in the order it came, each piece at the size that was asked for before it. What comes after the terminal's end is dropped. */
function keyboard(terminal: Terminal): Pick<Attached, 'input' | 'resize'> {
  const apply = lastWins((rows, cols) => terminal.resize(rows, cols));
  let sized = Promise.resolve();
  let last = Promise.resolve();
  return {
    input: (data) => {
      const before = sized;
      last = last.then(() => before).then(() => terminal.write(data));
      return (last = last.catch(() => undefined));
    },
    resize: (rows, cols) => void (sized = apply(rows, cols)),
  };
}

type Wanted = { size: [rows: number, cols: number]; applied: PromiseWithResolvers<void> };

/** While one is under way, only the newest of those that follow waits. Each resolves when it, or a newer one, is applied. */
function lastWins(
  apply: (rows: number, cols: number) => Promise<void>,
): (rows: number, cols: number) => Promise<void> {
  let wanted: Wanted | undefined;
  let is_busy = false;
  const work = async (): Promise<void> => {
    is_busy = true;
    for (let next = wanted; next; next = wanted) {
      wanted = undefined;
      // A size that cannot be set is worth neither the terminal nor its viewer.
      await apply(...next.size).catch(() => undefined);
      next.applied.resolve();
    }
    is_busy = false;
  };
  return (rows, cols) => {
    const { applied } = wanted ?? { applied: Promise.withResolvers<void>() };
    wanted = { size: [rows, cols], applied };
    if (!is_busy) void work();
    return applied.promise;
  };
}
