/** Ports of a computer that visitors reach, and what a visit may do to one that is asleep. */
import type { Duplex } from 'node:stream';
import { setTimeout as delay } from 'node:timers/promises';
import { ConnectionRefused } from '../../resource/computer/driver.ts';
import { expectLegal, type ComputerState } from '../../resource/computer/life.ts';
import { OverwinterError } from '../../resource/error.ts';
import { listPorts, publishPort, unpublishPort, type PublishedPortRow } from '../../store/computer/ports.ts';
import type { Runtime } from '../runtime.ts';
import type { Computers } from './computers.ts';
import { collect, runCommand } from './exec.ts';

const PORTS_MAX = 16;

/** Idempotent. @throws OverwinterError `conflict` for too many, and where the computer cannot have visitors. */
export async function publish(
  runtime: Runtime,
  org: string,
  { id: computer_id, status }: ComputerState,
  port: number,
  visits: Parameters<typeof publishPort>[2] = {},
): Promise<PublishedPortRow> {
  const { db } = runtime.database;
  expectLegal(status, 'publish');
  const published = await listPorts(db, org, [computer_id]);
  const is_new = published.every((row) => row.port !== port);
  if (is_new && published.length >= PORTS_MAX)
    throw new OverwinterError('conflict', `a computer has at most ${PORTS_MAX} published ports`);
  return await publishPort(db, { id: runtime.newId('published_port'), org, computer_id, port }, visits);
}

/** @throws OverwinterError `not_found` */
export async function unpublish(
  runtime: Runtime,
  org: string,
  computer_id: string,
  port: number,
): Promise<void> {
  if (await unpublishPort(runtime.database.db, org, computer_id, port)) return;
  throw new OverwinterError('not_found', 'no such port of this computer is published');
}

export type Visits = {
  /**
   * A connection to the port. Where the port is to wake it, a computer that is asleep is started first; where nothing listens, the
   * port's start command is run, once at a time, and waited for.
   * @throws ConnectionRefused; OverwinterError `conflict` when it does not run.
   */
  connect: (port: PublishedPortRow) => Promise<Duplex>;
};

/** @param auto_resume whether each visit starts a stopped computer. */
export function createVisits(runtime: Runtime, computers: Computers, auto_resume: boolean): Visits {
  const starting = new Map<string, Promise<void>>();

  async function dial({ computer_id, port }: PublishedPortRow): Promise<Duplex> {
    return await (await computers.use(computer_id)).connect(port);
  }

  async function wake({ computer_id, wakes }: PublishedPortRow): Promise<void> {
    if ((await runtime.computer_log.state(computer_id, 'held')).status === 'running') return;
    if (!wakes && !auto_resume) return;
    expectLegal((await computers.settled(computer_id)).status, 'start');
    await computers.start(computer_id);
  }

  async function startServer(row: PublishedPortRow, command: string): Promise<void> {
    const state = await runtime.computer_log.state(row.computer_id);
    const started = await runCommand(runtime, computers, row.org, state, {
      ...{ script: startScript(row.port), env: { START: command }, timeout_ms: START_MS, source: 'visit' },
    });
    await collect(started, () => false);
    const deadline = runtime.now() + START_MS;
    while (runtime.now() < deadline && !(await listens(row))) await delay(LOOK_MS);
  }

  async function listens(row: PublishedPortRow): Promise<boolean> {
    try {
      (await dial(row)).destroy();
      return true;
    } catch (error) {
      if (error instanceof ConnectionRefused) return false;
      throw error;
    }
  }

  return {
    connect: async (row) => {
      await wake(row);
      const { start_command, id } = row;
      try {
        return await dial(row);
      } catch (error) {
        if (!(error instanceof ConnectionRefused) || start_command === null) throw error;
      }
      const begun = starting.get(id) ?? startServer(row, start_command).finally(() => starting.delete(id));
      starting.set(id, begun);
      await begun;
      return await dial(row);
    },
  };
}

/** For a server to listen after it was started. */
const START_MS = 30_000;
const LOOK_MS = 100;

/** The command goes on when this has ended; what it says is in a file in the home directory. */
function startScript(port: number): string {
  return `nohup bash -c "$START" >"$HOME/.port-${port}.log" 2>&1 </dev/null &\n`;
}
