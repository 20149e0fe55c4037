/**
 * Where the tests of the bwrap driver keep computers, as root and as a plain user.
 * Invariant: a test file that runs as the plain user drops root for good, so it must have a process of its own.
 */

import { spawnSync } from 'node:child_process';
import { chmodSync, chownSync, existsSync, mkdtempSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
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

/** Where the host sees the root file system of an awake computer, whose files may lie where nobody else does. */
export function insideOf({ options, installation }: Ground, id: string): string {
  const directory = join(options.computers_dir, installation, id);
  const record = readFileSync(join(directory, 'computer.json'), 'utf8');
  return `/proc/${(JSON.parse(record) as { process: { pid: number } }).process.pid}/root`;
}

/** The same of the process around it, in which paths are the host's. */
export function outerOf(ground: Ground, id: string): string {
  const inside = dirname(insideOf(ground, id));
  const parent = /^PPid:\s*(\d+)/m.exec(readFileSync(join(inside, 'status'), 'utf8'))?.[1];
  return `/proc/${parent}/root`;
}

/** The host's path of a computer's workspace, whether or not the host sees it. */
export function workspaceOf({ options, installation }: Ground, id: string): string {
  const directory = join(options.computers_dir, installation, id);
  const disk = join(directory, 'disk');
  return join(existsSync(disk) ? disk : directory, 'workspace');
}

export function makeDriver(ground: Ground): Driver {
  return bwrapDriver(ground.options);
}
