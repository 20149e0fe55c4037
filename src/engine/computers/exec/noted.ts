/** A computer whose commands are noted in its history, for those who have only its handle. */
import type { Computer } from '../../../resource/computer/driver.ts';
import type { Runtime } from '../../runtime.ts';
import { runNoted, type CommandRequest } from '../exec.ts';
import type { History } from '../history.ts';

export function noted(
  runtime: Runtime,
  history: History,
  of: { org: string; computer_id: string; source: CommandRequest['source'] },
  computer: Computer,
): Computer {
  return {
    generation: computer.generation,
    exec: (spec) => {
      const command = { ...of, id: runtime.newId('command'), bytes_max: Number.MAX_SAFE_INTEGER };
      return runNoted(runtime, history, computer, spec, command);
    },
    pty: (spec) => computer.pty(spec),
    connect: (port) => computer.connect(port),
    usage: () => computer.usage(),
    alive: () => computer.alive(),
    hibernate: () => computer.hibernate(),
  };
}
