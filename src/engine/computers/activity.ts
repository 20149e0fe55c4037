/**
 * A computer's handle as everybody here has it: every command and terminal gets the computer's own variables, and it is known how long
 * nobody has used it. A command or a connection uses it as long as it lasts, a terminal whenever something is typed or shown.
 */
import type { Computer, Terminal } from '../../resource/computer/driver.ts';

export type Watched = Computer & {
  /** 0 while something is under way in it. */
  idle_ms: () => number;
  /** Somebody is about to use it. */
  touch: () => void;
};

/** @param env of every command; what a command brings itself comes before it. */
export function watched(computer: Computer, env: Record<string, string>, now: () => number): Watched {
  let under_way = 0;
  let used_at = now();
  const touch = (): void => void (used_at = now());
  const begin = (): (() => void) => {
    under_way += 1;
    return () => {
      under_way -= 1;
      touch();
    };
  };
  return {
    ...{ generation: computer.generation, touch },
    idle_ms: () => (under_way > 0 ? 0 : now() - used_at),
    exec: (spec) => {
      const end = begin();
      const execution = computer.exec({ ...spec, env: { ...env, ...spec.env } });
      execution.exit.then(end, end);
      return execution;
    },
    pty: async (spec) => {
      touch();
      return watchedTerminal(await computer.pty({ ...spec, env: { ...env, ...spec.env } }), touch);
    },
    connect: async (port) => {
      touch();
      const connection = await computer.connect(port);
      connection.once('close', begin());
      return connection;
    },
    usage: () => computer.usage(),
    alive: () => computer.alive(),
    hibernate: () => computer.hibernate(),
  };
}

function watchedTerminal(terminal: Terminal, touch: () => void): Terminal {
  return {
    output: seen(terminal.output, touch),
    write: (data) => {
      touch();
      return terminal.write(data);
    },
    resize: (rows, cols) => terminal.resize(rows, cols),
    exit: terminal.exit,
    close: () => terminal.close(),
  };
}

async function* seen(output: AsyncIterable<Uint8Array>, touch: () => void): AsyncGenerator<Uint8Array> {
  for await (const data of output) {
    touch();
    yield data;
  }
}
