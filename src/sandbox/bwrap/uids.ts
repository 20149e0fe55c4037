/**
 * Host uids for computers when the server is root: one slot per computer, uid = base + 65536 + slot.
 * Invariant: a slot is a file made exclusively, so no two computers of a host, of whatever installation, share a uid.
 */

import { randomBytes } from 'node:crypto';
import { link, mkdir, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

/** The first 65536 uids above the base are kept for computers with a root user inside. */
const SHARED_BLOCK = 65_536;
const SLOTS_MAX = 65_536;

export type UidSlots = {
  /** The uid of `owner`; the same for as long as the slot is not released. Rejects when all slots are taken. */
  claim(owner: string): Promise<number>;
  /** Frees the owner's slot. Only for an owner whose files are gone: its uid is reused. Idempotent. */
  release(owner: string): Promise<void>;
  /** Every owner that holds a slot on this host. */
  owners(): Promise<string[]>;
};

/** Slots are files in `directory`, which every installation of the host shares. @throws nothing by itself. */
export function uidSlots(directory: string, uid_base: number): UidSlots {
  const known = new Map<string, number>();
  const uidOf = (slot: number): number => uid_base + SHARED_BLOCK + slot;
  return {
    async claim(owner) {
      await mkdir(directory, { recursive: true, mode: 0o700 });
      const slot = known.get(owner) ?? (await find(directory, owner)) ?? (await take(directory, owner));
      known.set(owner, slot);
      return uidOf(slot);
    },
    async release(owner) {
      const slot = known.get(owner) ?? (await find(directory, owner));
      known.delete(owner);
      if (slot !== null) await rm(join(directory, String(slot)), { force: true });
    },
    owners: async () => [...(await holders(directory)).values()],
  };
}

async function find(directory: string, owner: string): Promise<number | null> {
  for (const [slot, holder] of await holders(directory)) if (holder === owner) return slot;
  return null;
}

async function take(directory: string, owner: string): Promise<number> {
  const claim = join(directory, `.claim-${randomBytes(8).toString('hex')}`);
  await writeFile(claim, owner, { flag: 'wx', mode: 0o600 });
  try {
    return await linkFirstFree(directory, claim);
  } finally {
    await rm(claim, { force: true });
  }
}

/** A hard link fails when the name exists, and unlike `O_EXCL` alone it brings the content with it. */
async function linkFirstFree(directory: string, claim: string): Promise<number> {
  const taken = new Set((await readdir(directory)).map(Number));
  for (let slot = 0; slot < SLOTS_MAX; slot += 1) {
    if (!taken.has(slot) && (await linked(claim, join(directory, String(slot))))) return slot;
  }
  throw new Error(`all ${SLOTS_MAX} host uids for computers are taken`);
}

async function linked(from: string, to: string): Promise<boolean> {
  try {
    await link(from, to);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
    throw error;
  }
}

async function holders(directory: string): Promise<Map<number, string>> {
  const names = await readdir(directory).catch(() => []);
  const found = new Map<number, string>();
  for (const name of names.filter((name) => /^\d+$/.test(name))) {
    const holder = await readFile(join(directory, name), 'utf8').catch(() => null);
    if (holder !== null) found.set(Number(name), holder);
  }
  return found;
}
