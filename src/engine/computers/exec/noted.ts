/** A computer whose commands are noted in its history, for those who do not run them through exec.ts. */
import type { Computer, Execution, OutputChunk } from '../../../resource/computer/driver.ts';
import type { Runtime } from '../../runtime.ts';
import { endOf, statusOf, type CommandRequest } from '../exec.ts';
import type { History } from '../history.ts';

export function noted(
  runtime: Runtime,
  history: History,
  of: { org: string; computer_id: string; source: CommandRequest['source'] },
  computer: Computer,
): Computer {
  const { org, ...named } = of;
  return {
    generation: computer.generation,
    exec: (spec) => {
      const started_at = new Date(Math.round(runtime.now()));
      const { timeout_ms } = spec;
      const id = runtime.newId('command');
      const noteEnd = history.begin(org, { id, ...named, node: runtime.machine, timeout_ms, started_at });
      const execution = computer.exec(spec);
      const said = { stdout: 0, stderr: 0 };
      const drained = Promise.withResolvers<void>();
      const exit = execution.exit.then((ended) =>
        endOf(ended, Math.round(runtime.now()) - started_at.getTime()),
      );
      Promise.all([exit, drained.promise]).then(
        ([{ exit_code, error_type, duration_ms }]) =>
          noteEnd({
            ...{ exit_code, error_type, status: statusOf(exit_code, error_type) },
            ended_at: new Date(started_at.getTime() + duration_ms),
            ...{ stdout_bytes: said.stdout, stderr_bytes: said.stderr },
          }),
        () => undefined,
      );
      return { exit: execution.exit, output: counted(execution, said, drained.resolve) };
    },
    pty: (spec) => computer.pty(spec),
    connect: (port) => computer.connect(port),
    usage: () => computer.usage(),
    alive: () => computer.alive(),
    hibernate: () => computer.hibernate(),
  };
}

async function* counted(
  { output }: Execution,
  said: { stdout: number; stderr: number },
  drained: () => void,
): AsyncGenerator<OutputChunk> {
  try {
    for await (const chunk of output) {
      said[chunk.stream] += chunk.data.length;
      yield chunk;
    }
  } finally {
    drained();
  }
}
