/**
 * One shell on a terminal and everyone who looks at it. Each viewer gets what was shown before, then what follows, whole and in order,
 * or is dropped (audience.ts).
 */
import type { Terminal } from '../../resource/computer/driver.ts';
import { OverwinterError } from '../../resource/error.ts';
import { createAudience, within, type AudienceBounds, type TerminalEnd, type Viewer } from './audience.ts';
import { createConnectTokens, type ConnectTokens } from './connect-tokens.ts';
import { createScrollback } from './scrollback.ts';

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
  /** As a viewer would. */
  resize: Attached['resize'];
  /** Hangs up. Idempotent. */
  end: (why: TerminalEnd) => void;
};

export type ShellBounds = AudienceBounds & {
  /** How long it lives with nobody attached. */
  idle_ms: number;
  scrollback_bytes_max: number;
};

export const SHELL_BOUNDS: ShellBounds = {
  idle_ms: 3_600_000,
  stall_ms: 15_000,
  viewers_max: 16,
  scrollback_bytes_max: 262_144,
  backlog_bytes_max: 4_194_304,
};

/** After the shell's exit, for what it has shown last. */
const LAST_OUTPUT_MS = 2000;

type Identity = Pick<Shell, 'id' | 'org' | 'computer'>;

/** @param ended called once, when the shell is over. */
export function createShell(
  identity: Identity,
  terminal: Terminal,
  bounds: ShellBounds,
  now: () => number,
  ended: () => void,
): Shell {
  const audience = createAudience(bounds, () => waitIdle());
  const scrollback = createScrollback(bounds.scrollback_bytes_max);
  const { input, resize } = keyboard(terminal);
  let is_over = false;
  let idle: NodeJS.Timeout | undefined;

  async function pump(): Promise<void> {
    for await (const data of terminal.output) {
      scrollback.add(data);
      audience.deliverAll(data);
      await audience.pace();
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
    audience.dismiss(why);
    clearTimeout(idle);
    terminal.close();
    ended();
  }

  function attach(viewer: Viewer): Attached {
    if (is_over) throw new OverwinterError('conflict', 'the shell has ended');
    const seat = audience.seat(viewer);
    if (!seat)
      throw new OverwinterError('conflict', `${bounds.viewers_max} clients are attached to the terminal`);
    clearTimeout(idle);
    audience.deliver(seat, scrollback.read());
    return { input, resize, leave: () => audience.leave(seat) };
  }

  const shown = pump().catch(() => undefined);
  void terminal.exit
    .catch(() => ({ outcome: 'lost' as const }))
    .then(async ({ outcome }) => {
      await within(shown, LAST_OUTPUT_MS);
      end(outcome === 'lost' ? 'lost' : 'exited');
    });
  waitIdle();
  return { ...identity, tokens: createConnectTokens(now), attach, resize, end };
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
