/**
 * `npm run image -- debian [bookworm]` and `npm run image -- import NAME FILE.tar`: installs a base image, in which the agents of
 * computers made from it are root. Run again, it finds the image there and changes nothing.
 */
import { spawn } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { readConfig } from '../src/config.ts';
import { installImage } from '../src/sandbox/bwrap/images.ts';

const USAGE = 'npm run image -- debian [bookworm]  |  npm run image -- import NAME FILE.tar';
const DEFAULT_SUITE = 'bookworm';

try {
  process.stdout.write(`${await install(process.argv.slice(2))}\n`);
} catch (error) {
  process.stderr.write(`${(error as Error).message}\n`);
  process.exitCode = 1;
}

async function install([verb, first, second]: string[]): Promise<string> {
  if (process.getuid?.() !== 0) throw new Error('Base images need root: run this, and the server, as root.');
  if (verb === 'debian') return await debian(first ?? DEFAULT_SUITE);
  if (verb === 'import' && first !== undefined && second !== undefined) {
    return await put(first, second);
  }
  throw new Error(`Usage: ${USAGE}`);
}

async function debian(suite: string): Promise<string> {
  if (!/^[a-z]{1,32}$/.test(suite)) throw new Error(`${suite} is no name of a Debian release.`);
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'overwinter-image-'));
  try {
    const system = path.join(directory, 'system');
    // Perl and `script` are what connections to ports and terminals use; both come with the smallest variant.
    await run('debootstrap', ['--variant=minbase', '--include=ca-certificates', suite, system]);
    const tar = path.join(directory, 'system.tar');
    await run('tar', ['-C', system, '--one-file-system', '--numeric-owner', '--xattrs', '-cf', tar, '.']);
    return await put(`debian-${suite}`, tar);
  } finally {
    fs.rmSync(directory, { recursive: true, force: true });
  }
}

async function put(name: string, tar: string): Promise<string> {
  const { OVERWINTER_COMPUTERS_DIR, OVERWINTER_UID_BASE: uid_base } = readConfig(process.env);
  const computers_dir = OVERWINTER_COMPUTERS_DIR ?? '/var/lib/overwinter/computers';
  const made = await installImage({ computers_dir, uid_base }, name, tar);
  return made
    ? `The image ${name} is installed.`
    : `The image ${name} is there already; nothing was changed.`;
}

function run(program: string, options: string[]): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const child = spawn(program, options, { stdio: ['ignore', 2, 2] });
  child.once('error', (error: NodeJS.ErrnoException) => {
    const missing = error.code === 'ENOENT';
    reject(missing ? new Error(`${program} is missing: run \`apt-get install ${program}\`.`) : error);
  });
  child.once('close', (code) => {
    if (code === 0) resolve();
    else reject(new Error(`${program} ended with ${code}`));
  });
  return promise;
}
