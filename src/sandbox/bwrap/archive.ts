/**
 * A computer's files as one compressed stream, and back: `tar` through zstd.
 * Invariant: what was archived can be unpacked again: what no path can name is left out, with a warning.
 */

import type { Readable, Writable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { constants, createZstdCompress, createZstdDecompress } from 'node:zlib';
import { Unsupported } from '../../resource/computer/driver.ts';
import type { Program } from '../launcher.ts';
import { isBlock } from './launch.ts';
import type { Identity } from './launch.ts';
import type { Disk } from './mounts.ts';
import type { Place } from '../place.ts';
import { collect, succeeded, unlessReaderClosed } from '../run.ts';
import { startTool } from './tool.ts';
import type { Fixtures } from './view.ts';

const COMPRESSION_LEVEL = 3;
const ARCHIVE_MS_MAX = 1_800_000;
const MEASURE_MS_MAX = 60_000;
/** What an entry costs beyond its content, so that empty files cannot fill the host's inodes. */
const ENTRY_BYTES = 1024;
/** Headers make an archive larger than the files. */
const ARCHIVE_SLACK = 2;
const ARCHIVE_SLACK_BYTES = 67_108_864;

export type Confined = { place: Place; identity: Identity; fixtures: Fixtures; disk: Disk | null };

/** tar unpacks by whole paths, which the kernel takes up to 4,095 bytes; it reads deeper ones. */
const PATH_BYTES_MAX = 4000;
const TOO_DEEP = `${'?'.repeat(PATH_BYTES_MAX)}*`;
const TOO_DEEP_SAID = 'too deep to be unpacked';
const COMPLAINT_CHARS_MAX = 400;
const FULL = /No space left on device/;
const MIB = 1_048_576;

/** Attributes of an overlay's upper layer say what is deleted. */
const OF_BLOCK = ['--xattrs', "--xattrs-include='*'"];
const WRITE = ['tar', '--create', '--sparse', '--numeric-owner', '--ignore-failed-read', '--file=-'];
/** Says whether anything is too deep, while tar works on the same directories. */
const SAYING = `find "$@" -path "$0" -printf '${TOO_DEEP_SAID}' -quit </dev/null >&2 2>/dev/null`;
/** tar's exit code when files changed or went while it read: no failure where the computer may be awake. */
const CHANGED_CODE = 1;
const READ = ['tar', '--extract', '--preserve-permissions', '--delay-directory-restore', '--file=-'];
/** Files that vanish while they are counted are no failure. */
const MEASURE = 'du -scxB1 "$@" 2>/dev/null | tail -n 1; du -scx --inodes "$@" 2>/dev/null | tail -n 1';

/** `awake`: its files may change under it. `leftOut` is told once if anything is too deep. */
export type Archiving = { awake: boolean; leftOut: () => void };

/** The archive, made as it is read; reading it rejects when tar fails. */
export async function* archive(
  confined: Confined,
  { awake, leftOut }: Archiving,
): AsyncGenerator<Uint8Array, void> {
  const names = directories(confined).map(({ name }) => name);
  const tar = [...WRITE, ...attributes(confined), '--anchored', '--exclude="$0"', '"$@"'].join(' ');
  const script = `${SAYING} & ${tar}; code=$?; wait; exit $code`;
  const program = await tool(confined, ['/bin/sh', '-c', script, TOO_DEEP, ...names], false);
  program.pipes[0]?.end();
  const said = collect(program, 2);
  const ended = succeeded(program, shortened(said), ARCHIVE_MS_MAX, awake ? [0, CHANGED_CODE] : [0]);
  ended.catch(() => {});
  const compress = createZstdCompress({ params: { [constants.ZSTD_c_compressionLevel]: COMPRESSION_LEVEL } });
  const copied = pipeline(program.pipes[1] as Readable, compress);
  copied.catch(() => {});
  try {
    for await (const chunk of compress) yield chunk as Uint8Array;
    await Promise.all([copied, ended]);
    if (said().includes(TOO_DEEP_SAID)) leftOut();
  } finally {
    program.kill();
  }
}

/**
 * Unpacks into the computer's directories, which are empty.
 * @throws Unsupported when there is more than `disk_bytes` can hold.
 */
export async function unarchive(
  confined: Confined,
  content: AsyncIterable<Uint8Array>,
  disk_bytes: number,
): Promise<void> {
  const owner = isBlock(confined.identity) ? ['--same-owner', '--numeric-owner'] : ['--no-same-owner'];
  // An archive of an earlier version may hold what is too deep.
  const tar = [...READ, ...owner, ...attributes(confined), '--anchored', '--exclude="$0"'].join(' ');
  const program = await tool(confined, ['/bin/sh', '-c', `exec ${tar}`, TOO_DEEP], true);
  const said = collect(program, 2);
  const ended = succeeded(program, shortened(said), ARCHIVE_MS_MAX).catch((error: Error) => {
    throw FULL.test(said()) ? doesNotFit(disk_bytes) : error;
  });
  ended.catch(() => {});
  const bound = bounded(disk_bytes * ARCHIVE_SLACK + ARCHIVE_SLACK_BYTES, doesNotFit(disk_bytes));
  try {
    await pipeline(content, createZstdDecompress(), bound, program.pipes[0] as Writable).catch(
      unlessReaderClosed,
    );
    await ended;
  } finally {
    program.kill();
  }
}

/** The bytes on disk of everything the computer has written, modes and planted links notwithstanding. */
export async function measure(confined: Confined): Promise<number> {
  const names = directories(confined).map(({ name }) => name);
  const program = await tool(confined, ['/bin/sh', '-c', MEASURE, 'sh', ...names], false);
  const output = collect(program, 1);
  program.pipes[0]?.end();
  await succeeded(program, shortened(collect(program, 2)), MEASURE_MS_MAX);
  const [bytes = 0, entries = 0] = output()
    .split('\n')
    .map((line) => Number.parseInt(line, 10));
  return bytes + entries * ENTRY_BYTES;
}

function tool(confined: Confined, command: string[], writable: boolean): Promise<Program> {
  const { identity, fixtures, disk } = confined;
  const binds = directories(confined).map(({ name, from }) => ({ from, to: `/computer/${name}`, writable }));
  return startTool({ identity, fixtures, disk, binds, command });
}

/** What the computer can write. */
function directories({ place, identity }: Confined): { name: string; from: string }[] {
  const always = [
    { name: 'workspace', from: place.workspace },
    { name: 'home', from: place.home },
  ];
  return isBlock(identity) ? [...always, { name: 'upper', from: place.upper }] : always;
}

function attributes({ identity }: Confined): string[] {
  return isBlock(identity) ? OF_BLOCK : [];
}

function doesNotFit(disk_bytes: number): Unsupported {
  const mib = Math.floor(disk_bytes / MIB);
  return new Unsupported(`the files to restore need more than the computer's disk of ${mib} MiB`);
}

/** A name that tar complains of may itself have 4,000 bytes. */
function shortened(complaint: () => string): () => string {
  return () => {
    const text = complaint().trim();
    if (text.length <= COMPLAINT_CHARS_MAX) return text;
    const half = COMPLAINT_CHARS_MAX / 2;
    return `${text.slice(0, half)} … ${text.slice(-half)}`;
  };
}

function bounded(
  bytes_max: number,
  error: Error,
): (source: AsyncIterable<Uint8Array>) => AsyncGenerator<Uint8Array, void> {
  return async function* count(source) {
    let bytes = 0;
    for await (const chunk of source) {
      bytes += chunk.length;
      if (bytes > bytes_max) throw error;
      yield chunk;
    }
  };
}
