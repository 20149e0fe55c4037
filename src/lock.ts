/**
 * The lock of a data directory. It belongs to an open descriptor of this process, so it dies with the process however that ends,
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
