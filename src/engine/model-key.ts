/** The model key of a session, opened at the moment of use and kept nowhere. */
import { getSealedCredential } from '../store/credentials.ts';
import type { Runtime } from './runtime.ts';

/** @param credential_id `cred_…`, `managed`, or null. Undefined when there is no usable key. */
export async function modelKey(
  runtime: Runtime,
  org: string,
  credential_id: string | null,
): Promise<string | undefined> {
  if (credential_id === null) return undefined;
  if (credential_id === 'managed') return runtime.managed_key;
  const sealed = await getSealedCredential(runtime.database.db, org, credential_id);
  if (sealed === undefined) return undefined;
  try {
    return runtime.sealer.open(sealed, { org, table: 'credential', id: credential_id, column: 'sealed' });
  } catch (error) {
    runtime.logger.error({ err: error, credential: credential_id }, 'a stored credential does not open');
    return undefined;
  }
}
