/**
 * Receiving a release: its upload is kept, turned into the one form of bundles, and recorded with what its owner said of it. Invariant:
 * what is recorded is whole; what is not recorded is removed, after a crash by whoever comes next on this machine.
 */
import { canonicalBundle } from '../../bundle/bundle.ts';
import { FIELD } from '../../bundle/entry.ts';
import { OverwinterError } from '../../resource/error.ts';
import type { ReleaseSettings } from '../../resource/deployment.ts';
import { countDeployments, findDeployment, type DeploymentRow } from '../../store/deployment/deployments.ts';
import { ensureDefaultProject, findProject } from '../../store/deployment/projects.ts';
import {
  beginRelease,
  dropRelease,
  isReceiving,
  listAbandoned,
  listReleases,
  recordRelease,
  type ReleaseRow,
} from '../../store/deployment/releases.ts';
import type { Runtime } from '../runtime.ts';
import { openReleaseEnv, sealReleaseEnv } from './env.ts';

/** What is said of a release besides its files. */
export type Manifest = {
  name: string;
  description?: string | undefined;
  project_id?: string | undefined;
  /** Undefined = those of the release before. */
  env?: Record<string, string> | undefined;
  settings?: ReleaseSettings | undefined;
};

const DEPLOYMENTS_MAX = 200;

/**
 * Files that are being received.
 * @param bytes the archive, as it comes. @param bytes_max of it.
 */
export async function receiveUpload(
  runtime: Runtime,
  org: string,
  bytes: AsyncIterable<Uint8Array>,
  bytes_max: number,
): Promise<{ id: string; size: number }> {
  const id = runtime.newId('release');
  await beginRelease(runtime.database.db, { id, org, machine: runtime.machine });
  await runtime.fail('release.intended');
  try {
    const size = await runtime.blobs.put(uploadOf(id), within(bytes, bytes_max));
    await runtime.fail('release.received');
    return { id, size };
  } catch (error) {
    await discardUpload(runtime, id);
    throw error;
  }
}

/**
 * Makes the upload the newest release of the deployment of this name, which is made where there is none.
 * @returns with a sentence for each entry of the archive that was left out.
 * @throws OverwinterError `invalid` (names the field), `too_large`, `not_found` (project), `conflict`; nothing is left of it then.
 */
export async function recordUpload(
  runtime: Runtime,
  org: string,
  { id, size }: { id: string; size: number },
  manifest: Manifest,
): Promise<{ deployment: DeploymentRow; left_out: string[] }> {
  const { blobs } = runtime;
  let left_out: string[] = [];
  try {
    const open = async (start: number) => (await blobs.get(uploadOf(id), start))!;
    await blobs.put(
      bundleOf(id),
      canonicalBundle(open, size, (sentences) => (left_out = sentences)),
    );
    await runtime.fail('release.bundled');
    await blobs.delete(uploadOf(id));
    return { deployment: await record(runtime, org, id, manifest), left_out };
  } catch (error) {
    await discardUpload(runtime, id);
    throw error;
  }
}

/** The files of the newest release once more, with other settings or variables. @throws OverwinterError `conflict` */
export async function recordAgain(
  runtime: Runtime,
  deployment: DeploymentRow,
  change: Pick<Manifest, 'env' | 'settings'>,
): Promise<DeploymentRow> {
  const { org, name, project_id } = deployment;
  const [newest] = await listReleases(runtime.database.db, deployment.id);
  const bundle = newest && (await runtime.blobs.get(bundleOf(newest.id)));
  if (!bundle) throw new OverwinterError('conflict', 'there are no files to deploy again: upload them');
  const id = runtime.newId('release');
  await beginRelease(runtime.database.db, { id, org, machine: runtime.machine });
  await runtime.fail('release.intended');
  try {
    await runtime.blobs.put(bundleOf(id), bundle);
    await runtime.fail('release.bundled');
    return await record(runtime, org, id, { name, project_id, ...change });
  } catch (error) {
    await discardUpload(runtime, id);
    throw error;
  }
}

async function record(runtime: Runtime, org: string, id: string, manifest: Manifest): Promise<DeploymentRow> {
  const { db } = runtime.database;
  const { name, description } = manifest;
  const project = await projectOf(runtime, org, manifest.project_id);
  const known = await findDeployment(db, org, name);
  if (!known && (await countDeployments(db, org)) >= DEPLOYMENTS_MAX)
    throw new OverwinterError('conflict', `an org has at most ${DEPLOYMENTS_MAX} deployments`);
  const before = known && (await listReleases(db, known.id))[0];
  const env = manifest.env ?? (before ? await openReleaseEnv(runtime, before.id) : {});
  const row = await recordRelease(db, {
    release: {
      id,
      settings: manifest.settings ?? before?.settings ?? {},
      env_names: Object.keys(env),
      sealed_env: sealReleaseEnv(runtime, org, id, env),
    },
    deployment: {
      ...{ id: runtime.newId('deployment'), org, name, description, machine: runtime.machine },
      ...{ project_id: manifest.project_id, default_project_id: project },
    },
  });
  if (!row) throw new OverwinterError('conflict', `the deployment "${name}" is being deleted`, 'name');
  await runtime.fail('release.recorded');
  return row;
}

async function projectOf(runtime: Runtime, org: string, id: string | undefined): Promise<string> {
  const { db } = runtime.database;
  await ensureDefaultProject(db, org, runtime.newId('project'));
  const project = await findProject(db, org, id);
  if (!project) throw new OverwinterError('not_found', 'no such project', 'project_id');
  return project.id;
}

/** What uploads of an earlier life have left. */
export async function discardAbandoned(runtime: Runtime, alive_since: Date): Promise<void> {
  for (const id of await listAbandoned(runtime.database.db, runtime.machine, alive_since))
    await discardUpload(runtime, id);
}

/** Of no effect on one that is recorded, be it that nobody was told so. */
export async function discardUpload(runtime: Runtime, id: string): Promise<void> {
  if (!(await isReceiving(runtime.database.db, id))) return;
  await runtime.blobs.delete(uploadOf(id));
  await runtime.blobs.delete(bundleOf(id));
  await runtime.fail('release.upload_removed');
  await dropRelease(runtime.database.db, id);
}

export function bundleOf(id: ReleaseRow['id']): string {
  return `releases/${id}.tar.gz`;
}

function uploadOf(id: string): string {
  return `releases/${id}.upload`;
}

async function* within(bytes: AsyncIterable<Uint8Array>, bytes_max: number): AsyncGenerator<Uint8Array> {
  let left = bytes_max;
  for await (const chunk of bytes) {
    left -= chunk.length;
    if (left < 0) throw new OverwinterError('too_large', `the bundle exceeds ${bytes_max} bytes`, FIELD);
    yield chunk;
  }
}
