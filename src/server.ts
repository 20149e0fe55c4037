/**
 * Wires everything and stops it again. The only place that makes a clock, ids and chance; all that lies below is handed them.
 */
import { randomBytes } from 'node:crypto';
import fs from 'node:fs';
import type { Server as HttpServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import path from 'node:path';
import { pino } from 'pino';
import { directoryBlobs, sweepParts } from './blob/directory.ts';
import type { Config } from './config.ts';
import { openDrivers } from './drivers.ts';
import { createComputers } from './engine/computers/computers.ts';
import { startIdleSleep } from './engine/computers/idle.ts';
import { startReaper } from './engine/computers/reap.ts';
import { createDeployments } from './engine/deployments/deployments.ts';
import { startDeliverer } from './engine/deliver.ts';
import { createDeltas } from './engine/deltas.ts';
import { startHeartbeat } from './engine/heartbeat.ts';
import type { Logger, Runtime } from './engine/runtime.ts';
import { startWorker } from './engine/worker.ts';
import { createApp } from './http/app.ts';
import { BOUNDS, createListener } from './http/listener.ts';
import { createPublishedPorts, type PublishedPorts } from './http/published/published.ts';
import { lockDirectory } from './lock.ts';
import { anthropicProvider } from './model/anthropic.ts';
import { createPoster, type Poster } from './net/post.ts';
import type { Capabilities } from './resource/computer/driver.ts';
import { TESTS_AT_ONCE_MAX } from './resource/destination.ts';
import { makeId, type NewId } from './resource/id.ts';
import { digest, makeApiKey, parseApiKey } from './secret/key.ts';
import { givenKeys, keptKeys, type MasterKeys } from './secret/master-keys.ts';
import { parseMasterKeys } from './secret/seal.ts';
import { limitsOf, rulesOf, settingsOf } from './settings.ts';
import { openDatabase, type Database, type Ground } from './store/ground/database.ts';
import { createFollow } from './store/follow.ts';
import { createHints } from './store/hints.ts';
import { voidAllLeases } from './store/leases.ts';
import { computerKind, sessionKind } from './store/kind.ts';
import { createLog } from './store/log.ts';
import { ensureApiKey, type NewApiKey } from './store/api-keys.ts';
import { ensureDefaultOrg, installationId } from './store/orgs.ts';

/** What stands in the way of a start, in the one sentence that the operator sees. */
export class StartError extends Error {}

export type Server = {
  url: string;
  api_key: string;
  /** False where the key of this start was revoked or has expired: others may be in use. */
  api_key_works: boolean;
  capabilities: Capabilities;
  /** Lets running steps reach their checkpoint, ends streams and closes everything. */
  stop: () => Promise<void>;
};

/** @throws StartError; ConfigError */
export async function startServer(config: Config, version: string): Promise<Server> {
  const directory = config.OVERWINTER_DATA_DIR;
  const blobs_dir = config.OVERWINTER_BLOB_DIR ?? path.join(directory, 'blobs');
  const ground = groundOf(config);
  const locked = takeDirectories(directory, blobs_dir, ground.kind === 'embedded');
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
  const drivers = await openDrivers(config, { installation, fail, log: logger });
  if ('reason' in drivers) {
    await database.close();
    throw new StartError(drivers.reason);
  }
  const node = newId('node');
  const machine = machineId(directory, locked);
  const monotonic = (): number => performance.now();
  const heartbeat = await startHeartbeat(
    database.db,
    node,
    config.OVERWINTER_LEASE_TTL_MS,
    monotonic,
    machine,
  );
  const rules = rulesOf(config);
  const master_keys = await masterKeys(config, fail);
  const log_options = { database, now: heartbeat.now, fail, held_streams_max: 10_000 };
  const log = createLog(sessionKind(rules), log_options);
  const computer_log = createLog(computerKind, log_options);
  const runtime: Runtime = {
    ...{ node, machine },
    database,
    ...{ log, computer_log },
    follow: createFollow(database, log, config.OVERWINTER_POLL_MS),
    deltas: createDeltas(),
    rules,
    now: heartbeat.now,
    newId,
    random: Math.random,
    fail,
    logger,
    sealer: master_keys.sealer,
    master_keys,
    provider: anthropicProvider({ base_url: config.ANTHROPIC_BASE_URL }),
    managed_key: config.ANTHROPIC_API_KEY,
    ...{ driver: drivers.standard, drivers: drivers.all, images: drivers.images },
    blobs: directoryBlobs(blobs_dir, { fail }),
    poster: makePoster(config, heartbeat.now),
    settings: settingsOf(config),
  };
  await sweepParts(blobs_dir, Date.now(), ground.kind === 'embedded');
  const first_key = await firstApiKey(config, database, logger);
  return await run(runtime, { config, version, capabilities: drivers.capabilities, first_key, heartbeat });
}

type Started = {
  config: Config;
  version: string;
  capabilities: Capabilities;
  first_key: FirstKey;
  heartbeat: Awaited<ReturnType<typeof startHeartbeat>>;
};

async function run(runtime: Runtime, started: Started): Promise<Server> {
  const { config, version, capabilities, first_key, heartbeat } = started;
  const { database, log, follow } = runtime;
  const draining = new AbortController();
  const computers = createComputers(runtime, draining.signal);
  const deployments = createDeployments(runtime, computers, draining.signal);
  const auto_resume = config.OVERWINTER_AUTO_RESUME;
  let own_port = config.OVERWINTER_PORT;
  const ports_url = (): string => config.OVERWINTER_PORTS_URL ?? `http://*.localhost:${own_port}`;
  const ports = createPublishedPorts(runtime, computers, {
    ...{ url: ports_url, auto_resume, signal: draining.signal },
  });
  const app = createApp(runtime, {
    ...{ signal: draining.signal, version, capabilities, computers, deployments },
    auto_resume,
    ports_url,
    public_url: config.OVERWINTER_PUBLIC_URL,
    limits: limitsOf(config),
  });
  // Before any work is claimed: a node that cannot listen must leave the sessions to the others.
  const { server, url } = await listen(app, ports, config);
  own_port = (server.address() as AddressInfo).port;
  const reaper = startReaper(runtime, computers);
  const idle_sleep = startIdleSleep(runtime, computers);
  deployments.begin();
  const worker = startWorker(runtime, computers);
  const deliverer = startDeliverer(runtime, () => performance.now());
  const hints = createHints(database, runtime.node, (stream, head) => {
    follow.hint(stream, head);
    worker.wake();
  });
  log.onCommit(({ stream, state, owes }) => {
    hints.send(stream, state.head);
    if (owes) deliverer.wake();
    if (state.turn === null || state.turn.cancel_at !== null) worker.wake();
  });
  const stop = async (): Promise<void> => {
    draining.abort();
    const closed = new Promise<void>((resolve) => server.close(() => resolve()));
    const steps: (() => Promise<unknown>)[] = [
      () => worker.stop(),
      () => reaper.stop(),
      () => idle_sleep.stop(),
      () => deployments.close(),
      () => deliverer.stop(),
      () => runtime.poster.close(),
      () => Promise.all([...runtime.drivers.values()].map((driver) => driver.close())),
      () => hints.close(),
      () => heartbeat.stop(),
      () => {
        follow.close();
        server.closeAllConnections();
        return closed;
      },
      () => computers.history.close(),
      () => database.close(),
    ];
    // A part that fails to stop must not keep the others from it: leases are given back, and the database is closed.
    for (const step of steps) {
      await step().catch((error: unknown) =>
        runtime.logger.error({ err: error }, 'a part did not stop cleanly'),
      );
    }
  };
  return { url, ...first_key, capabilities, stop };
}

async function listen(
  app: ReturnType<typeof createApp>,
  ports: PublishedPorts,
  config: Config,
): Promise<{ server: HttpServer; url: string }> {
  const { OVERWINTER_HOST: hostname, OVERWINTER_PORT: port } = config;
  return await new Promise((resolve, reject) => {
    const server = createListener(app, newId, BOUNDS, ports);
    server.listen(port, hostname, () => {
      const address = server.address() as AddressInfo;
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

/**
 * A directory that cannot be used is said before anything is opened. Resolves to whether this process holds the lock of the data
 * directory; with the embedded database it must, as what is kept on disk is then this server's alone.
 */
function takeDirectories(directory: string, blobs_dir: string, alone: boolean): boolean {
  let locked: boolean;
  try {
    fs.mkdirSync(directory, { recursive: true, mode: 0o700 });
    fs.mkdirSync(blobs_dir, { recursive: true, mode: 0o700 });
    locked = lockDirectory(directory);
  } catch (error) {
    throw new StartError(`The data directory ${directory} cannot be used: ${(error as Error).message}.`);
  }
  if (locked || !alone) return locked;
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

function makePoster(config: Config, now: () => number): Poster {
  return createPoster({
    allowed: config.OVERWINTER_WEBHOOK_ALLOW ?? [],
    connect_ms: 10_000,
    response_ms: 15_000,
    connections_per_origin_max: config.OVERWINTER_WEBHOOKS_PER_ENDPOINT + TESTS_AT_ONCE_MAX,
    now,
  });
}

const newId: NewId = (kind) => makeId(kind, Date.now(), randomBytes(6).toString('hex'));

/** After the named effect the process dies as it would of a power cut. */
function makeFailpoints(named: string | undefined): Runtime['fail'] {
  if (named === undefined) return () => Promise.resolve();
  return async (failpoint) => {
    if (failpoint === named) process.kill(process.pid, 'SIGKILL');
  };
}

/** The master keys of the environment, or those of this data directory, the first of which is made at the first start. */
async function masterKeys(config: Config, fail: Runtime['fail']): Promise<MasterKeys> {
  const file = path.join(config.OVERWINTER_DATA_DIR, 'master-key');
  const written = config.OVERWINTER_MASTER_KEY;
  try {
    return written === undefined ? await keptKeys(file, fail) : givenKeys(parseMasterKeys(written));
  } catch (error) {
    const where = written === undefined ? file : 'OVERWINTER_MASTER_KEY';
    throw new StartError(`${where} is wrong: ${(error as Error).message}`);
  }
}

type FirstKey = Pick<Server, 'api_key' | 'api_key_works'>;

/** The operator's key: known to the database by its digest only, so the file is the operator's copy. */
async function firstApiKey(config: Config, database: Database, logger: Logger): Promise<FirstKey> {
  const { id: org } = await ensureDefaultOrg(database.db, newId('org'), 'default');
  const file = path.join(config.OVERWINTER_DATA_DIR, 'api-key');
  const api_key = config.OVERWINTER_API_KEY ?? readOrMake(file, () => makeApiKey(randomBytes).key);
  const public_id = parseApiKey(api_key)?.public_id;
  if (public_id === undefined)
    throw new StartError(`${file} does not hold an API key; remove it to make a new one.`);
  const id = newId('api_key');
  const key: NewApiKey = { id, name: 'first', public_id, digest: digest(api_key), scopes: ['admin'] };
  const known = await ensureApiKey(database.db, org, key);
  if (known === 'taken')
    throw new StartError(
      'Another API key has the id of the key of this start; set a new OVERWINTER_API_KEY.',
    );
  // A node that runs others' sessions must start again all the same.
  if (known === 'over') logger.warn({ public_id }, 'the API key of this start is revoked or has expired');
  return { api_key, api_key_works: known === 'usable' };
}

/**
 * The machine's id, the same at each start: given only to the holder of the directory's lock, so that no two living nodes have it.
 * Without the lock, an id for this life only.
 */
function machineId(directory: string, locked: boolean): string {
  const make = (): string => newId('machine');
  return locked ? readOrMake(path.join(directory, 'machine-id'), make) : make();
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
