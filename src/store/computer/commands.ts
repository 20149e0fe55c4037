/** The history of commands: when each ran and how it ended, never what it was or said. */
import { sql } from 'kysely';
import type { Db } from '../ground/tables.ts';

export type CommandStatus = 'running' | 'completed' | 'failed' | 'timed_out' | 'lost';

export type CommandRow = {
  id: string;
  computer_id: string;
  source: string;
  status: CommandStatus;
  node: string;
  timeout_ms: number;
  started_at: Date;
  ended_at: Date | null;
  exit_code: number | null;
  stdout_bytes: number;
  stderr_bytes: number;
  error_type: string | null;
};

export async function insertCommand(
  db: Db,
  org: string,
  command: Pick<CommandRow, 'id' | 'computer_id' | 'source' | 'node' | 'timeout_ms' | 'started_at'>,
): Promise<void> {
  await db
    .insertInto('command')
    .values({ ...command, org, status: 'running' })
    .execute();
}

export async function finishCommand(
  db: Db,
  id: string,
  end: Pick<CommandRow, 'status' | 'ended_at' | 'exit_code' | 'stdout_bytes' | 'stderr_bytes' | 'error_type'>,
): Promise<void> {
  await db.updateTable('command').set(end).where('id', '=', id).execute();
}

export async function getCommand(
  db: Db,
  org: string,
  computer_id: string,
  id: string,
): Promise<CommandRow | undefined> {
  const query = db.selectFrom('command').selectAll().where('org', '=', org).where('id', '=', id);
  return (await query.where('computer_id', '=', computer_id).executeTakeFirst()) as CommandRow | undefined;
}

/** Newest first. */
export async function listCommands(
  db: Db,
  org: string,
  computer_id: string,
  limit: number,
): Promise<CommandRow[]> {
  const rows = await db
    .selectFrom('command')
    .selectAll()
    .where('org', '=', org)
    .where('computer_id', '=', computer_id)
    .orderBy('id', 'desc')
    .limit(limit)
    .execute();
  return rows as CommandRow[];
}

/** Commands that a node was running when it ended. */
export async function loseCommands(db: Db, node: string, at: Date): Promise<void> {
  await db
    .updateTable('command')
    .set({ status: 'lost', ended_at: at, error_type: 'node_ended' })
    .where('node', '=', node)
    .where('status', '=', 'running')
    .execute();
}

/** Forgets what began longer ago. */
export async function pruneCommands(db: Db, older_than_ms: number): Promise<void> {
  await db
    .deleteFrom('command')
    .where('started_at', '<', sql<Date>`clock_timestamp() - ${older_than_ms} * interval '1 ms'`)
    .execute();
}
