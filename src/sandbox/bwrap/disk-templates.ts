/**
 * Making disks that the kernel holds to their size: copies of templates, each a sparse file with an empty file system. Of a size that was
 * asked for twice one copy lies ready. Invariant: a file appears under its name whole.
 */

import { randomBytes } from 'node:crypto';
import { chmod, mkdir, open, readdir, rename, rm, stat, truncate } from 'node:fs/promises';
import { join } from 'node:path';
import type { Fail } from '../../resource/computer/driver.ts';
import { start } from '../launcher.ts';
import { collect, run, succeeded } from '../run.ts';
import { FRESH, mounting, WRITABLE } from './mounts.ts';

export type Disks = {
  /** Makes the file, with room for `bytes`. */
  make(file: string, bytes: number): Promise<void>;
  /** From the second time on, has a copy lie ready for the next of this size. */
  stock(bytes: number): Promise<void>;
};

type Templates = { directory: string; fail: Fail; asked: Set<number> };

const TRIAL_BYTES = 67_108_864;
const MAKE_MS_MAX = 60_000;
const TEMPLATES_MAX = 16;
/** Begins the names of what is being made. */
const PART = '.content-';
const SPARE = '.spare';

/** An inode for each 8 KiB, as package trees are many small files. Nothing is kept for root. It has no journal. */
const FORMAT =
  '-q -F -t ext4 -b 4096 -i 8192 -m 0 -O ^has_journal,^resize_inode -E nodiscard,lazy_itable_init=1';
/** What the inodes take, of 256 bytes each, and the rest of the file system. */
const INODES_SHARE = 256 / 8192;
/** What the kernel keeps from everybody, for its own late allocations. */
const RESERVED_SHARE = 0.02;
const RESERVED_BYTES_MAX = 16_777_216;
const REST_SHARE = 1 / 8192;
const REST_BYTES = 1_048_576;
const BLOCK_BYTES = 4096;

/** Tries a mount. `directory` is for what new files are copies of. */
export async function openDisks(
  directory: string,
  fail: Fail,
): Promise<{ disks: Disks; reason: null } | { disks: null; reason: string }> {
  const templates = { directory, fail, asked: new Set<number>() };
  try {
    await mkdir(directory, { recursive: true, mode: 0o700 });
    await sweepParts(directory);
    await tryMount(templates);
    await run(['e2fsck', '-V'], { timeout_ms: MAKE_MS_MAX });
  } catch (error) {
    return { disks: null, reason: reasonOf(error as Error) };
  }
  const disks: Disks = {
    make: (file, bytes) => make(templates, file, bytes),
    stock: (bytes) => stock(templates, bytes),
  };
  return { disks, reason: null };
}

async function tryMount(templates: Templates): Promise<void> {
  const { directory } = templates;
  const at = join(directory, 'trial');
  const image = join(directory, `${PART}trial`);
  await mkdir(at, { recursive: true });
  await copy(await templateOf(templates, TRIAL_BYTES), image);
  const disk = { ...{ image, directory: at, id: 'trial' }, uid: 0, fresh: true };
  const prepare = mounting({ disk, overlay: null });
  const program = await start(['true'], ['ignore', 'ignore', 'pipe'], { prepare });
  await succeeded(program, collect(program, 2), MAKE_MS_MAX);
  await rm(image);
}

function reasonOf({ message }: Error): string {
  if (/mke2fs|e2fsck/.test(message)) return 'e2fsprogs is missing or does not work: install it';
  return `no loop device can be mounted here (${message.replaceAll(/\s+/g, ' ').slice(0, 200)})`;
}

/** A copy costs a third of a new file system, which in addition waits for the host's disk; one that lies ready nothing. */
async function make(templates: Templates, file: string, bytes: number): Promise<void> {
  const template = await templateOf(templates, bytes);
  const was_ready = await rename(template + SPARE, file).then(
    () => true,
    () => false,
  );
  if (!was_ready) {
    await copy(template, `${file}.part`);
    await templates.fail('sandbox.disk_copied');
    await rename(`${file}.part`, file);
  }
  await templates.fail('sandbox.disk_made');
}

async function stock(templates: Templates, bytes: number): Promise<void> {
  const { directory, fail, asked } = templates;
  if (!asked.has(bytes)) return void asked.add(bytes);
  const template = await templateOf(templates, bytes);
  if ((await stat(template + SPARE).catch(() => null)) !== null) return;
  const part = partOf(directory);
  try {
    await copy(template, part);
    await rename(part, template + SPARE);
    await fail('sandbox.spare_made');
  } finally {
    await rm(part, { force: true });
  }
}

async function copy(from: string, to: string): Promise<void> {
  await run(['cp', '--sparse=always', '--reflink=auto', '--', from, to], { timeout_ms: MAKE_MS_MAX });
}

async function templateOf({ directory, fail }: Templates, bytes: number): Promise<string> {
  const template = join(directory, `${bytes}.img`);
  if ((await stat(template).catch(() => null)) !== null) return template;
  const content = partOf(directory);
  const part = `${content}.img`;
  try {
    for (const name of [FRESH, 'work', ...WRITABLE]) {
      await mkdir(join(content, name), { recursive: true, mode: 0o700 });
    }
    await chmod(join(content, 'upper'), 0o755);
    await (await open(part, 'wx', 0o600)).close();
    await truncate(part, sizeFor(bytes));
    await run(['mke2fs', ...FORMAT.split(' '), '-d', content, part], { timeout_ms: MAKE_MS_MAX });
    await fail('sandbox.disk_formatted');
    await rename(part, template);
    await forgetOldest(directory, template);
  } finally {
    await rm(content, { recursive: true, force: true });
    await rm(part, { force: true });
  }
  return template;
}

/** Sizes are anybody's choice, and each template takes some megabytes. */
async function forgetOldest(directory: string, but: string): Promise<void> {
  const names = (await readdir(directory)).filter((name) => /^\d+\.img$/.test(name));
  const found = await Promise.all(
    names.map(async (name) => {
      const path = join(directory, name);
      return { path, made_ms: (await stat(path).catch(() => null))?.mtimeMs ?? 0 };
    }),
  );
  const others = found.filter(({ path }) => path !== but).sort((a, b) => b.made_ms - a.made_ms);
  for (const { path } of others.slice(TEMPLATES_MAX - 1))
    for (const each of [path, path + SPARE]) await rm(each, { force: true });
}

/** What was being made when the server was killed; and the copies, which a crash of the host may have left empty. */
async function sweepParts(directory: string): Promise<void> {
  const left = (name: string): boolean => name.startsWith(PART) || name.endsWith(SPARE);
  const parts = (await readdir(directory)).filter(left);
  for (const part of parts) await rm(join(directory, part), { recursive: true, force: true });
}

function partOf(directory: string): string {
  return join(directory, `${PART}${randomBytes(6).toString('hex')}`);
}

/** So that `df` says what was asked for. */
function sizeFor(bytes: number): number {
  const reserved = Math.min(bytes * RESERVED_SHARE, RESERVED_BYTES_MAX);
  const whole = (bytes * (1 + REST_SHARE) + reserved) / (1 - INODES_SHARE) + REST_BYTES;
  return Math.ceil(whole / BLOCK_BYTES) * BLOCK_BYTES;
}
