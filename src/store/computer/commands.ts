/** The history of commands: when each ran and how it ended, never what it was or said. */
import { sql } from 'kysely';
import type { Database, Statement } from '../ground/database.ts';
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

/** A command as it stands: `running`, or with its end. */
export type CommandNote = CommandRow & { org: string };

/** A beginning never undoes an end, whichever lands last. */
const NOTE: Statement = {
  name: 'note_commands',
  text: `
insert into command (id, org, computer_id, source, status, node, timeout_ms, started_at, ended_at, exit_code,
  stdout_bytes, stderr_bytes, error_type)
select n.id, n.org, n.computer_id, n.source, n.status, n.node, n.timeout_ms, to_timestamp(n.started_at / 1000),
  to_timestamp(n.ended_at / 1000), n.exit_code, n.stdout_bytes, n.stderr_bytes, n.error_type
from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::int[], $8::float8[],
  $9::float8[], $10::int[], $11::bigint[], $12::bigint[], $13::text[])
  as n(id, org, computer_id, source, status, node, timeout_ms, started_at, ended_at, exit_code, stdout_bytes,
    stderr_bytes, error_type)
on conflict (id) do update set status = excluded.status, ended_at = excluded.ended_at,
  exit_code = excluded.exit_code, stdout_bytes = excluded.stdout_bytes, stderr_bytes = excluded.stderr_bytes,
  error_type = excluded.error_type
where excluded.ended_at is not null`,
};

/** Writes them all or none. May be repeated. @param notes at most one of each command. */
export async function noteCommands(database: Database, notes: CommandNote[]): Promise<void> {
  const column = <T>(of: (note: CommandNote) => T): T[] => notes.map(of);
  await database.run(NOTE, [
    column(({ id }) => id),
    column(({ org }) => org),
    column(({ computer_id }) => computer_id),
    column(({ source }) => source),
    column(({ status }) => status),
    column(({ node }) => node),
    column(({ timeout_ms }) => timeout_ms),
    column(({ started_at }) => started_at.getTime()),
    column(({ ended_at }) => ended_at?.getTime() ?? null),
    column(({ exit_code }) => exit_code),
    column(({ stdout_bytes }) => stdout_bytes),
    column(({ stderr_bytes }) => stderr_bytes),
    column(({ error_type }) => error_type),
  ]);
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
