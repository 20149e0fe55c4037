/** What a server has stored, as one who steals its disk or its database reads it. */
import fs from 'node:fs';
import path from 'node:path';
import { sql } from 'kysely';
import pg from 'pg';
import { inject } from 'vitest';
import { openDatabase } from '../../src/store/ground/database.ts';
import { testGround, type TestGround } from '../helpers/grounds.ts';
import type { Needle } from './encodings.ts';

/** A database whose URL has a password of its own. */
export async function withPassword(password: string): Promise<TestGround> {
  const ground = await testGround('postgres');
  const name = new URL(ground.url!).pathname.slice(1);
  const admin = new pg.Client({ connectionString: inject('postgres_url') });
  await admin.connect();
  await admin.query(`create role ${name} superuser login password '${password}'`);
  const url = new URL(ground.url!);
  Object.assign(url, { username: name, password });
  return {
    ...{ url: url.href, open: ground.open },
    drop: async () => {
      await ground.drop();
      await admin.query(`drop role ${name}`);
      await admin.end();
    },
  };
}

/** Every row of every table as text; of destinations without the URL, which is its owner's. */
export async function dumpTables(url: string | undefined, directory: string): Promise<string> {
  const ground =
    url === undefined
      ? ({ kind: 'embedded', directory } as const)
      : ({ kind: 'postgres', url, migration_url: url } as const);
  const database = await openDatabase(ground);
  const { rows: tables } = await sql<{ name: string }>`
    select table_name as name from information_schema.tables
    where table_schema = 'public' and table_type = 'BASE TABLE'`.execute(database.db);
  const texts = [];
  for (const { name } of tables) {
    const { rows } = await sql<{ row: string }>`
      select row_to_json(t)::text as row from ${sql.table(name)} t`.execute(database.db);
    const stored = rows.map(({ row }) => (name === 'destination' ? row.replace(/"url":"[^"]*"/, '') : row));
    texts.push(name, ...stored);
  }
  await database.close();
  return texts.join('\n');
}

/** Of the files below a directory, but for those that hold keys on purpose. */
export function findInFiles(directory: string, needles: Needle[]): string[] {
  const files = fs.readdirSync(directory, { recursive: true, withFileTypes: true });
  return files
    .filter((file) => file.isFile() && !['master-key', 'api-key'].includes(file.name))
    .flatMap((file) => {
      const whole = path.join(file.parentPath, file.name);
      const written = writtenIn(whole);
      const found = needles.filter(({ text }) => written.some((bytes) => bytes.includes(text, 0, 'latin1')));
      return found.map(({ secret, encoding }) => `${whole}: ${secret}, ${encoding}`);
    });
}

const BLOCK_BYTES = 1024 * 1024;
const ZEROES = Buffer.alloc(BLOCK_BYTES);

/** The pieces of a file between what was never written, of which a computer's disk has 5 GB. */
function writtenIn(file: string): Buffer[] {
  const pieces: Buffer[][] = [[]];
  const descriptor = fs.openSync(file, 'r');
  for (;;) {
    const block = Buffer.alloc(BLOCK_BYTES);
    const length = fs.readSync(descriptor, block);
    if (length === 0) break;
    if (block.equals(ZEROES)) pieces.push([]);
    else pieces.at(-1)!.push(block.subarray(0, length));
  }
  fs.closeSync(descriptor);
  return pieces.filter((blocks) => blocks.length > 0).map((blocks) => Buffer.concat(blocks));
}
