/** Runs a program where no packet can leave. Invariant: the namespace has a loopback interface and nothing else, not even a resolver. */
import { execFile } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';

/** A user's path may lack the places of `ip`. */
const PATH = `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin`;

const FILES = {
  'resolv.conf': 'nameserver 127.0.0.1\nsearch .\noptions timeout:1 attempts:1\n',
  'nsswitch.conf': 'hosts: files dns\n',
  hosts: '127.0.0.1 localhost\n::1 localhost ip6-localhost\n',
};

/**
 * Makes every address local ("AnyIP") and puts a resolver of our own in the place of the host's, whose sockets would lead outside.
 * Arguments: a directory with the files above, then the program.
 */
const PREPARE = `
  set -eu
  ip link set lo up
  ip route add local 0.0.0.0/0 dev lo
  ip -6 route add local ::/0 dev lo
  for name in resolv.conf nsswitch.conf hosts; do
    if [ -e "/etc/$name" ]; then mount --bind "$1/$name" "$(readlink -f "/etc/$name")"; fi
  done
  if [ -d /run/nscd ]; then mount -t tmpfs none /run/nscd; fi
  shift
  exec "$@"`;

/** What `program` (a file of TypeScript) prints. Throws a sentence that says what to install where something is missing. */
export async function runInNamespace(
  program: string,
  args: string[],
  env: Record<string, string>,
): Promise<string> {
  for (const tool of ['unshare', 'ip', 'mount']) requireTool(tool);
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'overwinter-namespace-'));
  for (const [name, text] of Object.entries(FILES)) fs.writeFileSync(path.join(directory, name), text);
  const as_user = process.getuid?.() === 0 ? [] : ['--user', '--map-root-user'];
  const command = ['sh', '-c', PREPARE, 'sh', directory, process.execPath, program, ...args];
  try {
    const options = { env: { ...process.env, ...env, PATH }, maxBuffer: 64 * 1024 * 1024, timeout: 60_000 };
    return (await promisify(execFile)('unshare', [...as_user, '--net', '--mount', ...command], options))
      .stdout;
  } catch (error) {
    const { stderr } = error as { stderr?: string };
    throw new Error(`A network namespace with IPv4 and IPv6 is needed: ${stderr || String(error)}`, {
      cause: error,
    });
  } finally {
    fs.rmSync(directory, { recursive: true });
  }
}

function requireTool(name: string): void {
  if (PATH.split(':').some((place) => fs.existsSync(path.join(place, name)))) return;
  throw new Error(
    `This test needs \`${name}\`: run \`npm run setup\`, or install Debian's iproute2 and util-linux.`,
  );
}
