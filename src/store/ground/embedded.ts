/**
 * The embedded ground: PGlite made durable. As it comes PGlite never calls fsync, and a power cut loses what it had
 * acknowledged; here every commit is synced, and the start proves that it is.
 */
import fs from 'node:fs';
import path from 'node:path';
import { parse, PGlite, protocol } from '@electric-sql/pglite';
import { NodeFS } from '@electric-sql/pglite/nodefs';
import type { PGlite as QueryClient, PGliteQueryOptions, PGliteQueryResults } from 'kysely';

/** EIO in Emscripten's numbering. */
const ERRNO_IO = 29;

/**
 * Opens or makes a database in `directory`.
 * @throws Error when a commit does not reach the disk: the pinned PGlite's internals are not what we know.
 */
export async function openEmbedded(directory: string): Promise<PGlite> {
  const fresh = !fs.existsSync(path.join(directory, 'PG_VERSION'));
  const files = new DurableNodeFS(directory);
  const pglite = new PGlite({
    fs: files,
    startParams: [
      ...PGlite.defaultStartParams.filter((parameter) => parameter !== '-F'),
      ...['-c', 'wal_sync_method=fsync', '-c', 'shared_buffers=16MB'],
    ],
    parsers: { 20: Number },
  });
  await pglite.waitReady;
  await proveDurable(pglite, files);
  if (fresh) syncTree(directory);
  return pglite;
}

class DurableNodeFS extends NodeFS {
  syncs = 0;

  override async init(...[pglite, options]: Parameters<NodeFS['init']>): ReturnType<NodeFS['init']> {
    const initialized = await super.init(pglite, options);
    const preRun = initialized.emscriptenOpts.preRun as ((module: EmscriptenModule) => void)[];
    preRun.push((module) => {
      module.NODEFS.stream_ops.fsync = (stream) => this.sync(stream.nfd, module);
    });
    return initialized;
  }

  private sync(descriptor: number, module: EmscriptenModule): number {
    this.syncs += 1;
    try {
      fs.fdatasyncSync(descriptor);
      return 0;
    } catch {
      throw new module.FS.ErrnoError(ERRNO_IO);
    }
  }
}

type EmscriptenModule = {
  NODEFS: { stream_ops: { fsync: (stream: { nfd: number }) => number } };
  FS: { ErrnoError: new (errno: number) => Error };
};

async function proveDurable(pglite: PGlite, files: DurableNodeFS): Promise<void> {
  const before = files.syncs;
  await pglite.exec('create table if not exists durability_proof (at timestamptz)');
  await pglite.exec('delete from durability_proof; insert into durability_proof values (clock_timestamp())');
  if (files.syncs === before) {
    throw new Error('a commit of the embedded database did not reach the disk; set DATABASE_URL instead');
  }
}

/** Directory entries of a new database are durable only once their directories are synced. */
function syncTree(directory: string): void {
  for (const entry of fs.readdirSync(directory, { withFileTypes: true })) {
    if (entry.isDirectory()) syncTree(path.join(directory, entry.name));
  }
  const descriptor = fs.openSync(directory, 'r');
  fs.fsyncSync(descriptor);
  fs.closeSync(descriptor);
}

/** The log of changes is written out and cut after this much was sent; by itself PGlite never does. */
const CHECKPOINT_BYTES = 32 * 1024 * 1024;
/** A text with a list has one plan for each length of the list. */
const PLANS_MAX = 1000;

type Message = Awaited<ReturnType<PGlite['execProtocol']>>['messages'][number];
/** `columns` describes its answers, which come without: to be told each time is a sixth of a read by key. */
type Plan = { name: string; types: number[]; columns: Message[] };

export type Planned = {
  /** Values are numbers, strings, booleans, null, and arrays of these. */
  run: <Row>(text: string, values: unknown[]) => Promise<Row[]>;
  /** PGlite for those that call `query` by themselves. */
  client: QueryClient;
};

/**
 * Statements are parsed and planned once, by their text: `query` of PGlite does both each time, which costs seven times a read by key.
 * @param checkpoint called now and then, between statements.
 */
export function planned(pglite: PGlite, checkpoint: () => Promise<unknown>): Planned {
  const { serialize } = protocol;
  const plans = new Map<string, Plan>();
  let sent_bytes = 0;
  const send = (...messages: Uint8Array[]) => {
    const message = Buffer.concat([...messages, serialize.sync()]);
    sent_bytes += message.length;
    return pglite.execProtocol(message, { syncToFs: false });
  };
  const planOf = async (text: string): Promise<Plan> => {
    const known = plans.get(text);
    if (known) return known;
    const name = `plan_${plans.size}`;
    const { messages } = await send(serialize.parse({ name, text }), serialize.describe({ type: 'S', name }));
    const columns = messages.filter((message) => message.name === 'rowDescription');
    const plan = { name, types: parse.parseDescribeStatementResults(messages), columns };
    plans.set(text, plan);
    return plan;
  };
  const execute = async (text: string, values: unknown[], encode: Encode) => {
    if (sent_bytes > CHECKPOINT_BYTES) {
      sent_bytes = 0;
      await checkpoint();
    }
    return await pglite.runExclusive(async () => {
      const { name, types, columns } = await planOf(text);
      const { messages } = await send(
        serialize.bind({
          statement: name,
          values: values.map((value, index) => encode(value, types[index])),
        }),
        serialize.execute({}),
      );
      return parse.parseResults([...columns, ...messages], pglite.parsers)[0];
    });
  };
  const encode: Encode = (value, type = 0) => {
    if (value === null || value === undefined) return null;
    return pglite.serializers[type]?.(value) ?? toText(value as Value);
  };
  return {
    run: async <Row>(text: string, values: unknown[]) =>
      ((await execute(text, values, (value) => toText(value as Value)))?.rows ?? []) as Row[],
    client: {
      ...{ ready: true, closed: false, waitReady: pglite.waitReady },
      close: () => pglite.close(),
      transaction: (act) => pglite.transaction(act),
      query: async <Row>(text: string, values: unknown[] = [], options?: PGliteQueryOptions) => {
        if (plans.size >= PLANS_MAX && !plans.has(text))
          return await pglite.query<Row>(text, values, options);
        return ((await execute(text, values, encode)) ?? NOTHING) as PGliteQueryResults<Row>;
      },
    },
  };
}

type Encode = (value: unknown, type?: number) => string | null;
const NOTHING = { rows: [], fields: [] };

type Scalar = string | number | boolean | null | undefined;
type Value = Scalar | Scalar[];

/** PostgreSQL's text form of a value. */
function toText(value: Value): string | null {
  if (value === null || value === undefined) return null;
  return Array.isArray(value) ? `{${value.map(elementText).join(',')}}` : String(value);
}

function elementText(value: Scalar): string {
  if (value === null || value === undefined) return 'NULL';
  return typeof value === 'string' ? `"${value.replaceAll(/["\\]/g, '\\$&')}"` : String(value);
}
