/**
 * A computer's files as one compressed stream, and back: `tar` through zstd.
 * Invariant: tar runs as the computer's own uid in a sandbox where nothing else exists, so a link that an agent planted
 * leads nowhere, and no archive can write outside.
 */

import type { ChildProcess } from 'node:child_process';
import type { Readable, Writable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { constants, createZstdCompress, createZstdDecompress } from 'node:zlib';
import { spawnSandbox } from './launch.ts';
import type { Identity } from './launch.ts';
import type { Place } from '../place.ts';
import { collect, succeeded, unlessReaderClosed } from '../run.ts';
import type { Bind, Fixtures } from './view.ts';

const COMPRESSION_LEVEL = 3;
const ARCHIVE_MS_MAX = 1_800_000;
const MEASURE_MS_MAX = 60_000;
/** tar remembers hard links; an archive of nothing else must not take the host's memory. */
const TOOL_DATA_BYTES = 1_073_741_824;
const TOOL_FILE_BYTES = 2 ** 50;
const SCRATCH_BYTES = 1_048_576;
/** What an entry costs beyond its content, so that empty files cannot fill the host's inodes. */
const ENTRY_BYTES = 1024;
/** Headers make an archive larger than the files. */
const ARCHIVE_SLACK = 2;
const ARCHIVE_SLACK_BYTES = 67_108_864;

export type Confined = { place: Place; identity: Identity; fixtures: Fixtures };

const WRITE = [
  'tar',
  '--create',
  '--sparse',
  '--numeric-owner',
  '--ignore-failed-read',
  '--file=-',
  'workspace',
  'home',
];
/** tar's exit code when files changed or went while it read: no failure where the computer may be awake. */
const CHANGED_CODE = 1;
const READ = [
  'tar',
  '--extract',
  '--preserve-permissions',
  '--no-same-owner',
  '--delay-directory-restore',
  '--file=-',
];
/** Files that vanish while they are counted are no failure. */
const MEASURE =
  'du -scxB1 workspace home 2>/dev/null | tail -n 1; du -scx --inodes workspace home 2>/dev/null | tail -n 1';

/** The archive, made as it is read; reading it rejects when tar fails. `awake`: its files may change under it. */
export async function* archive(confined: Confined, awake: boolean): AsyncGenerator<Uint8Array, void> {
  const child = tool(confined, WRITE, false);
  child.stdin?.end();
  const ended = succeeded(child, collect(child, 'stderr'), ARCHIVE_MS_MAX, awake ? [0, CHANGED_CODE] : [0]);
  ended.catch(() => {});
  const compress = createZstdCompress({ params: { [constants.ZSTD_c_compressionLevel]: COMPRESSION_LEVEL } });
  const copied = pipeline(child.stdout as Readable, compress);
  copied.catch(() => {});
  try {
    for await (const chunk of compress) yield chunk as Uint8Array;
    await Promise.all([copied, ended]);
  } finally {
    child.kill('SIGKILL');
  }
}

/** Unpacks into the computer's directories, which are empty. Rejects when there is more than `disk_bytes` can hold. */
export async function unarchive(
  confined: Confined,
  content: AsyncIterable<Uint8Array>,
  disk_bytes: number,
): Promise<void> {
  const child = tool(confined, READ, true);
  const ended = succeeded(child, collect(child, 'stderr'), ARCHIVE_MS_MAX);
  ended.catch(() => {});
  const bound = bounded(disk_bytes * ARCHIVE_SLACK + ARCHIVE_SLACK_BYTES);
  try {
    await pipeline(content, createZstdDecompress(), bound, child.stdin as Writable).catch(unlessReaderClosed);
    await ended;
  } finally {
    child.kill('SIGKILL');
  }
}

/** The bytes on disk of everything the computer has written, modes and planted links notwithstanding. */
export async function measure(confined: Confined): Promise<number> {
  const child = tool(confined, ['/bin/sh', '-c', MEASURE], false);
  const output = collect(child, 'stdout');
  child.stdin?.end();
  await succeeded(child, collect(child, 'stderr'), MEASURE_MS_MAX);
  const [bytes = 0, entries = 0] = output()
    .split('\n')
    .map((line) => Number.parseInt(line, 10));
  return bytes + entries * ENTRY_BYTES;
}

function tool({ place, identity, fixtures }: Confined, command: string[], writable: boolean): ChildProcess {
  const binds: Bind[] = [
    { from: place.workspace, to: '/computer/workspace', writable },
    { from: place.home, to: '/computer/home', writable },
  ];
  const child = spawnSandbox({
    identity,
    command,
    cgroup_files: [],
    limits: { file_bytes: TOOL_FILE_BYTES, data_bytes: TOOL_DATA_BYTES },
    view: {
      ...{ fixtures, binds, cwd: '/computer', environment: {} },
      ...{ scratch_bytes: SCRATCH_BYTES, override_modes: true },
    },
  });
  child.stdin?.on('error', () => {});
  return child;
}

function bounded(bytes_max: number): (source: AsyncIterable<Uint8Array>) => AsyncGenerator<Uint8Array, void> {
  return async function* count(source) {
    let bytes = 0;
    for await (const chunk of source) {
      bytes += chunk.length;
      if (bytes > bytes_max) throw new Error(`the archive holds more than ${bytes_max} bytes`);
      yield chunk;
    }
  };
}
