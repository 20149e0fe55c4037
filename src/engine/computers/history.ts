/**
 * The history of commands, written behind them: no command waits for its note, and no reader on this node misses one that has
 * ended. A note that cannot be written is given up, and said in the log.
 */
import {
  finishCommand,
  getCommand,
  insertCommand,
  listCommands,
  type CommandRow,
} from '../../store/computer/commands.ts';
import type { Runtime } from '../runtime.ts';

export type History = {
  /** A command begins; the function that comes back says how it ended. */
  begin: (
    org: string,
    command: Pick<CommandRow, 'id' | 'computer_id' | 'source' | 'node' | 'timeout_ms' | 'started_at'>,
  ) => (end: Parameters<typeof finishCommand>[2]) => void;
  find: (org: string, computer_id: string, id: string) => Promise<CommandRow | undefined>;
  /** Newest first. */
  list: (org: string, computer_id: string, limit: number) => Promise<CommandRow[]>;
};

export function createHistory({ database: { db }, logger }: Pick<Runtime, 'database' | 'logger'>): History {
  const writing = new Set<Promise<void>>();
  const write = (id: string, work: Promise<void>): Promise<void> => {
    const written = work
      .catch((error: unknown) => logger.warn({ err: error, command: id }, 'a command is not noted'))
      .finally(() => writing.delete(written));
    writing.add(written);
    return written;
  };
  return {
    begin: (org, command) => {
      const { id } = command;
      const begun = write(id, insertCommand(db, org, command));
      return (end) =>
        void write(
          id,
          begun.then(() => finishCommand(db, id, end)),
        );
    },
    find: async (org, computer_id, id) => {
      await Promise.all(writing);
      return await getCommand(db, org, computer_id, id);
    },
    list: async (org, computer_id, limit) => {
      await Promise.all(writing);
      return await listCommands(db, org, computer_id, limit);
    },
  };
}
