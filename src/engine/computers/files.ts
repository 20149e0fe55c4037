/**
 * Files of a running computer, read and written by programs inside it: a link that an agent planted leads nowhere but where the agent
 * could go itself. Invariant: the server opens no path of a computer.
 */
import { randomBytes } from 'node:crypto';
import type { Computer, Exit, OutputChunk } from '../../resource/computer/driver.ts';
import { OverwinterError } from '../../resource/error.ts';

export type FileEntry = {
  name: string;
  type: 'file' | 'directory' | 'symlink' | 'other';
  /** Bytes. */
  size: number;
  /** Octal, as in `644`. */
  mode: string;
  modified_at: Date;
};

/** For one file or one archive, however large. */
const TRANSFER_MS_MAX = 3_600_000;
const CHANGE_MS_MAX = 60_000;
/** What the owner's variables could change of these scripts. */
const PLAIN = { PATH: '/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin', BASH_ENV: '' };
const LIST_BYTES_MAX = 16 * 1024 * 1024;
const COMPLAINT_BYTES_MAX = 2000;
export const LIST_ENTRIES_MAX = 10_000;

/** Exit codes of the scripts below. */
const MISSING = 44;
const WRONG_KIND = 45;
/** Of tar: complete, though a file changed while it was read. */
const CHANGED = 1;
const EXISTS = `[ -e "$FILE" ] || exit ${MISSING}`;

/** Ends an upload that came whole; without it what was written is thrown away. */
const MARK = '--the-end-of-the-upload--';

/** Of an entry: kind, bytes, mode, time, name; then NUL. */
const FORMAT = '%y %s %m %T@ %f\\0';

/** What lies at the path; a link is followed. */
export async function statFile(computer: Computer, path: string): Promise<FileEntry> {
  const [entry] = parse(
    await text(computer, path, `${EXISTS}; find -L "$FILE" -maxdepth 0 -printf '${FORMAT}'`),
  );
  if (!entry) throw new OverwinterError('not_found', `there is nothing at ${path}`, 'path');
  return entry;
}

/** What is in a directory, by name. @throws OverwinterError `too_large` for more than 10,000 entries. */
export async function listFiles(computer: Computer, path: string): Promise<FileEntry[]> {
  const script = `${EXISTS}; [ -d "$FILE" ] || exit ${WRONG_KIND}; find "$FILE/" -mindepth 1 -maxdepth 1 -printf '${FORMAT}'`;
  const entries = parse(await text(computer, path, script));
  if (entries.length > LIST_ENTRIES_MAX)
    throw new OverwinterError('too_large', `the directory has over ${LIST_ENTRIES_MAX} entries`, 'path');
  return entries.toSorted((a, b) => (a.name < b.name ? -1 : 1));
}

/** The bytes of a file, as they are read. @throws OverwinterError `not_found`, `conflict` (no file) before the first byte. */
export async function readFile(
  computer: Computer,
  path: string,
  signal: AbortSignal,
): Promise<AsyncIterable<Uint8Array>> {
  return await stream(
    computer,
    path,
    `${EXISTS}; [ -f "$FILE" ] || exit ${WRONG_KIND}; exec cat -- "$FILE"`,
    signal,
  );
}

/** Replaces the file in one step once all of it is there; makes the directories that lead to it. */
export async function writeFile(
  computer: Computer,
  path: string,
  content: AsyncIterable<Uint8Array>,
  options: { mode?: string | undefined; signal: AbortSignal },
): Promise<void> {
  const script = `
[ -d "$FILE" ] && exit ${WRONG_KIND}
mkdir -p -- "$(dirname -- "$TARGET")" || exit 1
${receive('$(dirname -- "$TARGET")')}
chmod -- "${options.mode ?? '644'}" "$part" && mv -fT -- "$part" "$TARGET"`;
  await receiveInto(computer, path, script, content, options.signal);
}

/** With all that leads to it. */
export async function makeDirectory(computer: Computer, path: string): Promise<void> {
  await change(
    computer,
    path,
    `[ -e "$FILE" ] && [ ! -d "$FILE" ] && exit ${WRONG_KIND}; mkdir -p -- "$FILE"`,
    {},
  );
}

/** What a computer cannot be without; `rm` would empty them before it finds that out. */
const OF_THE_COMPUTER = '/|/home|/home/agent|/workspace|/tmp|/dev|/dev/shm|/proc|/run|/run/computer';

/** A file, a link, or a directory with all that is in it. @throws OverwinterError `conflict` for the computer's own directories. */
export async function deleteFile(computer: Computer, path: string): Promise<void> {
  const script = `
[ -e "$FILE" ] || [ -L "$FILE" ] || exit ${MISSING}
if [ ! -L "$FILE" ]; then
  case $(realpath -m -- "$FILE") in
    ${OF_THE_COMPUTER}) echo 'a directory of the computer itself cannot be deleted: delete what is in it' >&2; exit 1 ;;
  esac
fi
rm -rf --one-file-system -- "$FILE"`;
  await change(computer, path, script, {});
}

/** A directory, or a file, as a tar stream. */
export async function readArchive(
  computer: Computer,
  path: string,
  signal: AbortSignal,
): Promise<AsyncIterable<Uint8Array>> {
  const script = `${EXISTS}; if [ -d "$FILE" ]; then tar -C "$FILE" -cf - .; else tar -C "$(dirname -- "$FILE")" -cf - -- "$(basename -- "$FILE")"; fi; [ $? -le ${CHANGED} ]`;
  return await stream(computer, path, script, signal);
}

/** Unpacks a tar stream below a directory, which is made. The archive may be compressed with gzip, zstd or xz. */
export async function writeArchive(
  computer: Computer,
  path: string,
  content: AsyncIterable<Uint8Array>,
  signal: AbortSignal,
): Promise<void> {
  const script = `
mkdir -p -- "$FILE" || exit 1
${receive('$FILE')}
tar -C "$FILE" --no-same-owner -xaf "$part"`;
  await receiveInto(computer, path, script, content, signal);
}

/** Takes standard input into `$part` beside its goal, whole, or ends the script. */
function receive(directory: string): string {
  return `
part="${directory}/$PART"
trap 'rm -f -- "$part"' EXIT
cat >"$part" || exit 1
[ "$(tail -c ${MARK.length} -- "$part")" = '${MARK}' ] || exit 1
truncate -s -${MARK.length} -- "$part" || exit 1`;
}

/** A link at the end of the path is followed, as a program that opens the file would. */
async function receiveInto(
  computer: Computer,
  path: string,
  script: string,
  content: AsyncIterable<Uint8Array>,
  signal: AbortSignal,
): Promise<void> {
  const env = { FILE: path, PART: `.upload-${randomBytes(8).toString('hex')}` };
  const found = 'TARGET=$(realpath -m -- "$FILE") || exit 1';
  try {
    await change(computer, path, `${found}\n${script}`, { env, stdin: marked(content), signal });
  } catch (error) {
    // Where it was killed, it could not remove the part itself.
    const clean = `${found}\nrm -f -- "$FILE/$PART" "$(dirname -- "$TARGET")/$PART" 2>/dev/null || :`;
    await change(computer, path, clean, { env }).catch(() => undefined);
    throw error;
  }
}

async function change(
  computer: Computer,
  path: string,
  script: string,
  options: { env?: Record<string, string>; stdin?: AsyncIterable<Uint8Array>; signal?: AbortSignal },
): Promise<void> {
  const timeout_ms = options.stdin ? TRANSFER_MS_MAX : CHANGE_MS_MAX;
  const env = { ...PLAIN, FILE: path, ...options.env };
  const { output, exit } = computer.exec({ script, timeout_ms, ...options, env });
  let complaint = '';
  for await (const { stream, data } of output) {
    if (stream === 'stderr')
      complaint = (complaint + Buffer.from(data).toString()).slice(-COMPLAINT_BYTES_MAX);
  }
  expectDone(await exit, path, complaint);
}

async function text(computer: Computer, path: string, script: string): Promise<string> {
  const { output, exit } = computer.exec({
    script,
    env: { ...PLAIN, FILE: path },
    timeout_ms: CHANGE_MS_MAX,
  });
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  let complaint = '';
  for await (const { stream, data } of output) {
    if (stream === 'stderr')
      complaint = (complaint + Buffer.from(data).toString()).slice(-COMPLAINT_BYTES_MAX);
    else if ((bytes += data.length) <= LIST_BYTES_MAX) chunks.push(data);
  }
  expectDone(await exit, path, complaint);
  if (bytes > LIST_BYTES_MAX)
    throw new OverwinterError('too_large', 'the directory is too large to list', 'path');
  return Buffer.concat(chunks).toString();
}

/** What the script writes. A refusal comes before the first byte; what breaks off later throws while it is read. */
async function stream(
  computer: Computer,
  path: string,
  script: string,
  signal: AbortSignal,
): Promise<AsyncIterable<Uint8Array>> {
  const { output, exit } = computer.exec({
    script,
    env: { ...PLAIN, FILE: path },
    timeout_ms: TRANSFER_MS_MAX,
    signal,
  });
  const chunks = output[Symbol.asyncIterator]();
  const said = { complaint: '' };
  const first = await nextOfStdout(chunks, said);
  if (first === undefined) expectDone(await exit, path, said.complaint);
  return rest(first, chunks, said, async () => expectDone(await exit, path, said.complaint));
}

async function* rest(
  first: Uint8Array | undefined,
  chunks: AsyncIterator<OutputChunk>,
  said: { complaint: string },
  finish: () => Promise<void>,
): AsyncGenerator<Uint8Array> {
  try {
    for (let data = first; data !== undefined; data = await nextOfStdout(chunks, said)) yield data;
    await finish();
  } finally {
    await chunks.return?.();
  }
}

async function nextOfStdout(
  chunks: AsyncIterator<OutputChunk>,
  said: { complaint: string },
): Promise<Uint8Array | undefined> {
  for (;;) {
    const { done, value } = await chunks.next();
    if (done === true) return undefined;
    const { stream: from, data } = value;
    if (from === 'stdout') return data;
    said.complaint = (said.complaint + Buffer.from(data).toString()).slice(-COMPLAINT_BYTES_MAX);
  }
}

async function* marked(content: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  yield* content;
  yield Buffer.from(MARK);
}

/** @throws OverwinterError for what the script found. */
function expectDone({ outcome, exit_code }: Exit, path: string, complaint: string): void {
  if (outcome === 'exited' && exit_code === 0) return;
  if (exit_code === MISSING) throw new OverwinterError('not_found', `there is nothing at ${path}`, 'path');
  if (exit_code === WRONG_KIND)
    throw new OverwinterError(
      'conflict',
      `${path} is a directory where a file is meant, or the other way, or no plain file`,
      'path',
    );
  if (outcome === 'timeout') throw new OverwinterError('conflict', 'the transfer took too long');
  if (outcome === 'lost')
    throw new OverwinterError('conflict', "the computer's processes ended during the transfer");
  if (outcome === 'aborted') throw new OverwinterError('conflict', 'the transfer was broken off');
  throw new OverwinterError(
    'conflict',
    complaint.replaceAll(/^\/run\/\S+: line \d+: /gm, '').trim() ||
      `the computer refused (exit code ${exit_code})`,
    'path',
  );
}

const KINDS: Record<string, FileEntry['type']> = { f: 'file', d: 'directory', l: 'symlink' };

function parse(listing: string): FileEntry[] {
  return listing
    .split('\0')
    .filter((line) => line !== '')
    .map((line) => {
      const [, kind = '', size = '0', mode = '', time = '0', name = ''] =
        /^(\S+) (\d+) (\d+) (\S+) ([^]*)$/.exec(line) ?? [];
      const type = KINDS[kind] ?? 'other';
      return { name, type, size: Number(size), mode, modified_at: new Date(Number(time) * 1000) };
    });
}
