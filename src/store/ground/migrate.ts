/** Brings a database up to this version: numbered SQL files, forward only, each in one transaction. */
import fs from 'node:fs/promises';
import { sql } from 'kysely';
import { Migrator, type Migration } from 'kysely/migration';
import type { Db } from './tables.ts';

const DIRECTORY = new URL('../../../schema/migrations/', import.meta.url);

/** @throws Error in one sentence when the database is newer than this program or a migration fails. */
export async function migrate(db: Db): Promise<void> {
  const migrator = new Migrator({ db, provider: { getMigrations: readMigrations } });
  const { error } = await migrator.migrateToLatest();
  if (error === undefined) return;
  const reason = error instanceof Error ? error.message : JSON.stringify(error);
  if (reason.includes('corrupted migrations')) {
    throw new Error(`the database was migrated by a newer version of Overwinter (${reason})`);
  }
  throw new Error(`the database could not be migrated: ${reason}`);
}

async function readMigrations(): Promise<Record<string, Migration>> {
  const names = (await fs.readdir(DIRECTORY)).filter((name) => name.endsWith('.sql'));
  const migrations = names.map(async (name) => {
    const text = await fs.readFile(new URL(name, DIRECTORY), 'utf8');
    return [name.replace(/\.sql$/, ''), { up: (db: Db) => runStatements(db, text) }] as const;
  });
  return Object.fromEntries(await Promise.all(migrations));
}

/** The embedded database takes one statement at a time; the files end each with `;` and an empty line. */
async function runStatements(db: Db, text: string): Promise<void> {
  for (const statement of text.split(/;\n\s*\n|;\s*$/)) {
    const lines = statement.split('\n').filter((line) => !line.startsWith('--'));
    if (lines.join('').trim() !== '') await sql.raw(lines.join('\n')).execute(db);
  }
}
