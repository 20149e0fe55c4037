/**
 * A PostgreSQL for measurements: a fresh cluster with durable defaults in a temporary directory, on a unix socket, from Debian's
 * package `postgresql-15`, which also brings `pgbench`.
 */
import { execFile, execFileSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);

const BIN = '/usr/lib/postgresql/15/bin';
const SETTINGS = ['max_wal_size=1GB', 'max_connections=200', "listen_addresses=''"];
/** As `statfs` names it. A sync of memory proves nothing. */
const TMPFS = 0x01021994;

export type BenchPostgres = {
  url: string;
  pgbench: (options: PgbenchOptions) => Promise<Pgbench>;
  stop: () => void;
};

export type PgbenchOptions = { script: string; clients: number; seconds: number };

/** `latency_ms` is pgbench's mean. */
export type Pgbench = { per_second: number; latency_ms: number };

/** @throws Error in one sentence when the package is missing or the directory is not on a disk. */
export async function startPostgres(): Promise<BenchPostgres> {
  if (!fs.existsSync(path.join(BIN, 'pgbench'))) {
    throw new Error(
      `pgbench is missing: install Debian's package with \`apt-get install postgresql-15\` (looked in ${BIN}).`,
    );
  }
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'overwinter-bench-'));
  if (fs.statfsSync(directory).type === TMPFS) {
    throw new Error(
      `${directory} is in memory, where fsync costs nothing: set TMPDIR to a directory on a disk.`,
    );
  }
  const as = asPostgres();
  if (process.getuid?.() === 0) await run('chown', ['postgres', directory]);
  const data = path.join(directory, 'data');
  const call = (program: string, args: string[]) =>
    run(as[0]!, [...as.slice(1), path.join(BIN, program), ...args], { cwd: directory });
  await call('initdb', ['-D', data, '-U', 'postgres', '-A', 'trust', '-E', 'UTF8', '--locale=C']);
  const options = [`-k ${directory}`, ...SETTINGS.map((setting) => `-c ${setting}`)].join(' ');
  await call('pg_ctl', ['-D', data, '-w', '-s', '-l', path.join(directory, 'log'), '-o', options, 'start']);
  let running = true;
  const stop = (mode: string): void => {
    if (!running) return;
    running = false;
    execFileSync(
      as[0]!,
      [...as.slice(1), path.join(BIN, 'pg_ctl'), '-D', data, '-w', '-s', '-m', mode, 'stop'],
      { cwd: directory },
    );
    fs.rmSync(directory, { recursive: true, force: true });
  };
  // The server is not our child: a run that is broken off must not leave it behind.
  process.once('exit', () => stop('immediate'));
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(1));
  return {
    url: `postgres://postgres@localhost/postgres?host=${encodeURIComponent(directory)}`,
    pgbench: (what) => pgbench(directory, what),
    stop: () => stop('fast'),
  };
}

/** PostgreSQL refuses to run as root. */
function asPostgres(): string[] {
  if (process.getuid?.() !== 0) return ['env'];
  return ['setpriv', '--reuid=postgres', '--regid=postgres', '--init-groups'];
}

async function pgbench(directory: string, { script, clients, seconds }: PgbenchOptions): Promise<Pgbench> {
  const file = path.join(directory, 'script.sql');
  fs.writeFileSync(file, script);
  const threads = Math.min(clients, os.availableParallelism());
  const counts = ['-c', clients, '-j', threads, '-T', seconds].map(String);
  const options = [
    '-h',
    directory,
    '-U',
    'postgres',
    '-n',
    '-M',
    'prepared',
    '-f',
    file,
    ...counts,
    'postgres',
  ];
  const { stdout } = await run(path.join(BIN, 'pgbench'), options);
  const number = (pattern: RegExp): number => {
    const found = pattern.exec(stdout)?.[1];
    if (found === undefined) throw new Error(`pgbench measured nothing:\n${stdout}`);
    return Number(found);
  };
  return { per_second: number(/tps = ([\d.]+)/), latency_ms: number(/latency average = ([\d.]+)/) };
}
