/**
 * A Debian root file system as a tar, made of the packages that this machine itself has: nothing is fetched.
 * Invariant: it holds files of packages only, none that this machine's operator wrote.
 */

import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { installImage } from '../../../src/sandbox/bwrap/images.ts';
import type { Ground } from '../grounds.ts';

/** Whether this machine has what the tar is made of. */
export const has_packages = spawnSync('sh', ['-c', 'dpkg-query -W apt dpkg perl-base']).status === 0;

const SCRIPT = String.raw`set -e
names=$({ dpkg-query -W -f '\${Essential} \${Package}\n' | sed -n 's/^yes //p'; echo apt perl-base passwd adduser perl libpam-runtime mount procps bubblewrap; })
all=$(apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances $names 2>/dev/null | grep -E '^[a-z0-9]' | sort -u)
installed=$(dpkg-query -W -f '\${db:Status-Abbrev}\${binary:Package}\n' $all 2>/dev/null | sed -n 's/^ii //p' | sort -u)
stage=$(mktemp -d); trap 'rm -rf "$stage" "$stage.list"' EXIT
chmod 755 "$stage"
mkdir -p "$stage/var/lib/dpkg/info" "$stage/var/lib/dpkg/updates" "$stage/var/lib/dpkg/triggers" "$stage/etc" "$stage/root"
for each in $installed; do
  dpkg-query -s "$each"; echo
  for file in /var/lib/dpkg/info/"$each".*; do cp "$file" "$stage/var/lib/dpkg/info/"; done
done >"$stage/var/lib/dpkg/status"
cp /usr/share/base-passwd/passwd.master "$stage/etc/passwd"
cp /usr/share/base-passwd/group.master "$stage/etc/group"
mkdir -p "$stage/usr/bin"; ln -s mawk "$stage/usr/bin/awk"
for link in bin sbin lib lib64; do [ -L /$link ] && ln -s usr/$link "$stage/$link"; done
dpkg-query -L $installed | grep -E '^/.' | grep -vE '^/usr/share/(doc|man|locale|info)/|^/(bin|sbin|lib|lib64|root)$|^/etc/(passwd|group)$' |
  sed -E 's,^/(bin|sbin|lib|lib64)/,usr/\1/,; s,^/,,' | sort -u | while read -r path; do [ -e "/$path" ] && echo "$path"; done >"$stage.list"
tar --create --file="$1" --numeric-owner --owner=0 --group=0 --no-recursion -C / -T "$stage.list" --recursion -C "$stage" .
`.replaceAll('\\$', '$');

export async function installBaseImage({ directory, options }: Ground, name: string): Promise<void> {
  const tar = join(directory, 'base.tar');
  writeBaseImage(tar);
  await installImage(options, name, tar);
}

/** Writes the tar to `path`. */
function writeBaseImage(path: string): void {
  const { status, stderr } = spawnSync('sh', ['-c', SCRIPT, 'sh', path], { encoding: 'utf8' });
  if (status !== 0) throw new Error(stderr);
}
