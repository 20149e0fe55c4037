/**
 * File systems that only one sandbox sees: a computer's disk, and a root file system of two layers.
 * Invariant: they are mounted in a namespace of the sandbox's own, so they are gone with its last process, whoever dies
 * first; and no link that an agent left is followed on the way.
 */

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
 * Mounts, then becomes the rest. `mount` makes the loop device itself, as one that goes with its last user: made by
 * `losetup`, it would be left by a crash in between. It takes the device that the file has already, if any: two would
 * each keep blocks of their own, and ruin the file. As a device that goes in between may come back as another's, the
 * name within is read. `noinit_itable`: a new file's zeroes need not be written, and would fill 3 % of it. `nobarrier`:
 * what an agent syncs goes to the host's memory, as no agent shall make the others wait for the host's disk.
 * Every fork here is a millisecond or more of each wake. `OLDPWD` would show the host's path in the environment of pid 1.
 */
const MOUNT_DISK = `
mount -n -t ext4 -o loop,nosuid,nodev,noinit_itable,nobarrier,errors=remount-ro "$1" "$2" || exit 125
cd "$2" || exit 125
if [ "$5" = ${FRESH} ]; then chown "$4:$4" ${WRITABLE.join(' ')} && mv ${FRESH} "$3" || exit 125; fi
[ -d "$3" ] || { echo "another's disk" >&2; exit 125; }
cd / && unset OLDPWD && shift 5 && exec "$@"`;

/** What is above hides what is below, also by saying that it is deleted. */
const MOUNT_OVERLAY = `
cd "$1" || exit 125
options=$2 merged=$3 upper=$4; shift 4
while [ "$1" != -- ]; do
  at="$upper/$1"; shift
  if [ -L "$at" ] || { [ -e "$at" ] && [ ! -d "$at" ]; }; then rm -f -- "$at" || exit 125; fi
done; shift
while [ "$1" != -- ]; do
  at="$upper/$1"; shift
  if [ -L "$at" ] || { [ -e "$at" ] && [ ! -f "$at" ]; }; then rm -rf -- "$at" || exit 125; fi
done; shift
mount -n -t overlay overlay -o "$options" "$merged" || exit 125
cd / && unset OLDPWD && exec "$@"`;

/** The beginning of a command line that mounts. Slave, so that nothing shows on the host, and what the host unmounts goes. */
export function mountingFirst({ disk, overlay }: Mounts): string[] {
  if (disk === null && overlay === null) return [];
  return [
    ...['unshare', '--mount', '--propagation', 'slave', '--'],
    ...(disk === null ? [] : mountingDisk(disk)),
    ...(overlay === null ? [] : mountingOverlay(overlay)),
  ];
}

function mountingDisk({ image, directory, id, uid, fresh }: Disk): string[] {
  return ['/bin/sh', '-c', MOUNT_DISK, 'sh', image, directory, id, String(uid), fresh ? FRESH : ''];
}

function mountingOverlay({ directory, options, merged, upper, directories, files }: Overlay): string[] {
  const ways = [...directories, '--', ...files, '--'];
  return ['/bin/sh', '-c', MOUNT_OVERLAY, 'sh', directory, options, merged, upper, ...ways];
}
