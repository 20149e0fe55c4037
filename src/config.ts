/** The environment as typed configuration: one table, which also writes the help. A wrong value is one clear sentence. */
import path from 'node:path';
import { z } from 'zod';
import { parseNetworks } from './net/address.ts';
import type { DriverName } from './resource/computer/driver.ts';

type Setting<T> = {
  /** As one would write it in the environment; undefined = unset. */
  default: string | undefined;
  unit?: string;
  meaning: string;
  schema: z.ZodType<T, string>;
};

const integer = (least: number, most: number) =>
  z
    .string()
    .regex(/^\d+$/, 'must be a whole number')
    .transform(Number)
    .refine((value) => value >= least && value <= most, `must be between ${least} and ${most}`);

const text = z.string().min(1, 'must not be empty');

const networks = z.string().transform((list, context) => {
  try {
    return parseNetworks(list);
  } catch (error) {
    context.addIssue({ code: 'custom', message: `is wrong: ${(error as Error).message}` });
    return z.NEVER;
  }
});

const seconds = z
  .string()
  .regex(/^\d{1,6}(,\d{1,6}){0,19}$/, 'must be whole seconds, separated by commas')
  .transform((list) => list.split(',').map((delay) => Number(delay) * 1000));

const drivers = z.string().transform((list, context) => {
  const names = list.split(',').map((name) => name.trim());
  const wrong = names.filter((name) => !isDriver(name));
  if (wrong.length === 0) return [...new Set(names.filter(isDriver))];
  context.addIssue({ code: 'custom', message: 'must be bwrap, docker or process, or several of them' });
  return z.NEVER;
});

function isDriver(name: string): name is DriverName {
  return name === 'bwrap' || name === 'docker' || name === 'process';
}

const setting = <T>(
  schema: z.ZodType<T, string>,
  fallback: string | undefined,
  meaning: string,
  unit?: string,
): Setting<T> => ({
  schema,
  default: fallback,
  meaning,
  ...(unit === undefined ? {} : { unit }),
});

export const SETTINGS = {
  OVERWINTER_HOST: setting(text, '127.0.0.1', 'address to listen on'),
  OVERWINTER_PORT: setting(integer(0, 65_535), '4680', 'port to listen on; 0 = any free one'),
  OVERWINTER_DATA_DIR: setting(text, '.overwinter', 'where the database, keys and blobs are kept'),
  DATABASE_URL: setting(
    z.url({ protocol: /^postgres(ql)?$/, error: 'must be a postgres:// URL' }),
    undefined,
    'a PostgreSQL to use instead of the embedded database',
  ),
  OVERWINTER_MIGRATION_URL: setting(
    z.url({ protocol: /^postgres(ql)?$/, error: 'must be a postgres:// URL' }),
    undefined,
    'the owner that migrates; default DATABASE_URL',
  ),
  OVERWINTER_DATABASE_CONNECTIONS: setting(
    integer(2, 500),
    '10',
    'connections that this node may hold (PostgreSQL)',
  ),
  OVERWINTER_API_KEY: setting(
    z.string().regex(/^ow_[0-9a-f]{8}_[A-Za-z0-9_-]{43}$/, 'must look like ow_<8 hex>_<43 base64url>'),
    undefined,
    'the first API key; default: made at the first start and kept in api-key',
  ),
  OVERWINTER_MASTER_KEY: setting(
    text,
    undefined,
    'seals stored secrets: 32 bytes as base64 or hex, or several of these separated by commas: the first seals, all open; required with DATABASE_URL, otherwise made and kept in master-key',
  ),
  OVERWINTER_SANDBOX: setting(
    drivers,
    'bwrap',
    'what computers are: bwrap, docker, or process (no isolation, for tests); of several, separated by commas, the first is the default',
  ),
  OVERWINTER_DOCKER_SOCKET: setting(
    text,
    '/var/run/docker.sock',
    "the container engine's socket, for computers of the driver docker",
  ),
  OVERWINTER_DOCKER_IMAGE: setting(
    text,
    'debian:bookworm',
    'what they are made from; it must hold bash, coreutils, util-linux and, for a network, perl',
  ),
  OVERWINTER_DOCKER_RUNTIME: setting(
    text,
    'runc',
    "the engine's runtime for them: runc, or runsc for gVisor",
  ),
  OVERWINTER_ALLOW_UNSANDBOXED: setting(
    z.enum(['0', '1'], 'must be 0 or 1').transform((value) => value === '1'),
    '0',
    'must be 1 for OVERWINTER_SANDBOX=process',
  ),
  OVERWINTER_COMPUTERS_DIR: setting(
    text,
    undefined,
    'where computers keep their files; default /var/lib/overwinter/computers as root, else in the data directory',
  ),
  OVERWINTER_UID_BASE: setting(
    integer(65_536, 2_000_000_000),
    '1000000',
    'the first host uid given to computers (as root)',
  ),
  OVERWINTER_BLOB_DIR: setting(
    text,
    undefined,
    'where snapshots and full outputs are kept; default in the data directory',
  ),
  OVERWINTER_HIBERNATE_AFTER_MS: setting(
    integer(0, 86_400_000),
    '30000',
    'how long an idle session keeps its computer awake',
    'ms',
  ),
  OVERWINTER_LEASE_TTL_MS: setting(
    integer(200, 600_000),
    '10000',
    'after how long a silent node counts as dead',
    'ms',
  ),
  OVERWINTER_POLL_MS: setting(
    integer(10, 60_000),
    '1000',
    'how often work is looked for without a wake-up',
    'ms',
  ),
  OVERWINTER_TURNS_AT_ONCE: setting(integer(1, 10_000), '64', 'turns that this node runs at once'),
  OVERWINTER_DRAIN_MS: setting(
    integer(0, 600_000),
    '5000',
    'how long a stopping server waits for running steps',
    'ms',
  ),
  OVERWINTER_COMMAND_TIMEOUT_MS: setting(
    integer(100, 1_800_000),
    '120000',
    "time limit of one of the agent's commands",
    'ms',
  ),
  OVERWINTER_OUTPUT_BYTES: setting(
    integer(1000, 1_000_000),
    '30000',
    "how much of a command's output the model sees",
    'bytes',
  ),
  OVERWINTER_RESPONSE_TOKENS: setting(
    integer(1, 1_000_000),
    '16000',
    'max_tokens of one model request',
    'tokens',
  ),
  OVERWINTER_COMPUTER_MEMORY_MB: setting(integer(64, 1_048_576), '1024', 'memory of one computer', 'MiB'),
  OVERWINTER_COMPUTER_DISK_MB: setting(
    integer(16, 1_048_576),
    '5120',
    'writable disk of one computer',
    'MiB',
  ),
  OVERWINTER_COMPUTER_PROCESSES: setting(integer(16, 100_000), '512', 'processes of one computer'),
  OVERWINTER_COMPUTER_CPU_PERCENT: setting(
    integer(1, 100_000),
    '200',
    'CPU of one computer; 100 = one core',
    '%',
  ),
  OVERWINTER_EGRESS: setting(
    z.enum(['open', 'off'], 'must be open or off'),
    'open',
    'what the computers of sessions may reach: open (public addresses, through the egress proxy) or off',
  ),
  OVERWINTER_EGRESS_ALLOW: setting(
    networks,
    undefined,
    'networks that computers may reach although they are not public: CIDRs, separated by commas',
  ),
  OVERWINTER_EXEC_OUTPUT_MB: setting(
    integer(1, 1024),
    '64',
    "how much of a command's output the Computers API answers with, each of stdout and stderr",
    'MiB',
  ),
  OVERWINTER_COMPUTERS_PER_ORG: setting(
    integer(1, 1_000_000),
    '1000',
    'computers of one org, stopped ones too; those of sessions do not count',
  ),
  OVERWINTER_BUNDLE_MB: setting(
    integer(1, 4096),
    '100',
    'how large the archive of a deployment may be; unpacked it may have 1 GiB',
    'MiB',
  ),
  OVERWINTER_AUTO_RESUME: setting(
    z.enum(['0', '1'], 'must be 0 or 1').transform((value) => value === '1'),
    '0',
    '1: the Computers API starts a stopped computer when a command or a terminal needs it, as ?resume=true does for one request',
  ),
  OVERWINTER_PUBLIC_URL: setting(
    z.url({ protocol: /^https?$/, error: 'must be an http or https URL' }),
    undefined,
    'what clients reach this server by, where a proxy stands before it: terminals are opened there',
  ),
  OVERWINTER_PORTS_URL: setting(
    z
      .string()
      .regex(/^https?:\/\/\*\.[a-z0-9.-]+(:\d{1,5})?\/?$/i, 'must look like https://*.apps.example.com'),
    undefined,
    'URL of published ports of computers, with a star where the name of each goes; default: names below localhost',
  ),
  OVERWINTER_WEBHOOK_ALLOW: setting(
    networks,
    undefined,
    'networks that webhooks may reach although they are not public, by http too: CIDRs, separated by commas',
  ),
  OVERWINTER_WEBHOOK_ATTEMPTS: setting(
    integer(1, 100),
    '10',
    'how often a webhook is sent before it is given up',
  ),
  OVERWINTER_WEBHOOK_HOURS: setting(
    integer(1, 8760),
    '24',
    'after how long it is given up, however often it was sent',
    'h',
  ),
  OVERWINTER_WEBHOOK_DELAYS: setting(
    seconds,
    '10,30,60,300,900',
    'how long to wait after each attempt; the last repeats',
    's',
  ),
  OVERWINTER_WEBHOOKS_AT_ONCE: setting(integer(1, 10_000), '512', 'webhook requests of this node at once'),
  OVERWINTER_WEBHOOKS_PER_ENDPOINT: setting(integer(1, 1000), '16', 'of these, to one endpoint'),
  OVERWINTER_WEBHOOKS_PER_SECOND: setting(
    integer(1, 100_000),
    '500',
    'webhook requests of this node to one endpoint in a second',
  ),
  OVERWINTER_REQUESTS_PER_KEY: setting(
    integer(1, 1_000_000),
    '200',
    'requests of one API key or client token that this node takes in a second',
  ),
  OVERWINTER_REQUESTS_PER_ORG: setting(
    integer(1, 1_000_000),
    '1000',
    'requests of one org that this node takes in a second',
  ),
  OVERWINTER_FAILURES_PER_ADDRESS: setting(
    integer(1, 1_000_000),
    '1000',
    'failed authentications of one address in a second, after which this node refuses it; raise it behind a proxy',
  ),
  OVERWINTER_STREAMS_PER_KEY: setting(
    integer(1, 1_000_000),
    '2000',
    'event streams of one API key or client token that this node holds open',
  ),
  OVERWINTER_STREAMS_PER_ORG: setting(
    integer(1, 1_000_000),
    '10000',
    'event streams of one org that this node holds open',
  ),
  OVERWINTER_STREAMS: setting(integer(1, 1_000_000), '20000', 'event streams that this node holds open'),
  OVERWINTER_LOG_LEVEL: setting(
    z.enum(['debug', 'info', 'warn', 'error', 'silent'], 'must be debug, info, warn, error or silent'),
    'info',
    'what the log on standard error holds',
  ),
  OVERWINTER_FAILPOINT: setting(
    text,
    undefined,
    'for tests: the named effect after which the process kills itself',
  ),
  ANTHROPIC_API_KEY: setting(
    text,
    undefined,
    'the model key of agents that have none of their own ("managed")',
  ),
  ANTHROPIC_BASE_URL: setting(z.url('must be a URL'), undefined, 'a compatible endpoint of the Messages API'),
} as const;

type Values = {
  [Name in keyof typeof SETTINGS]: (typeof SETTINGS)[Name] extends Setting<infer T> ? T | undefined : never;
};
/** Settings with a default are always there. */
export type Config = Values & {
  [Name in Defaulted]: (typeof SETTINGS)[Name] extends Setting<infer T> ? T : never;
};
type Defaulted = Exclude<
  keyof typeof SETTINGS,
  | 'DATABASE_URL'
  | 'OVERWINTER_MIGRATION_URL'
  | 'OVERWINTER_API_KEY'
  | 'OVERWINTER_MASTER_KEY'
  | 'OVERWINTER_COMPUTERS_DIR'
  | 'OVERWINTER_BLOB_DIR'
  | 'OVERWINTER_WEBHOOK_ALLOW'
  | 'OVERWINTER_EGRESS_ALLOW'
  | 'OVERWINTER_PORTS_URL'
  | 'OVERWINTER_PUBLIC_URL'
  | 'OVERWINTER_FAILPOINT'
  | 'ANTHROPIC_API_KEY'
  | 'ANTHROPIC_BASE_URL'
>;

/** A wrong setting; the message is the one sentence that the operator sees. It never quotes a secret's value. */
export class ConfigError extends Error {}

/** @throws ConfigError */
export function readConfig(environment: Record<string, string | undefined>): Config {
  const values: Record<string, unknown> = {};
  for (const [name, { schema, default: fallback }] of Object.entries(SETTINGS)) {
    const written = environment[name] === '' ? undefined : environment[name];
    const value = written ?? fallback;
    if (value === undefined) continue;
    const parsed = (schema as z.ZodType<unknown, string>).safeParse(value);
    if (!parsed.success) throw new ConfigError(`${name} ${parsed.error.issues[0]?.message ?? 'is wrong'}.`);
    values[name] = parsed.data;
  }
  const config = values as Config;
  checkTogether(config);
  return { ...config, OVERWINTER_DATA_DIR: path.resolve(config.OVERWINTER_DATA_DIR) };
}

function checkTogether(config: Config): void {
  if (config.OVERWINTER_SANDBOX.includes('process') && !config.OVERWINTER_ALLOW_UNSANDBOXED) {
    throw new ConfigError(
      "OVERWINTER_SANDBOX=process runs an agent's commands without any isolation; set OVERWINTER_ALLOW_UNSANDBOXED=1 as well if that is meant.",
    );
  }
  if (config.DATABASE_URL !== undefined && config.OVERWINTER_MASTER_KEY === undefined) {
    throw new ConfigError(
      'OVERWINTER_MASTER_KEY is required with DATABASE_URL, because all nodes must open the same credentials; make one with: openssl rand -base64 32',
    );
  }
}

/** The table of settings for `npm start -- --help` and the README. */
export function describeSettings(): string {
  const rows = Object.entries(SETTINGS).map(([name, { default: fallback, unit, meaning }]) => {
    const value = fallback === undefined ? 'unset' : unit === undefined ? fallback : `${fallback} ${unit}`;
    return `  ${name.padEnd(34)} ${value.padEnd(14)} ${meaning}`;
  });
  return [`  ${'setting'.padEnd(34)} ${'default'.padEnd(14)} meaning`, ...rows].join('\n');
}
