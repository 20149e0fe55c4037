/**
 * The history of commands, written behind them: no command waits for its note, and no reader on this node misses one that has begun or
 * ended. Notes are gathered for a moment and written in one statement: on the embedded database a commit syncs the disk while everything
 * else stands still, and a quick command would cost two. A note that the database refuses is given up, and said in the log; a
 * server that is killed loses those of the last moment.
 */
import {
  getCommand,
  listCommands,
  noteCommands,
  type CommandNote,
  type CommandRow,
} from '../../store/computer/commands.ts';
import type { Runtime } from '../runtime.ts';

type Beginning = Pick<CommandRow, 'id' | 'computer_id' | 'source' | 'node' | 'timeout_ms' | 'started_at'>;
type End = Omit<CommandRow, keyof Beginning>;

export type History = {
  /** A command begins; the function that comes back says how it ended. */
  begin: (org: string, command: Beginning) => (end: End) => void;
  find: (org: string, computer_id: string, id: string) => Promise<CommandRow | undefined>;
  /** Newest first. */
  list: (org: string, computer_id: string, limit: number) => Promise<CommandRow[]>;
  /** Resolves when every note is written, or given up. */
  close: () => Promise<void>;
};

/** So long a note waits for others, and for the next try where the database did not answer. */
const GATHER_MS = 50;
/** So many wait for no more. */
const BATCH = 256;
/** While so many wait for the database, beginnings are given up. Ends are no more than the commands that ran. */
const WAITING_MAX = 10_000;
/** Classes of SQLSTATE that are about what a statement says: data exception, integrity constraint violation. */
const ABOUT_DATA = /^2[23]/;

const RUNNING: End = {
  ...{ status: 'running', ended_at: null, exit_code: null },
  ...{ stdout_bytes: 0, stderr_bytes: 0, error_type: null },
};

export function createHistory({ database, logger }: Pick<Runtime, 'database' | 'logger'>): History {
  /** By command: an end takes the place of its beginning. */
  const waiting = new Map<string, CommandNote>();
  let timer: NodeJS.Timeout | undefined;
  let latest = Promise.resolve();
  /** Has not begun, and will take all that waits by then. */
  let next: Promise<void> | null = null;

  function note(command: CommandNote): void {
    const { id, ended_at } = command;
    if (ended_at === null && waiting.size >= WAITING_MAX)
      return giveUp(id, new Error('too many notes wait for the database'));
    waiting.set(id, command);
    if (waiting.size >= BATCH) void writeAll();
    else schedule();
  }

  function schedule(): void {
    timer ??= setTimeout(() => void writeAll(), GATHER_MS).unref();
  }

  /** One write at a time: a slow database gets fewer that are larger, and no end comes before its beginning. */
  function writeAll(): Promise<void> {
    if (next) return next;
    latest = latest.then(async () => {
      next = null;
      clearTimeout(timer);
      timer = undefined;
      const notes = [...waiting.values()];
      waiting.clear();
      if (notes.length > 0) await write(notes);
    });
    next = latest;
    return next;
  }

  async function write(notes: CommandNote[]): Promise<void> {
    try {
      await noteCommands(database, notes);
    } catch (error) {
      if (!ABOUT_DATA.test((error as { code?: string }).code ?? '')) return putBack(notes, error);
      // One bad note must not take the others with it.
      const half = notes.length >> 1;
      if (half === 0) return giveUp(notes[0]!.id, error);
      await write(notes.slice(0, half));
      await write(notes.slice(half));
    }
  }

  /** Until the database answers again. */
  function putBack(notes: CommandNote[], error: unknown): void {
    logger.warn({ err: error, commands: notes.length }, 'commands are not noted yet');
    for (const each of notes) if (!waiting.has(each.id)) waiting.set(each.id, each);
    schedule();
  }

  function giveUp(id: string, error: unknown): void {
    logger.warn({ err: error, command: id }, 'a command is not noted');
  }

  return {
    begin: (org, command) => {
      note({ ...command, ...RUNNING, org });
      return (end) => note({ ...command, ...end, org });
    },
    find: async (org, computer_id, id) => {
      await writeAll();
      return await getCommand(database.db, org, computer_id, id);
    },
    list: async (org, computer_id, limit) => {
      await writeAll();
      return await listCommands(database.db, org, computer_id, limit);
    },
    close: writeAll,
  };
}
