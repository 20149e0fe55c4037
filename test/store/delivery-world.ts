/** A database with an org, an agent and a living node, for tests of what is owed of the log and of who sends it. */
import { afterEach, beforeEach } from 'vitest';
import { claimDeliveries, type ClaimBounds, type ClaimedDelivery } from '../../src/store/webhook/claim.ts';
import { listDeliveries, type Settled } from '../../src/store/webhook/deliveries.ts';
import type { NewDestination } from '../../src/store/webhook/destinations.ts';
import type { Database } from '../../src/store/ground/database.ts';
import { heartbeat } from '../../src/store/leases.ts';
import type { Log } from '../../src/store/log.ts';
import { testGround, type GROUNDS, type TestGround } from '../helpers/grounds.ts';
import { AGENT_ID, newLog, newSession, ORG } from '../helpers/sessions.ts';

export const NODE = 'nod_000000000000000000000001';
export const MANY = 1000;
export const BOUNDS: ClaimBounds = {
  ...{ limit: MANY, slots_default: MANY, per_org_max: MANY * MANY, attempts_max: 10 },
};

/** Called in a `describe`: each test gets a world of its own. */
export function useDeliveries(kind: (typeof GROUNDS)[number]) {
  const world = {} as { ground: TestGround; database: Database; log: Log };
  let count = 0;

  beforeEach(async () => {
    world.ground = await testGround(kind);
    world.database = await world.ground.open();
    const { db } = world.database;
    await db.insertInto('org').values({ id: ORG, name: 'test' }).execute();
    await db
      .insertInto('agent')
      .values({
        ...{ id: AGENT_ID, org: ORG, name: 'a', runtime: 'claude', prompt: 'p', prompt_hash: 'h' },
        ...{ model: 'm', revision: 1, credential_id: null, limits: null },
      })
      .execute();
    await heartbeat(db, NODE, 60_000);
    world.log = newLog(world.database);
  });

  afterEach(async () => {
    await world.database.close();
    await world.ground.drop();
  });

  const destination = (fields: Partial<NewDestination> = {}): NewDestination => ({
    id: `dst_${String((count += 1)).padStart(24, '0')}`,
    ...{ url: 'https://hook.test/x', origin: 'https://hook.test', level: 'user', types: null },
    ...{ include_raw: false, enabled: true, secret: null },
    ...fields,
  });
  const owed = (stream: string | null, of?: NewDestination) =>
    listDeliveries(world.database.db, ORG, stream, { limit: MANY, destination: of?.id });
  return {
    world,
    destination,
    owed,
    session: (destinations: NewDestination[] = []): Promise<string> =>
      newSession(world.database, world.log, (count += 1), destinations),
    seqsOwed: async (stream: string, of: NewDestination) =>
      (await owed(stream, of)).map(({ seq }) => seq).toSorted((a, b) => a - b),
    claim: (limit = MANY, slots = MANY, node = NODE) =>
      claimDeliveries(world.database, node, [], { ...BOUNDS, limit, slots_default: slots }, 'salt'),
  };
}

export function settled(claimed: ClaimedDelivery, fields: Partial<Settled> = {}): Settled {
  return {
    ...{ stream: claimed.stream, id: claimed.id, org: claimed.org, origin: claimed.origin },
    ...{ attempts: claimed.attempts, status: 'delivered', retry_in_ms: null, response_code: 204 },
    ...{ response_body: null, error: null, endpoint: 'works', retry_after_ms: null },
    ...{ is_probe: claimed.is_probe, was_tried: true },
    ...fields,
  };
}

export function failed(claimed: ClaimedDelivery): Settled {
  return settled(claimed, { status: 'failed', retry_in_ms: 0, endpoint: 'fails' });
}
