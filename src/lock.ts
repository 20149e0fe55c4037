/**
 * The lock of a data directory, and the identity of the machine that its holder keeps there. It belongs to an open descriptor of this process, so it dies with the process however that ends,
 * and no stale file can keep a server out.
 */
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';

/** Takes the lock for the life of this process. False when another process holds it. */
export function lockDirectory(directory: string): boolean {
  const descriptor = fs.openSync(path.join(directory, 'lock'), 'a', 0o600);
  const flock = spawnSync('flock', ['--nonblock', '3'], {
    stdio: ['ignore', 'ignore', 'ignore', descriptor],
  });
  if (flock.error)
    throw new Error('the program flock is missing; install it with: apt-get install util-linux');
  if (flock.status === 0) return true;
  fs.closeSync(descriptor);
  return false;
}

/**
 * The machine's id, the same at each start: kept in the directory, and given only to the holder of its lock, so that no two living
 * nodes have it. Without the lock, an id for this life only.
 */
export function machineId(directory: string, locked: boolean, make: () => string): string {
  if (!locked) return make();
  const file = path.join(directory, 'machine-id');
  if (!fs.existsSync(file)) {
    fs.writeFileSync(`${file}.new`, `${make()}\n`, { mode: 0o600, flush: true });
    fs.renameSync(`${file}.new`, file);
  }
  return fs.readFileSync(file, 'utf8').trim();
}
