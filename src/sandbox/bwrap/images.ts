/**
 * Base images: root file systems that computers with a root user inside share as their lower layer.
 * Invariant: an image appears under its name whole or not at all, its owners shifted into the block, and is never
 * changed afterwards: computers stand on it.
 */

import { randomBytes } from 'node:crypto';
import { chmod, chown, lstat, mkdir, open, readdir, rename } from 'node:fs/promises';
import { join } from 'node:path';
import type { Writable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { collect, run, succeeded, unlessReaderClosed } from '../run.ts';
import { MOUNT_POINTS } from './root.ts';
import { bwrapVersion } from './probe.ts';
import { startTool } from './tool.ts';
import { writeFixtures } from './view.ts';

const FOLDER = '.images';
const NAME = /^[a-z0-9][a-z0-9._-]{0,63}$/;
const INSTALL_MS_MAX = 1_800_000;
const REMOVE_MS_MAX = 600_000;

export type ImageGround = { computers_dir: string; uid_base: number };

/** The names of what is installed for these uids. */
export async function listImages(computers_dir: string, uid_base: number): Promise<string[]> {
  const names = await readdir(join(computers_dir, FOLDER)).catch(() => []);
  const found: string[] = [];
  for (const name of names.filter((each) => NAME.test(each))) {
    const image = await lstat(join(computers_dir, FOLDER, name)).catch(() => null);
    if (image?.isDirectory() === true && image.uid === uid_base) found.push(name);
  }
  return found.sort();
}

/** @throws RangeError when `name` could name anything but an image. */
export function imageDirectory(computers_dir: string, name: string): string {
  if (!NAME.test(name)) throw new RangeError(`not a name of an image: ${JSON.stringify(name)}`);
  return join(computers_dir, FOLDER, name);
}

/**
 * Installs what a tar holds: an exported container's root file system. Returns false when the name is there already.
 * Rejects, with nothing left, for what is no root file system or has names that lead out of it.
 */
export async function installImage(
  { computers_dir, uid_base }: ImageGround,
  name: string,
  tar_path: string,
): Promise<boolean> {
  const target = imageDirectory(computers_dir, name);
  if ((await lstat(target).catch(() => null)) !== null) return false;
  const folder = join(computers_dir, FOLDER);
  const content = await open(tar_path);
  await makeFolders(computers_dir, folder, uid_base);
  await removeParts(folder, name);
  const part = join(folder, `.part-${name}-${randomBytes(6).toString('hex')}`);
  const fixtures = await writeFixtures(join(folder, '.view'), await bwrapVersion());
  await mkdir(part, { mode: 0o755 });
  await chown(part, uid_base, uid_base);
  try {
    const program = await startTool({
      identity: { kind: 'root', uid: uid_base, block: true },
      fixtures,
      disk: null,
      binds: [{ from: part, to: '/computer/image', writable: true }],
      command: ['/bin/sh', '-c', INSTALL],
    });
    program.pipes[1]?.resume();
    const ended = succeeded(program, lastLine(collect(program, 2)), INSTALL_MS_MAX);
    ended.catch(() => {});
    await pipeline(content.createReadStream(), program.pipes[0] as Writable).catch(unlessReaderClosed);
    await ended;
    await chown(part, uid_base, uid_base);
    await chmod(part, 0o755);
    await rename(part, target);
    return true;
  } finally {
    await content.close();
    await removeParts(folder, name);
  }
}

/** No user of the host may come to the image: its setuid programs would make him the computers' root. */
async function makeFolders(computers_dir: string, folder: string, uid_base: number): Promise<void> {
  await mkdir(folder, { recursive: true, mode: 0o711 });
  await chmod(computers_dir, 0o711);
  await chown(folder, 0, uid_base);
  await chmod(folder, 0o710);
}

/** Also what an installation left that was killed. */
async function removeParts(folder: string, name: string): Promise<void> {
  const parts = (await readdir(folder)).filter(
    (each) => /^\.part-(.*)-[0-9a-f]{12}$/.exec(each)?.[1] === name,
  );
  const paths = parts.map((part) => join(folder, part));
  await run(['rm', '-rf', '--one-file-system', '--', ...paths], { timeout_ms: REMOVE_MS_MAX });
}

/** What a computer's loop and execs call. */
const NEEDED = ['bin/sh', 'bin/bash', 'usr/bin/env', 'usr/bin/setsid', 'bin/grep', 'usr/bin/perl'];

/**
 * Runs confined, as the root of the block: so owners are shifted by the kernel, and device nodes cannot be made. tar
 * refuses names with `..` and takes the leading slash off others. The host's names, which debootstrap copies, go.
 */
const INSTALL = String.raw`
cd /computer/image || exit 1
tar --extract --preserve-permissions --same-owner --numeric-owner --xattrs --xattrs-include='security.capability' \
  --delay-directory-restore --file=- 2>/tmp/said; [ $? -le 2 ] || exit 1
grep -vE 'Cannot mknod: Operation not permitted$|^tar: Exiting with failure|^tar: Removing leading|implausibly old|in the future' /tmp/said >&2 && exit 1
for each in ${NEEDED.join(' ')}; do
  [ -e "./$each" ] || [ -L "./$each" ] || { echo "no root file system of a container: it lacks /$each" >&2; exit 1; }
done
rm -rf ./dev ./proc ./sys ./run ./tmp
for each in sys etc ${MOUNT_POINTS.join(' ')}; do
  [ -d "./$each" ] && [ ! -L "./$each" ] || { rm -rf "./$each"; mkdir -m 755 "./$each" || exit 1; }
done
chmod 1777 ./tmp
[ -e ./home/ohm ] || ln -s agent ./home/ohm
rm -f ./etc/hostname ./etc/hosts ./etc/resolv.conf
echo computer >./etc/hostname
printf '127.0.0.1 localhost computer\n::1 localhost\n' >./etc/hosts
: >./etc/resolv.conf
[ -d ./usr/sbin ] && [ ! -e ./usr/sbin/policy-rc.d ] && printf '#!/bin/sh\nexit 101\n' >./usr/sbin/policy-rc.d && chmod 755 ./usr/sbin/policy-rc.d
exit 0
`;

/** Of what may be thousands. */
function lastLine(complaint: () => string): () => string {
  return () => complaint().trim().split('\n').at(-1)?.slice(-400) ?? '';
}
