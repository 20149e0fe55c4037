/**
 * File systems that only one sandbox sees: a computer's disk, and a root file system of two layers.
 * Invariant: they are mounted in a namespace of the sandbox's own, so they are gone with its last process, whoever dies
 * first; and no link that an agent left is followed on the way.
 */

import type { Step } from '../prepare.ts';

/** A file system in a file, which is as large as the computer may write. */
export type Disk = {
  /** The file. */
  image: string;
  /** Where it is mounted. */
  directory: string;
  /** The computer's id: a directory of this name says that the disk is its own. */
  id: string;
  /** Who owns what the computer may write. */
  uid: number;
  /** It was never mounted. */
  fresh: boolean;
};

/** A root file system of two layers; the names are relative to `directory`, as the kernel bounds the options' length. */
export type Overlay = {
  directory: string;
  options: string;
  merged: string;
  upper: string;
  /** Where bubblewrap mounts directories, parents first, and files: in the upper layer they are those, or nothing. */
  directories: string[];
  files: string[];
};

export type Mounts = { disk: Disk | null; overlay: Overlay | null };

/** What a disk that nobody owns yet has in the place of its computer's id. */
export const FRESH = 'fresh';
/** What the computer writes, in a disk. */
export const WRITABLE = ['workspace', 'home', 'upper'];

/**
 * `noinit_itable`: a new file's zeroes need not be written, and would fill 3 % of it. `nobarrier`: what an agent syncs goes to the host's
 * memory, as no agent shall make the others wait for the host's disk.
 */
const DISK_OPTIONS = 'noinit_itable,nobarrier,errors=remount-ro';

/** In a namespace of the program's own: nothing shows on the host, and what the host unmounts goes. */
export function mounting({ disk, overlay }: Mounts): Step[] {
  if (disk === null && overlay === null) return [];
  return [
    ['apart'],
    ...(disk === null ? [] : [mountDisk(disk)]),
    ...(overlay === null ? [] : [mountOverlay(overlay)]),
  ];
}

/** As a device that goes at the same moment may come back as another's, the name within is read. */
function mountDisk({ image, directory, id, uid, fresh }: Disk): Step {
  const newly = fresh ? [FRESH, ...WRITABLE] : [''];
  return ['disk', image, directory, DISK_OPTIONS, id, String(uid), ...newly];
}

function mountOverlay({ directory, options, merged, upper, directories, files }: Overlay): Step {
  return ['overlay', directory, options, merged, upper, String(directories.length), ...directories, ...files];
}
