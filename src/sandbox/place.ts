/**
 * A computer's place on the host: its directory, what is known about it, and its removal.
 * Invariant: an agent's processes can write `workspace/` and `home/` only, and `upper/` where they are root inside;
 * everything beside them is the server's. Where the place has a disk of its own they are on it, and the host sees them
 * only through the computer's processes.
 */

import { randomBytes } from 'node:crypto';
import { chmod, chown, mkdir, readFile, readdir, rename, rm, rmdir, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { BLOCK_UIDS } from './bwrap/block.ts';
import { isBlock } from './bwrap/launch.ts';
import type { Identity } from './bwrap/launch.ts';
import { run } from './run.ts';

/** Begins the name of a directory that is being removed. */
const GONE = '.gone-';
const CONTROL = 'control-';
const DISK_FILE = 'disk.img';
const ID = /^[a-z]+_[0-9a-z]{1,64}$/;
const REMOVE_MS_MAX = 600_000;

export type Place = {
  id: string;
  directory: string;
  /** A file that holds a file system, and where that is mounted; null = the files lie in the directory itself. */
  disk: { file: string; directory: string } | null;
  workspace: string;
  home: string;
  /** Where a root file system of its own differs from the image, what the kernel needs beside it, and where both meet. */
  upper: string;
  work: string;
  merged: string;
};

/** What the server knows of a computer's directory. `process` was pid 1, seen from the host, of its last awakening. */
export type PlaceRecord = {
  generation: number;
  process: { pid: number; started: string; boot: string } | null;
  /** What its root file system is based on; absent = none. */
  image?: string;
};

/** @throws RangeError when `id` could name anything but one folder. */
export function placeOf(installation_dir: string, id: string, has_disk = false): Place {
  if (!ID.test(id)) throw new RangeError(`not a computer's id: ${JSON.stringify(id)}`);
  const directory = join(installation_dir, id);
  const disk = has_disk ? { file: join(directory, DISK_FILE), directory: join(directory, 'disk') } : null;
  const writable = disk?.directory ?? directory;
  return {
    ...{ id, directory, disk },
    workspace: join(writable, 'workspace'),
    home: join(writable, 'home'),
    upper: join(writable, 'upper'),
    work: join(writable, 'work'),
    merged: join(directory, 'merged'),
  };
}

/** As it is on this host, which tells by the file whether it has a disk. */
export async function findPlace(installation_dir: string, id: string): Promise<Place> {
  const held = placeOf(installation_dir, id, true);
  return (await exists(held.disk?.file as string)) ? held : placeOf(installation_dir, id);
}

/** Makes what is missing, with owners and modes set again. The group alone lets the computer's uid pass. */
export async function makePlace(place: Place, identity: Identity): Promise<void> {
  await mkdir(place.directory, { recursive: true, mode: 0o700 });
  await own(place.directory, identity, 0o710);
  const ours = isBlock(identity) ? [place.merged] : [];
  if (place.disk === null) {
    for (const writable of [place.workspace, place.home]) await makeWritable(writable, identity, 0o700);
    if (isBlock(identity)) await makeWritable(place.upper, identity, 0o755);
    if (isBlock(identity)) ours.push(place.work);
  } else ours.push(place.disk.directory);
  for (const directory of ours) await mkdir(directory, { recursive: true, mode: 0o700 });
}

async function makeWritable(directory: string, identity: Identity, wanted: number): Promise<void> {
  await mkdir(directory, { recursive: true, mode: wanted });
  // An agent that took its own directory's mode away could never be woken, or saved, again.
  const { mode, uid } = await stat(directory);
  if ((mode & wanted) !== wanted) await chmod(directory, (mode & 0o777) | wanted);
  if (identity.kind !== 'root') return;
  const theirs = isBlock(identity) && uid >= identity.uid && uid < identity.uid + BLOCK_UIDS;
  if (!theirs) await chown(directory, identity.uid, identity.uid);
}

/**
 * Makes the directory of one awakening's execs, and removes those of earlier ones. Its set-group bit gives each new
 * file the computer's group. Each awakening has its own, so that a former server's clean-up does not meet it.
 */
export async function makeControl(place: Place, identity: Identity): Promise<string> {
  const earlier = (await readdir(place.directory)).filter((name) => name.startsWith(CONTROL));
  for (const name of earlier) await removeControl(join(place.directory, name));
  const control = join(place.directory, CONTROL + randomBytes(6).toString('hex'));
  await mkdir(control, { mode: 0o700 });
  await own(control, identity, 0o2710);
  return control;
}

/** Again when pipes were being made ahead in it. */
export async function removeControl(control: string): Promise<void> {
  await rm(control, { recursive: true, force: true, maxRetries: 10, retryDelay: 10 });
}

export async function readRecord(place: Place): Promise<PlaceRecord | null> {
  try {
    await stat(place.disk?.file ?? place.workspace);
    return JSON.parse(await readFile(recordPath(place), 'utf8')) as PlaceRecord;
  } catch {
    return null;
  }
}

export async function writeRecord(place: Place, record: PlaceRecord): Promise<void> {
  const part = `${recordPath(place)}.part`;
  await writeFile(part, JSON.stringify(record), { mode: 0o600 });
  await rename(part, recordPath(place));
}

/** Takes the directory out of sight in one step, then removes it. Idempotent. */
export async function removePlace(installation_dir: string, place: Place): Promise<void> {
  if (await isEmptied(place.directory)) return;
  const gone = join(installation_dir, `${GONE}${place.id}-${randomBytes(6).toString('hex')}`);
  try {
    await rename(place.directory, gone);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return;
    throw error;
  }
  await removeTree(gone);
}

/** Whether it was empty, as one that was just made, and is gone now. */
async function isEmptied(directory: string): Promise<boolean> {
  return await rmdir(directory).then(
    () => true,
    () => false,
  );
}

/** The ids of the computers that have a directory here. */
export async function listPlaces(installation_dir: string): Promise<string[]> {
  const names = await readdir(installation_dir).catch(() => []);
  return names.filter((name) => ID.test(name));
}

/** Finishes removals that a former process began. */
export async function sweepPlaces(installation_dir: string): Promise<void> {
  const names = await readdir(installation_dir).catch(() => []);
  for (const name of names.filter((name) => name.startsWith(GONE))) {
    await removeTree(join(installation_dir, name));
  }
}

/** `rm` and `chmod -R` go by descriptors and follow no link; `chmod` where a plain user meets what it cannot enter. */
async function removeTree(directory: string): Promise<void> {
  const limit = { timeout_ms: REMOVE_MS_MAX };
  const remove = (): Promise<string> => run(['rm', '-rf', '--one-file-system', '--', directory], limit);
  await remove().catch(async () => {
    await run(['chmod', '-R', 'u+rwX', '--', directory], limit).catch(() => '');
    await remove();
  });
}

async function own(directory: string, identity: Identity, mode: number): Promise<void> {
  if (identity.kind === 'root') await chown(directory, 0, identity.uid);
  await chmod(directory, identity.kind === 'root' ? mode : mode & 0o700);
}

function recordPath(place: Place): string {
  return join(place.directory, 'computer.json');
}

async function exists(path: string): Promise<boolean> {
  return await stat(path).then(
    () => true,
    () => false,
  );
}
