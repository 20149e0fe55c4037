/**
 * Where the tests of the bwrap driver keep computers, as root and as a plain user.
 * Invariant: a test file that runs as the plain user drops root for good, so it must have a process of its own.
 */

import { spawnSync } from 'node:child_process';
import { chmodSync, chownSync, mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Driver } from '../../src/resource/computer/driver.ts';
import { bwrapDriver } from '../../src/sandbox/bwrap.ts';
import type { BwrapOptions } from '../../src/sandbox/bwrap.ts';

export const as_root = process.getuid?.() === 0;

/** Far from the uids of a real server on this host. */
const UID_BASE = 1_700_000_000;
const NOBODY = 65_534;

export type Ground = { directory: string; installation: string; logged: string[]; options: BwrapOptions };

/** A fresh directory that other users can reach. */
export function makeGround(more: Partial<BwrapOptions> = {}): Ground {
  const directory = mkdtempSync(join(tmpdir(), 'ow-computers-'));
  chmodSync(directory, 0o711);
  const logged: string[] = [];
  const installation = 'test';
  const log = (fields: Record<string, unknown>, message: string): void => {
    logged.push(`${message} ${JSON.stringify(fields)}`);
  };
  const options = {
    computers_dir: join(directory, 'computers'),
    installation,
    uid_base: UID_BASE,
    egress: null,
    fail: () => {},
    log: { warn: log, debug: log },
    now: () => performance.now(),
    ...more,
  };
  return { directory, installation, logged, options };
}

/** Gives the ground to `nobody` and becomes it, for the rest of this process. */
export function becomeUser(ground: Ground): void {
  if (!as_root) return;
  chownSync(ground.directory, NOBODY, NOBODY);
  process.chdir('/');
  process.setgroups?.([]);
  process.setgid?.(NOBODY);
  process.setuid?.(NOBODY);
}

export function removeGround({ directory }: Ground): void {
  spawnSync('chmod', ['-R', 'u+rwX', directory]);
  spawnSync('rm', ['-rf', directory]);
}

export function makeDriver(ground: Ground): Driver {
  return bwrapDriver(ground.options);
}
