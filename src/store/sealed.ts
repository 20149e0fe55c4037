/** The sealed values of every table, as a change of the master key sees them: it replaces a value only where it is what was read. */
import { sql } from 'kysely';
import type { Db } from './ground/tables.ts';

/** Every table with a sealed value: its columns `id`, `org` and `sealed`. */
export const SEALED_TABLES = ['credential', 'destination_secret', 'computer_env', 'release_env'] as const;
export type SealedTable = (typeof SEALED_TABLES)[number];

export type SealedRow = { id: string; org: string; sealed: string };

/** Values that do not begin with `prefix`, by id. @param after the last id that was seen. */
export async function readSealedOtherwise(
  db: Db,
  table: SealedTable,
  prefix: string,
  { after, limit }: { after: string; limit: number },
): Promise<SealedRow[]> {
  const { rows } = await sql<SealedRow>`
    select id, org, sealed from ${sql.table(table)}
    where id > ${after} and not starts_with(sealed, ${prefix})
    order by id limit ${limit}`.execute(db);
  return rows;
}

/**
 * Replaces values that are still what they were. Rows that another node holds are left for the next pass, so that nodes which do
 * this at once neither wait for each other nor deadlock.
 * @returns how many were replaced.
 */
export async function replaceSealed(
  db: Db,
  table: SealedTable,
  changes: { id: string; from: string; to: string }[],
): Promise<number> {
  const column = (name: 'id' | 'from' | 'to'): string[] => changes.map((change) => change[name]);
  const { rows } = await sql<{ id: string }>`
    with free as (
      select id from ${sql.table(table)} where id = any(${column('id')}::text[]) for update skip locked
    )
    update ${sql.table(table)} t set sealed = c.new
    from unnest(${column('id')}::text[], ${column('from')}::text[], ${column('to')}::text[]) c (id, old, new)
      join free on free.id = c.id
    where t.id = c.id and t.sealed = c.old
    returning t.id`.execute(db);
  return rows.length;
}

/** How many values of the table there are, and how many of them begin with each of the prefixes. */
export async function countSealed(
  db: Db,
  table: SealedTable,
  prefixes: string[],
): Promise<{ all: number; of: number[] }> {
  const { rows } = await sql<{ count: number }>`
    select (select count(*) from ${sql.table(table)} where p.prefix is null or starts_with(sealed, p.prefix))::integer as count
    from unnest(${[null, ...prefixes]}::text[]) with ordinality p (prefix, at) order by p.at`.execute(db);
  const [all = 0, ...of] = rows.map(({ count }) => count);
  return { all, of };
}
