/** The shell that a client asks for: a new one of a computer, or one that was made before. */
import type { Computers } from '../../engine/computers/computers.ts';
import type { Shell } from '../../engine/computers/shell.ts';
import type { Terminals } from '../../engine/computers/terminals.ts';
import { expectLegal, type ComputerState } from '../../resource/computer/life.ts';
import { OverwinterError } from '../../resource/error.ts';

export type ShellGround = {
  computers: Computers;
  terminals: Terminals;
  /** Whether a stopped computer is started for a terminal that does not ask for it. */
  auto_resume: boolean;
};

/** @throws OverwinterError `conflict` when the computer does not run and is not to be started. */
export async function openShell(
  { computers, terminals, auto_resume }: ShellGround,
  org: string,
  { id, status }: ComputerState,
  resume: boolean,
): Promise<Shell> {
  const starts = status !== 'running' && (resume || auto_resume);
  expectLegal(status, starts ? 'start' : 'terminal');
  if (starts) await computers.start(id);
  return await terminals.open(org, id);
}

/** @throws OverwinterError `not_found` */
export function findShell(
  { terminals }: Pick<ShellGround, 'terminals'>,
  { id }: ComputerState,
  terminal_id: string,
): Shell {
  const shell = terminals.find(terminal_id);
  if (shell?.computer === id) return shell;
  throw noTerminal();
}

/** Said alike of a terminal that has ended and of one that is someone else's. */
export function noTerminal(): OverwinterError {
  return new OverwinterError('not_found', 'no such terminal; it may have ended');
}
