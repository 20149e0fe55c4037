/**
 * The disk of one computer, once it is made: its repair, its use, its end. It has no journal: what was written is safe from every crash
 * but the host's, after which it is repaired before it is mounted.
 */

import { readdirSync } from 'node:fs';
import { open, stat, statfs } from 'node:fs/promises';
import { basename, dirname } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { ComputerLost, type Fail } from '../../resource/computer/driver.ts';
import { readAtOnce } from '../leftover.ts';
import { run, tryRun } from '../run.ts';
import type { Disk } from './mounts.ts';

const REPAIR_MS_MAX = 600_000;
const DETACH_MS_MAX = 5000;
const TRIM_MS_MAX = 60_000;
const TRIM_BYTES = 268_435_456;
const SECTOR_BYTES = 512;
const POLL_MS = 2;
const SUPERBLOCK_BYTES = 1024;
const MAGIC_BYTES = 56;
const STATE_BYTES = 58;
const MAGIC = 0xef53;
const CLEAN = 1;
/** The exit codes of e2fsck, which are added up: faults are left; it could not do its work. */
const FAULTS_LEFT = 4;
const NOT_DONE = 8;

const TRIM = '[ -d "$1/$2" ] && exec fstrim "$1"';

/**
 * Repairs what the host's crash left. The superblock says so: without a journal the kernel takes its mark away for as
 * long as the file is mounted. Returns null when the disk is whole, and what is wrong with it when no repair helps.
 * @throws ComputerLost when the repair could not be made; the next may be.
 */
export async function repairDisk(file: string, fail: Fail): Promise<string | null> {
  // A device that goes writes to the last moment.
  if ((await isClean(file)) || deviceOf(file) !== null || (await isClean(file))) return null;
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
  const device = deviceOf(file);
  if (device === null) return;
  for (let waited_ms = 0; waited_ms < DETACH_MS_MAX && holds(device, file); waited_ms += POLL_MS) {
    await delay(POLL_MS);
  }
}

function deviceOf(file: string): string | null {
  const devices = readdirSync('/sys/block').filter((name) => name.startsWith('loop'));
  return devices.find((device) => holds(device, file)) ?? null;
}

/** Only by the end of its path, which is what a namespace that is gone leaves of it. */
function holds(device: string, file: string): boolean {
  const end = `/${basename(dirname(file))}/${basename(file)}`;
  return readAtOnce(`/sys/block/${device}/loop/backing_file`).trim().endsWith(end);
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
