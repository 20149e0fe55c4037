/**
 * The shells of this node: durable while the node and the computer run, whoever comes and goes. They end with the server; none of them
 * is on record anywhere.
 */
import { ComputerLost, Unsupported, type Terminal } from '../../resource/computer/driver.ts';
import { OverwinterError } from '../../resource/error.ts';
import type { Runtime } from '../runtime.ts';
import type { Computers } from './computers.ts';
import { createShell, SHELL_BOUNDS, type Shell, type ShellBounds } from './shell.ts';

export type Terminals = {
  /**
   * A new login shell in a running computer.
   * @throws OverwinterError `conflict` when it does not run, has no terminals or has too many; `unavailable` when another node has it.
   */
  open: (org: string, computer: string, size?: Size) => Promise<Shell>;
  /** A shell of this node that has not ended. */
  find: (id: string) => Shell | undefined;
  /** Ends all of them; none is opened after. */
  close: () => void;
};

export type TerminalBounds = ShellBounds & { per_computer_max: number };

const PER_COMPUTER_MAX = 16;
/** Until a client says its own. */
const SIZE: Size = { rows: 24, cols: 80 };

type Size = { rows: number; cols: number };

export function createTerminals(
  runtime: Pick<Runtime, 'newId' | 'now'>,
  computers: Pick<Computers, 'use'>,
  bounds: Partial<TerminalBounds> = {},
): Terminals {
  const { per_computer_max = PER_COMPUTER_MAX, ...own } = bounds;
  const shells = new Map<string, Shell>();
  /** How many each computer has, those that are being opened included. */
  const counts = new Map<string, number>();
  let is_closed = false;

  function take(computer: string): void {
    const count = counts.get(computer) ?? 0;
    if (count >= per_computer_max) {
      const message = `the computer has ${per_computer_max} terminals open; end one of them first`;
      throw new OverwinterError('conflict', message);
    }
    counts.set(computer, count + 1);
  }

  function giveBack(computer: string): void {
    const left = (counts.get(computer) ?? 0) - 1;
    if (left > 0) counts.set(computer, left);
    else counts.delete(computer);
  }

  function keep(org: string, computer: string, terminal: Terminal): Shell {
    const id = runtime.newId('terminal');
    const ended = (): void => {
      shells.delete(id);
      giveBack(computer);
    };
    const shell = createShell(
      { id, org, computer },
      terminal,
      { ...SHELL_BOUNDS, ...own },
      runtime.now,
      ended,
    );
    shells.set(id, shell);
    if (is_closed) shell.end('stopping');
    return shell;
  }

  return {
    open: async (org, computer, size = SIZE) => {
      if (is_closed) throw new OverwinterError('unavailable', 'the server is stopping');
      take(computer);
      try {
        const terminal = await openTerminal(computers, computer, size);
        return keep(org, computer, terminal);
      } catch (error) {
        giveBack(computer);
        throw error;
      }
    },
    find: (id) => shells.get(id),
    close: () => {
      is_closed = true;
      for (const shell of shells.values()) shell.end('stopping');
    },
  };
}

async function openTerminal(
  computers: Pick<Computers, 'use'>,
  computer: string,
  size: Size,
): Promise<Terminal> {
  try {
    return await (await computers.use(computer)).pty(size);
  } catch (error) {
    if (error instanceof Unsupported) throw new OverwinterError('conflict', error.message);
    if (error instanceof ComputerLost)
      throw new OverwinterError('conflict', 'the computer has stopped; start it first');
    throw error;
  }
}
