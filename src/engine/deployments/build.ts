/** From a release to a computer in which it is built: made once however often it is tried, filled anew with each try. */
import type { Computer } from '../../resource/computer/driver.ts';
import { readFileSync } from 'node:fs';
import type { ComputerState } from '../../resource/computer/life.ts';
import { changeRelease, type ReleaseRow } from '../../store/deployment/releases.ts';
import { findMade } from '../../store/idempotency.ts';
import { KEPT_PLAINLY } from '../../store/computer/keeping.ts';
import type { Computers } from '../computers/computers.ts';
import { HOME, runCommand } from '../computers/exec.ts';
import { createComputer } from '../computers/owner.ts';
import type { Runtime } from '../runtime.ts';
import { FOLDER } from './app.ts';
import { openReleaseEnv } from './env.ts';
import { PLAIN } from './inside.ts';
import { ReleaseFailed } from './sentence.ts';
import { bundleOf } from './upload.ts';
import type { Speaker } from './voice.ts';

const BUILD_MS_MAX = 900_000;
const UNPACK_MS_MAX = 300_000;
const BUILD = readFileSync(new URL('build.sh', import.meta.url), 'utf8');
/** Without the times of the archive: tools that pack what they find refuse years before 1980. */
const UNPACK = `rm -rf -- "${FOLDER}" "${HOME}/.start" && mkdir -p -- "${FOLDER}" && tar -C "${FOLDER}" --no-same-owner -xmzf -`;

/**
 * @returns the id of its computer, which runs.
 * @throws ReleaseFailed; what aborted the signal; OverwinterError.
 */
export async function buildRelease(
  runtime: Runtime,
  computers: Computers,
  release: ReleaseRow,
  name: string,
  speaker: Speaker,
  signal: AbortSignal,
): Promise<string> {
  const computer = await computerOf(runtime, computers, release, slug(name));
  if (release.computer_id !== computer.id) {
    await changeRelease(runtime.database.db, release.id, { computer_id: computer.id });
    await runtime.fail('release.computer_recorded');
  }
  if (computer.status === 'error')
    throw new ReleaseFailed(`its computer did not start: ${computer.last_error}`);
  if (computer.status !== 'running') await computers.start(computer.id);
  signal.throwIfAborted();
  await unpack(runtime, await computers.use(computer.id), release, signal);
  const { build_command = '', start_command = '' } = release.settings;
  const command = await runCommand(runtime, computers, release.org, computer, {
    ...{ script: BUILD, cwd: FOLDER, source: 'deployment', timeout_ms: BUILD_MS_MAX, signal },
    ...{ env: { BUILD_COMMAND: build_command, START_COMMAND: start_command } },
    output_bytes_max: Number.MAX_SAFE_INTEGER,
  });
  for await (const { stream, data } of command.output) speaker.write('build', stream, data);
  const { exit_code, error_type } = await command.end;
  signal.throwIfAborted();
  if (error_type === 'timeout')
    throw new ReleaseFailed(`the build took more than ${BUILD_MS_MAX / 60_000} minutes`);
  if (exit_code !== 0)
    throw new ReleaseFailed(`the build failed (exit code ${exit_code}): ${speaker.tail()}`);
  return computer.id;
}

async function computerOf(
  runtime: Runtime,
  computers: Computers,
  release: ReleaseRow,
  named_after: string,
): Promise<ComputerState> {
  const { id, org, deployment_id, computer_id, settings } = release;
  if (computer_id !== null) return await computers.settled(computer_id);
  const { vcpus, ram_mb, disk_size_mb, network_policy } = settings;
  // The key makes the computer of an earlier try, of which a crash kept the record, the computer of this one.
  return await createComputer(
    runtime,
    computers,
    org,
    { vcpus, ram_mb, disk_size_mb, network_policy, template_id: TEMPLATE, idempotency_key: id },
    {
      env: await openReleaseEnv(runtime, id),
      keeping: { ...KEPT_PLAINLY, metadata: { deployment: deployment_id } },
      named_after,
    },
  );
}

const TEMPLATE = 'coding-agent';

/** The computer of a release, also one that a crash kept from being written down. */
export async function computerIdOf(
  { database }: Pick<Runtime, 'database'>,
  { id, org, computer_id }: ReleaseRow,
): Promise<string | undefined> {
  return computer_id ?? (await findMade(database.db, org, 'computers', id));
}

async function unpack(
  runtime: Runtime,
  computer: Computer,
  { id }: ReleaseRow,
  signal: AbortSignal,
): Promise<void> {
  const bundle = await runtime.blobs.get(bundleOf(id));
  if (!bundle) throw new ReleaseFailed('its files are missing from the blob store');
  const { output, exit } = computer.exec({
    script: UNPACK,
    env: PLAIN,
    stdin: bundle,
    timeout_ms: UNPACK_MS_MAX,
    signal,
  });
  let complaint = '';
  for await (const { data } of output) complaint = (complaint + Buffer.from(data).toString()).slice(-500);
  const { exit_code } = await exit;
  signal.throwIfAborted();
  if (exit_code !== 0) throw new ReleaseFailed(`its files could not be unpacked: ${complaint.trim()}`);
}

/** A name as computers have them. */
function slug(name: string): string {
  const plain = name.toLowerCase().replaceAll(/[^a-z0-9]+/g, '-');
  return `app-${plain}`.replaceAll(/-+/g, '-').slice(0, 50).replace(/-$/, '');
}
