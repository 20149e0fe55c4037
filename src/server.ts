/**
 * Wires everything and stops it again. The only place that makes a clock, ids and chance; all that lies below is handed them.
 */
import { randomBytes } from 'node:crypto';
import fs from 'node:fs';
import type { AddressInfo } from 'node:net';
import path from 'node:path';
import { serve, type ServerType } from '@hono/node-server';
import { pino } from 'pino';
import { directoryBlobs } from './blob/directory.ts';
import type { Config } from './config.ts';
import { createComputers } from './engine/computers.ts';
import { createDeltas } from './engine/deltas.ts';
import { startHeartbeat } from './engine/heartbeat.ts';
import type { Logger, Runtime, Settings } from './engine/runtime.ts';
import { startWorker } from './engine/worker.ts';
import { createApp } from './http/app.ts';
import { lockDirectory } from './lock.ts';
import { anthropicProvider } from './model/anthropic.ts';
import type { Capabilities, Driver } from './resource/computer.ts';
import { makeId, type NewId } from './resource/id.ts';
import { bwrapDriver } from './sandbox/bwrap.ts';
import { processDriver } from './sandbox/process.ts';
import { digest, makeApiKey, parseApiKey } from './secret/key.ts';
import { parseMasterKey, sealer } from './secret/seal.ts';
import type { Rules } from './session/rules.ts';
import { openDatabase, type Database, type Ground } from './store/database.ts';
import { createFollow } from './store/follow.ts';
import { createHints } from './store/hints.ts';
import { voidAllLeases } from './store/leases.ts';
import { createLog } from './store/log.ts';
import { ensureApiKey } from './store/api-keys.ts';
import { ensureDefaultOrg, installationId } from './store/installation.ts';

/** What stands in the way of a start, in the one sentence that the operator sees. */
export class StartError extends Error {}

export type Server = {
  url: string;
  api_key: string;
  capabilities: Capabilities;
  /** Lets running steps reach their checkpoint, ends streams and closes everything. */
  stop: () => Promise<void>;
};

/** @throws StartError; ConfigError */
export async function startServer(config: Config, version: string): Promise<Server> {
  const directory = config.OVERWINTER_DATA_DIR;
  const blobs_dir = config.OVERWINTER_BLOB_DIR ?? path.join(directory, 'blobs');
  const ground = groundOf(config);
  takeDirectories(directory, blobs_dir, ground.kind === 'embedded');
  const logger: Logger = pino(
    { level: config.OVERWINTER_LOG_LEVEL },
    pino.destination({ dest: 2, sync: true }),
  );
  const fail = makeFailpoints(config.OVERWINTER_FAILPOINT);
  const database = await openDatabase(ground, config.OVERWINTER_DATABASE_CONNECTIONS).catch(
    (error: Error) => {
      throw new StartError(`The database cannot be opened: ${error.message || String(error)}.`);
    },
  );
  if (ground.kind === 'embedded') await voidAllLeases(database.db);
  const installation = await installationId(database.db, randomBytes(6).toString('hex'));
  const driver = makeDriver(config, installation, fail, logger);
  const probe = await driver.probe();
  if (!probe.usable) {
    await database.close();
    throw new StartError(probe.reason);
  }
  const node = newId('node');
  const heartbeat = await startHeartbeat(database.db, node, config.OVERWINTER_LEASE_TTL_MS, () =>
    performance.now(),
  );
  const rules = rulesOf(config);
  const log = createLog({ database, rules, now: heartbeat.now, fail, held_streams_max: 10_000 });
  const runtime: Runtime = {
    node,
    database,
    log,
    follow: createFollow(database, log, config.OVERWINTER_POLL_MS),
    deltas: createDeltas(),
    rules,
    now: heartbeat.now,
    newId,
    random: Math.random,
    fail,
    logger,
    sealer: sealer(masterKey(config)),
    provider: anthropicProvider({ base_url: config.ANTHROPIC_BASE_URL }),
    managed_key: config.ANTHROPIC_API_KEY,
    driver,
    blobs: directoryBlobs(blobs_dir, { fail }),
    settings: settingsOf(config),
  };
  const api_key = await firstApiKey(config, database);
  return await run(runtime, { config, version, capabilities: probe.capabilities, api_key, heartbeat });
}

type Started = {
  config: Config;
  version: string;
  capabilities: Capabilities;
  api_key: string;
  heartbeat: Awaited<ReturnType<typeof startHeartbeat>>;
};

async function run(runtime: Runtime, started: Started): Promise<Server> {
  const { config, version, capabilities, api_key, heartbeat } = started;
  const { database, log, follow } = runtime;
  const draining = new AbortController();
  const app = createApp(runtime, { signal: draining.signal, version, capabilities });
  // Before any work is claimed: a node that cannot listen must leave the sessions to the others.
  const { server, url } = await listen(app, config);
  const worker = startWorker(runtime, createComputers(runtime));
  const hints = createHints(database, runtime.node, (stream, head) => {
    follow.hint(stream, head);
    worker.wake();
  });
  log.onCommit(({ stream, state }) => {
    hints.send(stream, state.head);
    if (state.turn === null || state.turn.cancel_at !== null) worker.wake();
  });
  const stop = async (): Promise<void> => {
    draining.abort();
    const closed = new Promise<void>((resolve) => server.close(() => resolve()));
    const steps = [
      () => worker.stop(),
      () => runtime.driver.close(),
      () => hints.close(),
      () => heartbeat.stop(),
      () => {
        follow.close();
        if ('closeAllConnections' in server) server.closeAllConnections();
        return closed;
      },
      () => database.close(),
    ];
    // A part that fails to stop must not keep the others from it: leases are given back, and the database is closed.
    for (const step of steps) {
      await step().catch((error: unknown) =>
        runtime.logger.error({ err: error }, 'a part did not stop cleanly'),
      );
    }
  };
  return { url, api_key, capabilities, stop };
}

async function listen(
  app: ReturnType<typeof createApp>,
  config: Config,
): Promise<{ server: ServerType; url: string }> {
  const { OVERWINTER_HOST: hostname, OVERWINTER_PORT: port } = config;
  return await new Promise((resolve, reject) => {
    const server = serve({ fetch: app.fetch, hostname, port }, (address: AddressInfo) => {
      const host = address.family === 'IPv6' ? `[${address.address}]` : address.address;
      resolve({ server, url: `http://${host}:${address.port}` });
    });
    server.once('error', (error: NodeJS.ErrnoException) => {
      const reason =
        error.code === 'EADDRINUSE'
          ? `Port ${port} on ${hostname} is taken; set OVERWINTER_PORT.`
          : `Cannot listen on ${hostname}:${port}: ${error.message}.`;
      reject(new StartError(reason));
    });
  });
}

/** What is kept on disk is this server's alone; a directory that cannot be used is said before anything is opened. */
function takeDirectories(directory: string, blobs_dir: string, alone: boolean): void {
  let locked = true;
  try {
    fs.mkdirSync(directory, { recursive: true, mode: 0o700 });
    fs.mkdirSync(blobs_dir, { recursive: true, mode: 0o700 });
    if (alone) locked = lockDirectory(directory);
  } catch (error) {
    throw new StartError(`The data directory ${directory} cannot be used: ${(error as Error).message}.`);
  }
  if (locked) return;
  throw new StartError(
    `Another Overwinter server is using ${directory}; stop it or set OVERWINTER_DATA_DIR.`,
  );
}

function groundOf(config: Config): Ground {
  const { DATABASE_URL: url, OVERWINTER_MIGRATION_URL: migration_url } = config;
  if (url === undefined)
    return { kind: 'embedded', directory: path.join(config.OVERWINTER_DATA_DIR, 'database') };
  return { kind: 'postgres', url, migration_url: migration_url ?? url };
}

function makeDriver(config: Config, installation: string, fail: Runtime['fail'], log: Logger): Driver {
  const root = process.getuid?.() === 0;
  const standard = root
    ? '/var/lib/overwinter/computers'
    : path.join(config.OVERWINTER_DATA_DIR, 'computers');
  const computers_dir = config.OVERWINTER_COMPUTERS_DIR ?? standard;
  const options = { computers_dir, installation, fail, log, now: () => performance.now() };
  if (config.OVERWINTER_SANDBOX === 'process') return processDriver(options);
  return bwrapDriver({ ...options, uid_base: config.OVERWINTER_UID_BASE });
}

const newId: NewId = (kind) => makeId(kind, Date.now(), randomBytes(6).toString('hex'));

/** After the named effect the process dies as it would of a power cut. */
function makeFailpoints(named: string | undefined): Runtime['fail'] {
  if (named === undefined) return () => Promise.resolve();
  return async (failpoint) => {
    if (failpoint === named) process.kill(process.pid, 'SIGKILL');
  };
}

/** The master key from the environment, or the one of this data directory, made at the first start. */
function masterKey(config: Config): Buffer {
  const file = path.join(config.OVERWINTER_DATA_DIR, 'master-key');
  const written = config.OVERWINTER_MASTER_KEY;
  try {
    return parseMasterKey(written ?? readOrMake(file, () => randomBytes(32).toString('base64')));
  } catch (error) {
    const where = written === undefined ? file : 'OVERWINTER_MASTER_KEY';
    throw new StartError(`${where} is wrong: ${(error as Error).message}`);
  }
}

/** The operator's key: known to the database by its digest only, so the file is the operator's copy. */
async function firstApiKey(config: Config, database: Database): Promise<string> {
  const { id: org } = await ensureDefaultOrg(database.db, newId('org'), 'default');
  const file = path.join(config.OVERWINTER_DATA_DIR, 'api-key');
  const api_key = config.OVERWINTER_API_KEY ?? readOrMake(file, () => makeApiKey(randomBytes).key);
  const public_id = parseApiKey(api_key)?.public_id;
  if (public_id === undefined)
    throw new StartError(`${file} does not hold an API key; remove it to make a new one.`);
  const id = newId('api_key');
  const key = { id, name: 'first', public_id, digest: digest(api_key) };
  if (await ensureApiKey(database.db, org, key)) return api_key;
  throw new StartError(
    'The API key of this start is revoked, or another key has its id; set a new OVERWINTER_API_KEY.',
  );
}

/** @throws StartError */
function readOrMake(file: string, make: () => string): string {
  try {
    if (!fs.existsSync(file)) writeDurably(file, `${make()}\n`);
    return fs.readFileSync(file, 'utf8').trim();
  } catch (error) {
    throw new StartError(`${file} cannot be used: ${(error as Error).message}.`);
  }
}

function writeDurably(file: string, text: string): void {
  const temporary = `${file}.new`;
  fs.writeFileSync(temporary, text, { mode: 0o600, flush: true });
  fs.renameSync(temporary, file);
  const directory = fs.openSync(path.dirname(file), 'r');
  fs.fsyncSync(directory);
  fs.closeSync(directory);
}

function rulesOf(config: Config): Rules {
  return {
    hibernate_after_ms: config.OVERWINTER_HIBERNATE_AFTER_MS,
    bound_ms: 1500,
    response_tokens_max: config.OVERWINTER_RESPONSE_TOKENS,
    model_failures_max: 8,
    interruptions_max: 3,
    continuations_max: 3,
  };
}

function settingsOf(config: Config): Settings {
  const MIB = 1024 * 1024;
  return {
    lease_ttl_ms: config.OVERWINTER_LEASE_TTL_MS,
    poll_ms: config.OVERWINTER_POLL_MS,
    turns_at_once_max: config.OVERWINTER_TURNS_AT_ONCE,
    drain_ms: config.OVERWINTER_DRAIN_MS,
    command_timeout_ms: config.OVERWINTER_COMMAND_TIMEOUT_MS,
    output_bytes_max: config.OVERWINTER_OUTPUT_BYTES,
    computer: {
      memory_bytes: config.OVERWINTER_COMPUTER_MEMORY_MB * MIB,
      disk_bytes: config.OVERWINTER_COMPUTER_DISK_MB * MIB,
      processes_max: config.OVERWINTER_COMPUTER_PROCESSES,
      cpu_percent: config.OVERWINTER_COMPUTER_CPU_PERCENT,
    },
  };
}
