/** The variables of a release: sealed where they lie, open in its computer only. */
import { readReleaseEnv } from '../../store/deployment/releases.ts';
import type { Runtime } from '../runtime.ts';

function placeOf(org: string, id: string) {
  return { org, table: 'release_env', id, column: 'sealed' };
}

export function sealReleaseEnv(
  { sealer }: Runtime,
  org: string,
  id: string,
  env: Record<string, string>,
): string {
  return sealer.seal(JSON.stringify(env), placeOf(org, id));
}

/** @throws Error where this server has not the key for them. */
export async function openReleaseEnv(
  { database, sealer }: Runtime,
  id: string,
): Promise<Record<string, string>> {
  const row = await readReleaseEnv(database.db, id);
  if (!row) return {};
  return JSON.parse(sealer.open(row.sealed, placeOf(row.org, id))) as Record<string, string>;
}
