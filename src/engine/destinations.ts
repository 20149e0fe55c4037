/** What people ask of destinations: to have one, to change it, to try it, to send again what was. */
import { OverwinterError } from '../resource/error.ts';
import { DESTINATIONS_MAX, type DestinationLevel, type DestinationScope } from '../resource/destination.ts';
import { isId } from '../resource/id.ts';
import {
  getDestination,
  insertDestination,
  readSecrets,
  updateDestination,
  type DestinationChange,
  type DestinationRow,
  type NewDestination,
  type NewSecret,
  type SecretChange,
} from '../store/webhook/destinations.ts';
import { replayEvents } from '../store/webhook/deliveries.ts';
import { openSecrets, UNOPENED } from './deliver.ts';
import { testRequest } from './envelope.ts';
import type { Runtime } from './runtime.ts';

export type DestinationSpec = {
  url: string;
  level: DestinationLevel;
  types: string[] | null;
  include_raw: boolean;
  enabled: boolean;
  secret?: string | null | undefined;
  /** The field of the request that holds the URL. */
  param: string;
};

/**
 * Destinations as they are stored: secrets sealed, URLs known to be ones that may be sent to.
 * @throws OverwinterError `invalid`
 */
export async function prepareDestinations(
  runtime: Runtime,
  org: string,
  specs: DestinationSpec[],
): Promise<NewDestination[]> {
  return await Promise.all(
    specs.map(async ({ secret, url, param, ...spec }) => ({
      ...spec,
      ...(await checkUrl(runtime, org, url, param)),
      id: runtime.newId('destination'),
      secret: secret ? sealSecret(runtime, org, secret) : null,
    })),
  );
}

/** @throws OverwinterError `invalid`; `conflict` where there are as many as there may be. */
export async function createDestination(
  runtime: Runtime,
  org: string,
  scope: DestinationScope,
  spec: Omit<DestinationSpec, 'param'>,
): Promise<DestinationRow> {
  const { db } = runtime.database;
  const [prepared] = await prepareDestinations(runtime, org, [{ ...spec, param: 'url' }]);
  if (!(await insertDestination(db, org, scope, prepared!)))
    throw new OverwinterError('conflict', `there are ${DESTINATIONS_MAX} destinations already`);
  await runtime.fail('webhook.destination_made');
  return await findDestination(runtime, org, scope, prepared!.id);
}

type DestinationPatch = Omit<DestinationChange, 'origin' | 'secret'> & {
  secret?: string | null | undefined;
};

/** So often a change of its secrets is begun anew, as another came first. */
const ROTATIONS_MAX = 10;

/** @throws OverwinterError `invalid`, `not_found`, `contended` */
export async function changeDestination(
  runtime: Runtime,
  org: string,
  scope: DestinationScope,
  id: string,
  { secret, url, ...change }: DestinationPatch,
): Promise<DestinationRow> {
  const { db } = runtime.database;
  await findDestination(runtime, org, scope, id);
  const target = url === undefined ? {} : await checkUrl(runtime, org, url, 'url');
  for (let attempt = 0; attempt < ROTATIONS_MAX; attempt += 1) {
    const rotation = await rotationOf(runtime, await findDestination(runtime, org, scope, id), secret);
    const changed = await updateDestination(db, org, scope, id, { ...change, ...target, secret: rotation });
    if (changed) return await findDestination(runtime, org, scope, id);
  }
  throw new OverwinterError('contended', 'its secret was changed at the same time; try again');
}

/** Undefined where `secret` is what signs already: who repeats a change must not lose the secret before it. */
async function rotationOf(
  runtime: Runtime,
  { org, id, secrets: seen, has_secret }: DestinationRow,
  secret: string | null | undefined,
): Promise<SecretChange | undefined> {
  if (secret === undefined) return undefined;
  if (secret === null) return { secret: null, seen };
  const [newest] = has_secret ? await readSecrets(runtime.database.db, org, id) : [];
  const [current] = (newest && openSecrets(runtime, { org, secrets: [newest] })) ?? [];
  return current === secret ? undefined : { secret: sealSecret(runtime, org, secret), seen };
}

/** @throws OverwinterError `not_found` */
export async function findDestination(
  runtime: Runtime,
  org: string,
  scope: DestinationScope,
  id: string,
): Promise<DestinationRow> {
  const row = isId('destination', id) ? await getDestination(runtime.database.db, org, scope, id) : undefined;
  if (!row) throw new OverwinterError('not_found', 'no such destination');
  return row;
}

export type TestResult = {
  ok: boolean;
  response_code: number | null;
  response_body: string | null;
  error: string | null;
};

/** Sends a `webhook.test` at once, signed as events are, and tells what came of it. It is no delivery and is not tried again. */
export async function testDestination(runtime: Runtime, destination: DestinationRow): Promise<TestResult> {
  const { org, id, url } = destination;
  const secrets = openSecrets(runtime, { org, secrets: await readSecrets(runtime.database.db, org, id) });
  if (!secrets) return { ok: false, response_code: null, response_body: null, error: UNOPENED };
  const request = testRequest(destination, runtime.newId, secrets, runtime.now());
  const outcome = await runtime.poster.post({ tenant: org, url, ...request });
  if (outcome.kind !== 'responded')
    return { ok: false, response_code: null, response_body: null, error: outcome.reason };
  const ok = outcome.status >= 200 && outcome.status < 300;
  const error = ok ? null : `the receiver answered ${outcome.status}`;
  return { ok, response_code: outcome.status, response_body: outcome.body, error };
}

/** Events that one replay looks at. */
const REPLAY_EVENTS_MAX = 10_000;

/**
 * Owes a session's events from `from_seq` on to a destination again, as far as it wants them.
 * @returns how many deliveries are due by it, and where the next replay goes on when this one did not reach `head`.
 * @throws OverwinterError `conflict` while the destination is paused.
 */
export async function replayToDestination(
  runtime: Runtime,
  destination: DestinationRow,
  session: { id: string; head: number },
  from_seq: number,
): Promise<{ queued: number; next_seq: number | null }> {
  if (!destination.enabled)
    throw new OverwinterError('conflict', 'the destination is paused; enable it first');
  const queued = await replayEvents(
    runtime.database,
    destination.org,
    session.id,
    destination.id,
    from_seq,
    REPLAY_EVENTS_MAX,
  );
  await runtime.fail('webhook.replayed');
  const next_seq = from_seq + REPLAY_EVENTS_MAX;
  return { queued, next_seq: next_seq <= session.head ? next_seq : null };
}

async function checkUrl(
  runtime: Runtime,
  org: string,
  url: string,
  param: string,
): Promise<Pick<NewDestination, 'url' | 'origin'>> {
  const refusal = await runtime.poster.refusal(url, org);
  if (refusal?.kind === 'refused')
    throw new OverwinterError('invalid', `the URL cannot be a destination: ${refusal.reason}`, param);
  if (refusal)
    throw new OverwinterError(
      'unavailable',
      `the name of the URL cannot be resolved now: ${refusal.reason}`,
      param,
    );
  const { href, origin } = new URL(url);
  return { url: href, origin };
}

function sealSecret(runtime: Runtime, org: string, secret: string): NewSecret {
  const id = runtime.newId('destination_secret');
  return {
    id,
    sealed: runtime.sealer.seal(secret, { org, table: 'destination_secret', id, column: 'sealed' }),
  };
}
