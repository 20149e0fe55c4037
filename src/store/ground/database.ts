/**
 * The ground: one SQL on two databases. PostgreSQL when a URL is given, otherwise the embedded one in the data directory. Nothing
 * above this file knows which.
 */
import { Kysely, PGliteDialect, PostgresDialect } from 'kysely';
import pg from 'pg';
import { openEmbedded, planned } from './embedded.ts';
import { migrate } from './migrate.ts';
import type { Db, Tables } from './tables.ts';

export type Ground =
  | { kind: 'embedded'; directory: string }
  | { kind: 'postgres'; url: string; migration_url: string };

/** A statement that is worth preparing; `name` identifies `text` on a connection. */
export type Statement = { name: string; text: string };

/** Receives the payloads of the cluster's hints; see store/hints.ts. */
type Listener = { close: () => Promise<void> };

export type Database = {
  kind: Ground['kind'];
  db: Db;
  /** Runs one prepared statement outside any transaction. */
  run: <Row>(statement: Statement, values: unknown[]) => Promise<Row[]>;
  /** Sends a hint to every node of the cluster; with the embedded database there is no other node. */
  notify: (payload: string) => Promise<void>;
  /** Calls `onPayload` for every hint, and `onReconnect` after each time that hints may have been missed. */
  listen: (onPayload: (payload: string) => void, onReconnect: () => void) => Listener;
  close: () => Promise<void>;
};

const ROLE = 'overwinter_runtime';
const CHANNEL = 'overwinter';
const RELISTEN_MS = 500;
const CONNECT_MS_MAX = 5000;
const QUERY_MS_MAX = 30_000;

/**
 * Opens the ground, migrates it, and steps down to the role that can neither change nor delete events.
 * @param connections how many connections this node may hold (PostgreSQL only).
 */
export async function openDatabase(ground: Ground, connections = 10): Promise<Database> {
  return ground.kind === 'embedded' ? openPGlite(ground.directory) : openPostgres(ground, connections);
}

async function openPGlite(directory: string): Promise<Database> {
  const pglite = await openEmbedded(directory);
  await migrate(new Kysely<Tables>({ dialect: new PGliteDialect({ pglite }) }));
  await pglite.exec(`set role ${ROLE}`);
  const { run, client } = planned(pglite, () => pglite.exec(`reset role; checkpoint; set role ${ROLE}`));
  const db = new Kysely<Tables>({ dialect: new PGliteDialect({ pglite: client }) });
  return {
    kind: 'embedded',
    db,
    run: ({ text }, values) => run(text, values),
    notify: () => Promise.resolve(),
    listen: () => ({ close: () => Promise.resolve() }),
    close: async () => {
      await pglite.exec('reset role; checkpoint');
      await db.destroy();
    },
  };
}

async function openPostgres(ground: Extract<Ground, { kind: 'postgres' }>, max: number): Promise<Database> {
  await migratePostgres(ground.migration_url);
  const settings = {
    connectionString: ground.url,
    types: NUMBERS,
    options: `-c role=${ROLE}`,
    // A half-open connection must not hold up the log or the heartbeat for as long as TCP does.
    keepAlive: true,
    connectionTimeoutMillis: CONNECT_MS_MAX,
  };
  const pool = new pg.Pool({ ...settings, max, query_timeout: QUERY_MS_MAX });
  // A connection that dies while idle is replaced by the pool; without a listener its error would end the process.
  pool.on('error', () => undefined);
  // So would one that dies under a statement: the pool listens only while it is idle, and the statement's own error is enough.
  pool.on('connect', (client) => client.on('error', () => undefined));
  const db = new Kysely<Tables>({ dialect: new PostgresDialect({ pool }) });
  return {
    kind: 'postgres',
    db,
    run: async <Row>(statement: Statement, values: unknown[]) =>
      (await pool.query({ ...statement, values })).rows as Row[],
    notify: async (payload) => {
      await pool.query('select pg_notify($1, $2)', [CHANNEL, payload]);
    },
    listen: (onPayload, onReconnect) => listenForever(settings, onPayload, onReconnect),
    close: () => db.destroy(),
  };
}

async function migratePostgres(url: string): Promise<void> {
  const pool = new pg.Pool({ connectionString: url, max: 1 });
  const db = new Kysely<Tables>({ dialect: new PostgresDialect({ pool }) });
  try {
    await migrate(db);
  } finally {
    await db.destroy();
  }
}

/** Whether the connection failed and not the statement, which may or may not have run. */
export function isConnectionError(error: unknown): boolean {
  if (!(error instanceof Error)) return false;
  const code = 'code' in error ? String(error.code) : '';
  // 25006: the server became a read-only standby; the pool's next connection may find the new primary.
  const connection = /^(08|57P0|53300|25006|ECONN|EPIPE|ETIMEDOUT|ENOTFOUND|EAI_AGAIN|EHOST|ENET)/.test(code);
  return connection || /Connection terminated|timeout/.test(error.message);
}

/** Whether the statement was the victim of a deadlock: nothing of it was done, and it may be done again. */
export function isDeadlock(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === '40P01';
}

/** Bigints fit a number here: seqs and counts, never money. */
const NUMBERS: pg.CustomTypesConfig = {
  getTypeParser: (oid: number, format?: 'text' | 'binary') =>
    oid === 20 ? Number : pg.types.getTypeParser(oid, format),
};

function listenForever(
  settings: pg.ClientConfig,
  onPayload: (payload: string) => void,
  onReconnect: () => void,
): Listener {
  let client: pg.Client | undefined;
  let closed = false;
  let retry: NodeJS.Timeout | undefined;
  const connect = async (): Promise<void> => {
    const connecting = new pg.Client(settings);
    client = connecting;
    connecting.on('error', () => undefined);
    connecting.once('end', () => {
      if (!closed) retry = setTimeout(() => void connect(), RELISTEN_MS);
    });
    connecting.on('notification', (message) => onPayload(message.payload ?? ''));
    try {
      await connecting.connect();
      await connecting.query(`listen ${CHANNEL}`);
      onReconnect();
    } catch {
      await connecting.end().catch(() => undefined);
    }
  };
  void connect();
  return {
    close: async () => {
      closed = true;
      clearTimeout(retry);
      await client?.end().catch(() => undefined);
    },
  };
}
