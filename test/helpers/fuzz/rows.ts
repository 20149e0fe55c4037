/** What a database holds of one org, row by row, and whether its log is still the chain that was written. Nothing may run on it. */
import { createHash } from 'node:crypto';
import { sql } from 'kysely';
import { openDatabase, type Database } from '../../../src/store/ground/database.ts';

/** Opens the embedded database of a node that has stopped. */
export async function withDatabase<T>(
  directory: string,
  read: (database: Database) => Promise<T>,
): Promise<T> {
  const database = await openDatabase({ kind: 'embedded', directory });
  try {
    return await read(database);
  } finally {
    await database.close();
  }
}

/** Every row of the org, of every table, as text. */
export async function rowsOf({ db }: Database, org: string): Promise<string[]> {
  const streams = sql`select id from stream where org = ${org}`;
  const found: string[] = [];
  for (const table of await tablesWith(db, 'org')) found.push(...(await rows(table, sql`org = ${org}`)));
  for (const table of await tablesWith(db, 'stream'))
    found.push(...(await rows(table, sql`stream in (${streams})`)));
  return found;

  async function rows(table: string, where: ReturnType<typeof sql>): Promise<string[]> {
    const query = sql<{
      row: string;
    }>`select to_json(t)::text as row from ${sql.table(table)} t where ${where}`;
    const result = await query.execute(db);
    return result.rows.map(({ row }) => `${table} ${withoutWrapping(row)}`).sort();
  }
}

/** The operator may change the master key while others are fuzzed: then data keys are wrapped anew, and nothing else. */
function withoutWrapping(row: string): string {
  return row.replaceAll(/\\"(key_id|wrapped_data_key)\\":\\"[^"]*"/g, '"$1"');
}

async function tablesWith(db: Database['db'], column: string): Promise<string[]> {
  const query = sql<{ table_name: string }>`
    select table_name from information_schema.columns
    where column_name = ${column} and table_schema = 'public' order by table_name`;
  return (await query.execute(db)).rows.map(({ table_name }) => table_name);
}

type Link = { stream: string; seq: number; type: string; hash: string; body: string };

const PAGE = 5000;

/** The streams whose hashes do not follow from their events, and how many events there are in all. */
export async function brokenChains({ db }: Database): Promise<{ events: number; broken: string[] }> {
  const broken = new Set<string>();
  let events = 0;
  let last = { stream: '', seq: 0, hash: '' };
  for (;;) {
    const query = sql<Link>`
      select e.stream, e.seq::int as seq, e.type, encode(e.hash, 'hex') as hash, coalesce(b.body, e.body::text) as body
      from event e left join blob b on b.stream = e.stream and b.seq = e.seq
      where (e.stream, e.seq) > (${last.stream}, ${last.seq}) order by e.stream, e.seq limit ${PAGE}`;
    const { rows } = await query.execute(db);
    for (const link of rows) {
      const previous = link.stream === last.stream ? last : { seq: 0, hash: '' };
      if (link.seq !== previous.seq + 1 || link.hash !== hashAfter(previous.hash, link))
        broken.add(link.stream);
      last = link;
    }
    events += rows.length;
    if (rows.length < PAGE) return { events, broken: [...broken] };
  }
}

/** As it is promised, written down a second time: sha256(previous ‖ seq ‖ type ‖ sha256(body)). */
function hashAfter(previous: string, { seq, type, body }: Link): string {
  const hash = createHash('sha256').update(Buffer.from(previous, 'hex')).update(`${seq}\n${type}\n`);
  return hash.update(createHash('sha256').update(body).digest()).digest('hex');
}
