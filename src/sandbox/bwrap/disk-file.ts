/**
 * Disks that the kernel holds to their size: sparse files with a file system, one for each computer.
 * Invariant: a file appears under its name whole. It has no journal: what was written is safe from every crash but the
 * host's, after which it is repaired before it is mounted.
 */

import { randomBytes } from 'node:crypto';
import { chmod, mkdir, open, readFile, readdir, rename, rm, stat, statfs, truncate } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { ComputerLost } from '../../resource/computer/driver.ts';
import { run, tryRun } from '../run.ts';
import { FRESH, WRITABLE } from './mounts.ts';
import type { Disk } from './mounts.ts';

export type Disks = {
  /** Makes the file, with room for `bytes`. */
  make(file: string, bytes: number): Promise<void>;
};

type Fail = (failpoint: string) => void | Promise<void>;

const TRIAL_BYTES = 67_108_864;
const MAKE_MS_MAX = 60_000;
const REPAIR_MS_MAX = 600_000;
const DETACH_MS_MAX = 5000;
const TRIM_MS_MAX = 60_000;
const TRIM_BYTES = 268_435_456;
const SECTOR_BYTES = 512;
const POLL_MS = 2;
const TEMPLATES_MAX = 16;
/** Begins the names of what a template is made of. */
const PART = '.content-';

/** An inode for each 8 KiB, as package trees are many small files. Nothing is kept for root. */
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
const SUPERBLOCK_BYTES = 1024;
const MAGIC_BYTES = 56;
const STATE_BYTES = 58;
const MAGIC = 0xef53;
const CLEAN = 1;
/** The exit codes of e2fsck, which are added up: faults are left; it could not do its work. */
const FAULTS_LEFT = 4;
const NOT_DONE = 8;

const TRY = 'mount -n -t ext4 -o loop,ro "$1" "$2"';
const TRIM = '[ -d "$1/$2" ] && exec fstrim "$1"';
const APART = ['unshare', '--mount', '--propagation', 'slave', '--'];

/** Tries a mount. `directory` is for what new files are copies of. */
export async function openDisks(
  directory: string,
  fail: Fail,
): Promise<{ disks: Disks; reason: null } | { disks: null; reason: string }> {
  try {
    await mkdir(directory, { recursive: true, mode: 0o700 });
    await sweepParts(directory);
    const template = await templateOf(directory, TRIAL_BYTES, fail);
    const trial = join(directory, 'trial');
    await mkdir(trial, { recursive: true });
    await run([...APART, '/bin/sh', '-c', TRY, 'sh', template, trial], { timeout_ms: MAKE_MS_MAX });
    await run(['e2fsck', '-V'], { timeout_ms: MAKE_MS_MAX });
  } catch (error) {
    return { disks: null, reason: reasonOf(error as Error) };
  }
  return { disks: { make: (file, bytes) => make({ directory, file, bytes, fail }) }, reason: null };
}

function reasonOf({ message }: Error): string {
  if (/mke2fs|e2fsck/.test(message)) return 'e2fsprogs is missing or does not work: install it';
  return `no loop device can be mounted here (${message.replaceAll(/\s+/g, ' ').slice(0, 200)})`;
}

/** A copy costs a third of a new file system, which in addition waits for the host's disk. */
async function make(parts: { directory: string; file: string; bytes: number; fail: Fail }): Promise<void> {
  const { directory, file, bytes, fail } = parts;
  const template = await templateOf(directory, bytes, fail);
  const part = `${file}.part`;
  await run(['cp', '--sparse=always', '--reflink=auto', '--', template, part], { timeout_ms: MAKE_MS_MAX });
  await fail('sandbox.disk_copied');
  await rename(part, file);
  await fail('sandbox.disk_made');
}

async function templateOf(directory: string, bytes: number, fail: Fail): Promise<string> {
  const template = join(directory, `${bytes}.img`);
  if ((await stat(template).catch(() => null)) !== null) return template;
  const content = join(directory, `${PART}${randomBytes(6).toString('hex')}`);
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
  for (const { path } of others.slice(TEMPLATES_MAX - 1)) await rm(path, { force: true });
}

/** What a template was being made of when the server was killed. */
async function sweepParts(directory: string): Promise<void> {
  const parts = (await readdir(directory)).filter((name) => name.startsWith(PART));
  for (const part of parts) await rm(join(directory, part), { recursive: true, force: true });
}

/** So that `df` says what was asked for. */
function sizeFor(bytes: number): number {
  const reserved = Math.min(bytes * RESERVED_SHARE, RESERVED_BYTES_MAX);
  const whole = (bytes * (1 + REST_SHARE) + reserved) / (1 - INODES_SHARE) + REST_BYTES;
  return Math.ceil(whole / BLOCK_BYTES) * BLOCK_BYTES;
}

/**
 * Repairs what the host's crash left. The superblock says so: without a journal the kernel takes its mark away for as
 * long as the file is mounted. Returns null when the disk is whole, and what is wrong with it when no repair helps.
 * @throws ComputerLost when the repair could not be made; the next may be.
 */
export async function repairDisk(file: string, fail: Fail): Promise<string | null> {
  // A device that goes writes to the last moment.
  if ((await isClean(file)) || (await isAttached(file)) || (await isClean(file))) return null;
  // Nobody is there to be asked.
  const { code, said } = await tryRun(['e2fsck', '-y', file], { timeout_ms: REPAIR_MS_MAX });
  await fail('sandbox.disk_repaired');
  if (code !== null && code < FAULTS_LEFT) return null;
  // Where the host keeps it is nobody's business who reads this.
  const why = said.replaceAll(file, 'the disk').replaceAll(/\s+/g, ' ').slice(0, 200);
  const sentence = `the computer's disk cannot be repaired: e2fsck ended with ${code}: ${why}`;
  if (code !== null && (await isHopeless(code, file))) return sentence;
  throw new ComputerLost(sentence);
}

/** Faults that are left after a whole repair; or no file system, on which e2fsck cannot begin. */
async function isHopeless(code: number, file: string): Promise<boolean> {
  if (code < NOT_DONE) return true;
  return code === NOT_DONE && (await readSuperblock(file, MAGIC_BYTES)) !== MAGIC;
}

/** The mark of the file system that nothing is wrong with it, and nothing else. */
async function isClean(file: string): Promise<boolean> {
  return (await readSuperblock(file, STATE_BYTES)) === CLEAN;
}

/** A number of 16 bits; 0 where the file ends before it. */
async function readSuperblock(file: string, at: number): Promise<number> {
  const handle = await open(file);
  try {
    const { buffer } = await handle.read(Buffer.alloc(2), 0, 2, SUPERBLOCK_BYTES + at);
    return buffer.readUInt16LE();
  } finally {
    await handle.close();
  }
}

/** The kernel lets go of a file some milliseconds after its last user has ended, or when who reads it is done. */
export async function untilDetached(file: string): Promise<void> {
  for (let waited_ms = 0; waited_ms < DETACH_MS_MAX && (await isAttached(file)); waited_ms += POLL_MS) {
    await delay(POLL_MS);
  }
}

/** Only by the end of its path, which is what a namespace that is gone leaves of it. */
async function isAttached(file: string): Promise<boolean> {
  const end = `/${basename(dirname(file))}/${basename(file)}`;
  for (const name of (await readdir('/sys/block')).filter((each) => each.startsWith('loop'))) {
    const backing = await readFile(`/sys/block/${name}/loop/backing_file`, 'utf8').catch(() => '');
    if (backing.trim().endsWith(end)) return true;
  }
  return false;
}

/** What is in use on the disk that this process has mounted; null when the process is gone. */
export async function diskUsed(pid: number, { directory }: Disk): Promise<number | null> {
  const found = await statfs(`/proc/${pid}/root${directory}`).catch(() => null);
  return found === null ? null : (found.blocks - found.bfree) * found.bsize;
}

/**
 * Gives the host back what was freed, once that is much. At each deletion it would cost ten times the deletion. It
 * enters the namespace, as `fstrim` resolves a path below `/proc` to the host's.
 */
export async function trimDisk(pid: number, disk: Disk): Promise<void> {
  const used_bytes = await diskUsed(pid, disk);
  const { blocks } = await stat(disk.image);
  if (used_bytes === null || blocks * SECTOR_BYTES - used_bytes < TRIM_BYTES) return;
  const inside = ['nsenter', `--mount=/proc/${pid}/ns/mnt`, '--', '/bin/sh', '-c', TRIM, 'sh'];
  await run([...inside, disk.directory, disk.id], { timeout_ms: TRIM_MS_MAX });
}
