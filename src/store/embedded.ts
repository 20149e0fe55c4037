/**
 * The embedded ground: PGlite made durable. As it comes PGlite never calls fsync, and a power cut loses what it had
 * acknowledged; here every commit is synced, and the start proves that it is.
 */
import fs from 'node:fs';
import path from 'node:path';
import { PGlite } from '@electric-sql/pglite';
import { NodeFS } from '@electric-sql/pglite/nodefs';

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
