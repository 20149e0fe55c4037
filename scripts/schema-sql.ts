/**
 * The effect of all migrations as text: the catalogue of a fresh embedded database, in a form of our own, sorted but for the columns. It is read, never
 * run; it makes a migration's effect visible in a diff.
 */
import fs from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { sql } from 'kysely';
import { openDatabase, type Database } from '../src/store/ground/database.ts';

export async function schemaSql(): Promise<string> {
  const directory = await fs.mkdtemp(path.join(os.tmpdir(), 'overwinter-schema-'));
  try {
    const database = await openDatabase({ kind: 'embedded', directory });
    const text = await print(database);
    await database.close();
    return `${HEADER}\n${text}`;
  } finally {
    await fs.rm(directory, { recursive: true, force: true });
  }
}

const HEADER =
  '-- What schema/migrations/*.sql make, printed by scripts/schema-sql.ts. For reading; migrations are what runs.\n';

type Line = { table: string; line: string };

async function print(database: Database): Promise<string> {
  const [tables, columns, constraints, indexes, grants] = await Promise.all(
    [TABLES, COLUMNS, CONSTRAINTS, INDEXES, GRANTS].map((query) => lines(database, query)),
  );
  const blocks = tables!.map(({ table, line }) => {
    const of = (all: Line[] | undefined): string[] =>
      all!.filter((row) => row.table === table).map((row) => row.line);
    const inside = [...of(columns), ...of(constraints)].map((row) => `  ${row}`).join(',\n');
    return [`create table ${table} (\n${inside}\n)${line};`, ...of(indexes), ...of(grants)].join('\n');
  });
  return `${blocks.join('\n\n')}\n`;
}

async function lines(database: Database, query: string): Promise<Line[]> {
  return (await sql.raw<Line>(query).execute(database.db)).rows;
}

/** Bookkeeping of the migrator and the proof of durability are not ours to promise. */
const OURS = `c.relnamespace = 'public'::regnamespace and c.relname not like 'kysely%' and c.relname <> 'durability_proof'`;

const TABLES = `
select c.relname as table, coalesce(' with (' || array_to_string(c.reloptions, ', ') || ')', '') as line
from pg_class c where c.relkind = 'r' and ${OURS} order by c.relname collate "C"`;

const COLUMNS = `
select c.relname as table,
  a.attname || ' ' || format_type(a.atttypid, a.atttypmod) || case when a.attnotnull then ' not null' else '' end
    || coalesce(' default ' || pg_get_expr(d.adbin, d.adrelid), '') as line
from pg_class c
  join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
  left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
where c.relkind = 'r' and ${OURS} order by c.relname collate "C", a.attnum`;

const CONSTRAINTS = `
select c.relname as table, 'constraint ' || k.conname || ' ' || pg_get_constraintdef(k.oid) as line
from pg_constraint k join pg_class c on c.oid = k.conrelid
where k.contype in ('p', 'u', 'f', 'c', 'x') and ${OURS} order by c.relname collate "C", k.conname collate "C"`;

const INDEXES = `
select c.relname as table, replace(pg_get_indexdef(i.indexrelid), 'public.', '') || ';' as line
from pg_index i join pg_class c on c.oid = i.indrelid
where not exists (select from pg_constraint k where k.conindid = i.indexrelid and k.contype in ('p', 'u', 'x'))
  and ${OURS}
order by c.relname collate "C", i.indexrelid::regclass::text collate "C"`;

const GRANTS = `
select c.relname as table,
  'grant ' || string_agg(lower(g.privilege_type), ', ' order by g.privilege_type) || ' on ' || c.relname || ' to '
    || g.grantee || ';' as line
from pg_class c
  join information_schema.table_privileges g on g.table_schema = 'public' and g.table_name = c.relname
where g.grantee = 'overwinter_runtime' and ${OURS} group by c.relname, g.grantee order by c.relname collate "C"`;
