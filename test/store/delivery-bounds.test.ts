/** What deliveries may cost each other, and how long they are owed, on both grounds. */
import { sql } from 'kysely';
import { describe, expect, it } from 'vitest';
import { claimDeliveries } from '../../src/store/webhook/claim.ts';
import { redeliver, replayEvents, settleDeliveries } from '../../src/store/webhook/deliveries.ts';
import {
  deleteDestination,
  insertDestination,
  updateDestination,
} from '../../src/store/webhook/destinations.ts';
import { expireDeliveries, removeEndpoints } from '../../src/store/webhook/sweeps.ts';
import { GROUNDS } from '../helpers/grounds.ts';
import { ORG, send } from '../helpers/sessions.ts';
import { BOUNDS, failed, NODE, settled, useDeliveries } from './delivery-world.ts';

const DAY_MS = 86_400_000;

describe.each(GROUNDS)('deliveries on %s', (kind) => {
  const { world, destination, session, owed, claim } = useDeliveries(kind);
  const age = (hours: number) =>
    sql`
    update delivery set created_at = created_at - ${hours}::int * interval '1 hour',
      asked_at = asked_at - ${hours}::int * interval '1 hour'`.execute(world.database.db);
  const expire = () => expireDeliveries(world.database.db, DAY_MS);

  it('of a paused destination take no turn from another of the same origin', async () => {
    const [paused, other] = [destination(), destination()];
    const id = await session([paused]);
    for (let index = 0; index < 10; index += 1) await send(world.log, id, `${index}`);
    const scope = { kind: 'session', stream: id } as const;
    await updateDestination(world.database.db, ORG, scope, paused.id, { enabled: false });
    await insertDestination(world.database.db, ORG, scope, other);
    await send(world.log, id, 'more');
    expect(await claim(1, 1)).toMatchObject([{ destination_id: other.id }]);
    await updateDestination(world.database.db, ORG, scope, paused.id, { enabled: true });
    expect(await claim()).toHaveLength(11);
  });

  it('whose attempt fails during a pause wait for its end', async () => {
    const one = destination();
    const id = await session([one]);
    const scope = { kind: 'session', stream: id } as const;
    const [claimed] = await claim();
    await updateDestination(world.database.db, ORG, scope, one.id, { enabled: false });
    await settleDeliveries(world.database, NODE, [failed(claimed!)]);
    const { due_at } = await world.database.db
      .selectFrom('delivery')
      .select('due_at')
      .executeTakeFirstOrThrow();
    expect(due_at).toBe(null);
    await updateDestination(world.database.db, ORG, scope, one.id, { enabled: true });
    expect(await claim()).toMatchObject([{ id: claimed!.id }]);
  });

  it('are given up when they are too old, also behind an open breaker, until they are asked for again', async () => {
    const one = destination();
    const id = await session([one]);
    await world.database.db
      .updateTable('endpoint')
      .set({ failures: 9, open_until: new Date('9999-01-01') })
      .execute();
    await age(23);
    expect(await expire()).toBe(0);
    await age(2);
    expect(await expire()).toBe(1);
    const [given_up] = await owed(id);
    expect(given_up).toMatchObject({ status: 'dead_letter', error: 'it was owed for too long' });
    await redeliver(world.database.db, ORG, id, given_up!.id);
    expect(await expire()).toBe(0);
    await age(25);
    expect(await expire()).toBe(1);
    await replayEvents(world.database, ORG, id, one.id, 1, 10);
    expect(await expire()).toBe(0);
  });

  it('do not age while their destination pauses, nor while they are sent', async () => {
    const one = destination();
    const id = await session([one]);
    const scope = { kind: 'session', stream: id } as const;
    await updateDestination(world.database.db, ORG, scope, one.id, { enabled: false });
    await age(25);
    expect(await expire()).toBe(0);
    await updateDestination(world.database.db, ORG, scope, one.id, { enabled: true });
    expect(await expire()).toBe(0);
    const [claimed] = await claim();
    await age(25);
    expect(await expire()).toBe(0);
    await settleDeliveries(world.database, NODE, [settled(claimed!)]);
    expect(await expire()).toBe(0);
    expect(await owed(id)).toMatchObject([{ status: 'delivered' }]);
  });

  it('to a great many endpoints of one org are claimed in parts, and all in the end', async () => {
    await session(
      Array.from({ length: 300 }, (_, index) => destination({ origin: `https://${index}.test` })),
    );
    const taken = new Set<string>();
    for (let index = 0; index < 40; index += 1) {
      const bounds = { ...BOUNDS, slots_default: 1 };
      const claimed = await claimDeliveries(world.database, NODE, [], bounds, `${index}`);
      expect(claimed.length).toBeLessThanOrEqual(128);
      for (const { origin } of claimed) taken.add(origin);
    }
    expect(taken.size).toBe(300);
  });

  it('keep their endpoint, as does a destination; what nothing leads to is forgotten after a while', async () => {
    const { db } = world.database;
    const left = async () =>
      (await db.selectFrom('endpoint').select('origin').execute()).map(({ origin }) => origin);
    const [kept, gone] = [destination(), destination({ origin: 'https://gone.test' })];
    const id = await session([kept, gone]);
    const scope = { kind: 'session', stream: id } as const;
    await deleteDestination(db, ORG, scope, gone.id);
    expect(await removeEndpoints(db, 3600)).toBe(0);
    const old = { used_at: new Date(Date.now() - 2 * 3_600_000) };
    await db.updateTable('endpoint').set(old).execute();
    await insertDestination(db, ORG, scope, destination({ origin: 'https://gone.test' }));
    expect(await removeEndpoints(db, 3600)).toBe(0);
    await sql`delete from destination where origin = 'https://gone.test'`.execute(db);
    await db.updateTable('endpoint').set(old).execute();
    expect(await removeEndpoints(db, 3600)).toBe(1);
    expect(await left()).toEqual([kept.origin]);
  });
});
