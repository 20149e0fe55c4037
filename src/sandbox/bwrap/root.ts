/**
 * The root file system of a computer with a root user inside: an image below, its own changes above.
 * Invariant: the places where bubblewrap mounts are directories when it comes to them. A link that an agent left there
 * would be followed while the host's files are still in reach; the mount removes it first.
 */

import { lstat } from 'node:fs/promises';
import { basename, join, relative } from 'node:path';
import type { Place } from '../place.ts';
import type { Overlay } from './mounts.ts';

/** What root keeps inside: no mount, no device, no setting of the kernel, no network but its own ports. */
export const ROOT_CAPABILITIES = [
  'CHOWN',
  'DAC_OVERRIDE',
  'FOWNER',
  'FSETID',
  'KILL',
  'NET_BIND_SERVICE',
  'SETFCAP',
  'SETGID',
  'SETUID',
];

/** Every directory on the way, before what is in it. */
export const MOUNT_POINTS: string[] = [
  'dev',
  'home',
  'home/agent',
  'proc',
  'run',
  'run/computer',
  'tmp',
  'workspace',
];

const APT_DIRECTORIES = ['etc', 'etc/apt', 'etc/apt/apt.conf.d'];
const APT_PROXY = 'etc/apt/apt.conf.d/95computer';

export type Root = {
  image: string;
  overlay: Overlay;
  /** Where apt reads the way out, inside; null where the image has no apt. */
  apt_proxy: string | null;
};

/** `lower` is the image's directory. No process of the computer may live. */
export async function prepareRoot(place: Place, lower: string): Promise<Root> {
  const has_apt = await hasApt(lower);
  const points = has_apt ? [...MOUNT_POINTS, ...APT_DIRECTORIES] : MOUNT_POINTS;
  for (const path of points) await expectDirectory(lower, path);
  const directory = join(place.directory, '..');
  const upper = relative(directory, place.upper);
  const names = {
    lowerdir: `../.images/${basename(lower)}`,
    upperdir: upper,
    workdir: relative(directory, place.work),
  };
  const options = ['userxattr', ...Object.entries(names).map(([key, name]) => `${key}=${name}`)].join(',');
  return {
    image: basename(lower),
    overlay: {
      ...{ directory, options, merged: relative(directory, place.merged), upper },
      ...{ directories: points, files: has_apt ? [APT_PROXY] : [] },
    },
    apt_proxy: has_apt ? `/${APT_PROXY}` : null,
  };
}

async function hasApt(lower: string): Promise<boolean> {
  for (const path of APT_DIRECTORIES) if ((await kindOf(join(lower, path))) !== 'directory') return false;
  return (await kindOf(join(lower, APT_PROXY))) === 'none';
}

async function expectDirectory(lower: string, path: string): Promise<void> {
  if ((await kindOf(join(lower, path))) !== 'directory')
    throw new Error(`the image ${basename(lower)} has no directory /${path}: install it again`);
}

async function kindOf(path: string): Promise<'directory' | 'file' | 'other' | 'none'> {
  const found = await lstat(path).catch(() => null);
  if (found === null) return 'none';
  if (found.isDirectory()) return 'directory';
  return found.isFile() ? 'file' : 'other';
}
