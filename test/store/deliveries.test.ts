/** Who may send what is owed, on both grounds, and what becomes of it. */
import { sql } from 'kysely';
import { describe, expect, it } from 'vitest';
import { BREAKER } from '../../src/resource/delivery.ts';
import { claimDeliveries } from '../../src/store/webhook/claim.ts';
import { redeliver, settleDeliveries, type Settled } from '../../src/store/webhook/deliveries.ts';
import { reclaimDeliveries } from '../../src/store/webhook/sweeps.ts';
import { deleteDestination, updateDestination } from '../../src/store/webhook/destinations.ts';
import { heartbeat, leave } from '../../src/store/leases.ts';
import { GROUNDS, testGround } from '../helpers/grounds.ts';
import { ORG, send } from '../helpers/sessions.ts';
import { BOUNDS, failed, MANY, NODE, settled, useDeliveries } from './delivery-world.ts';

describe.each(GROUNDS)('deliveries on %s', (kind) => {
  const { world, destination, session, owed, claim } = useDeliveries(kind);

  it('are counted before they are tried, and belong to one node at a time', async () => {
    const id = await session([destination(), destination(), destination()]);
    const [mine, others] = await Promise.all([claim(2), claim(2, MANY, 'nod_000000000000000000000002')]);
    expect([...mine, ...others].map((one) => one.attempts)).toEqual([1, 1, 1]);
    expect(new Set([...mine, ...others].map((one) => one.id)).size).toBe(3);
    expect(await claim()).toEqual([]);
    expect((await owed(id)).map(({ status }) => status)).toEqual(Array(3).fill('delivering'));
    expect(mine[0]).toMatchObject({
      ...{ stream: id, url: 'https://hook.test/x', metadata: null },
      event: { type: 'user.message', seq: 2 },
    });
  });

  it('come back when their node is dead, and what it still reports does not count', async () => {
    await session([destination()]);
    const [lost] = await claim();
    expect(await reclaimDeliveries(world.database.db)).toBe(0);
    await leave(world.database.db, NODE);
    expect(await reclaimDeliveries(world.database.db)).toBe(1);
    await heartbeat(world.database.db, NODE, 60_000);
    const [again] = await claim();
    expect([again?.id, again?.attempts]).toEqual([lost?.id, 2]);
    await settleDeliveries(world.database, NODE, [settled(lost!)]);
    expect((await owed(null))[0]?.status).toBe('delivering');
    await settleDeliveries(world.database, NODE, [settled(again!)]);
    expect((await owed(null))[0]?.status).toBe('delivered');
  });

  it('are shared out by endpoint: what one may take does not hold up another', async () => {
    const at = (origin: string) => destination({ origin });
    await session([at('https://a.test'), at('https://a.test'), at('https://a.test'), at('https://b.test')]);
    const busy = [{ org: ORG, origin: 'https://a.test', slots: 0, in_flight: 4 }];
    const claimed = await claimDeliveries(
      world.database,
      NODE,
      busy,
      { ...BOUNDS, slots_default: 2 },
      'salt',
    );
    expect(claimed.map(({ origin }) => origin)).toEqual(['https://b.test']);
    expect((await claim(MANY, 2)).map(({ origin }) => origin)).toEqual(['https://a.test', 'https://a.test']);
  });

  it('wait behind an open breaker, which lets one probe through and closes with a success', async () => {
    const id = await session([destination()]);
    for (let index = 0; index < 10; index += 1) await send(world.log, id, `${index}`);
    const claimed = await claim();
    await settleDeliveries(world.database, NODE, claimed.slice(0, BREAKER.failures).map(failed));
    await settleDeliveries(world.database, NODE, claimed.slice(BREAKER.failures).map(failed));
    expect(await claim()).toEqual([]);
    await world.database.db
      .updateTable('endpoint')
      .set({ open_until: new Date(0) })
      .execute();
    const [probe, ...rest] = await claim();
    expect(rest).toEqual([]);
    expect(await claim()).toEqual([]);
    await settleDeliveries(world.database, NODE, [settled(probe!)]);
    expect(await claim()).toHaveLength(claimed.length - 1);
  });

  it('wait while their destination is paused, go to its new URL, and are given up when it is deleted', async () => {
    const one = destination();
    const id = await session([one]);
    const scope = { kind: 'session', stream: id } as const;
    await updateDestination(world.database.db, ORG, scope, one.id, { enabled: false });
    expect(await claim()).toEqual([]);
    const moved = { url: 'https://new.test/y', origin: 'https://new.test', enabled: true };
    await updateDestination(world.database.db, ORG, scope, one.id, moved);
    const [claimed] = await claim();
    expect(claimed).toMatchObject({ url: moved.url, origin: moved.origin });
    await settleDeliveries(world.database, NODE, [failed(claimed!)]);
    await deleteDestination(world.database.db, ORG, scope, one.id);
    expect(await claim()).toEqual([]);
    expect((await owed(id))[0]).toMatchObject({
      status: 'dead_letter',
      error: 'the destination was deleted',
    });
    expect(await redeliver(world.database.db, ORG, id, claimed!.id)).toBeUndefined();
  });

  it('that a node could not even try have had no attempt', async () => {
    const id = await session([destination()]);
    const [claimed] = await claim();
    const untried = settled(claimed!, {
      status: 'failed',
      was_tried: false,
      retry_in_ms: 0,
      endpoint: 'unknown',
    });
    await settleDeliveries(world.database, NODE, [untried]);
    expect(await owed(id)).toMatchObject([{ status: 'failed', attempts: 0 }]);
    expect(await claim()).toMatchObject([{ id: claimed!.id, attempts: 1 }]);
  });

  it('are sent again on demand under the same id, whatever became of them', async () => {
    const one = destination();
    const id = await session([one]);
    const [first] = await claim();
    await settleDeliveries(world.database, NODE, [settled(first!)]);
    expect(await redeliver(world.database.db, ORG, id, first!.id)).toMatchObject({
      status: 'pending',
      attempts: 1,
    });
    expect(await claim()).toMatchObject([{ id: first!.id, attempts: 2, attempts_before: 1 }]);
  });

  it('open the breaker once for failures that were under way together, and longer with each probe', async () => {
    const id = await session([destination()]);
    for (let index = 0; index < 30; index += 1) await send(world.log, id, `${index}`);
    const breaker = async () => {
      const { rows } = await sql<{ failures: number; open_s: number }>`
        select failures, extract(epoch from open_until - clock_timestamp())::float8 as open_s from endpoint`.execute(
        world.database.db,
      );
      return [rows[0]!.failures, Math.round(rows[0]!.open_s)];
    };
    const claimed = await claim();
    await settleDeliveries(world.database, NODE, claimed.slice(0, 16).map(failed));
    expect(await breaker()).toEqual([BREAKER.failures, 10]);
    await settleDeliveries(world.database, NODE, claimed.slice(16).map(failed));
    expect(await breaker()).toEqual([BREAKER.failures, 10]);
    for (const open_s of [20, 40, 80, 160, 300, 300]) {
      await world.database.db
        .updateTable('endpoint')
        .set({ open_until: new Date(0) })
        .execute();
      const [probe] = await claim();
      expect((await breaker())[1]).toBe(BREAKER.probe_ms / 1000);
      await settleDeliveries(world.database, NODE, [failed(probe!)]);
      expect((await breaker())[1]).toBe(open_s);
    }
    await world.database.db
      .updateTable('endpoint')
      .set({ open_until: new Date(0) })
      .execute();
    const [asked] = await claim();
    await settleDeliveries(world.database, NODE, [
      { ...failed(asked!), retry_after_ms: Number.MAX_SAFE_INTEGER },
    ]);
    expect((await breaker())[1]).toBe(300);
    await world.database.db
      .updateTable('endpoint')
      .set({ open_until: new Date(0) })
      .execute();
    const [unsent] = await claim();
    await settleDeliveries(world.database, NODE, [
      settled(unsent!, { status: 'dead_letter', endpoint: 'unknown' }),
    ]);
    expect((await breaker())[0]).toBeGreaterThan(BREAKER.failures);
  });

  it('of a paused destination are not sent when their node dies or their attempt fails, only after the pause', async () => {
    const one = destination();
    const id = await session([one]);
    await send(world.log, id, 'more');
    const scope = { kind: 'session', stream: id } as const;
    const [lost, failing] = await claim();
    await updateDestination(world.database.db, ORG, scope, one.id, { enabled: false });
    await settleDeliveries(world.database, NODE, [failed(failing!)]);
    await leave(world.database.db, NODE);
    await reclaimDeliveries(world.database.db);
    await heartbeat(world.database.db, NODE, 60_000);
    expect(await claim()).toEqual([]);
    expect((await owed(id)).map(({ status, attempts }) => [status, attempts])).toEqual([
      ['failed', 1],
      ['failed', 1],
    ]);
    await updateDestination(world.database.db, ORG, scope, one.id, { enabled: true });
    expect((await claim()).map((again) => again.id).toSorted()).toEqual([lost!.id, failing!.id].toSorted());
  });

  it('that wait for no reason are found by the sweep', async () => {
    await session([destination()]);
    await world.database.db.updateTable('delivery').set({ due_at: null }).execute();
    expect(await claim()).toEqual([]);
    expect(await reclaimDeliveries(world.database.db)).toBe(1);
    expect(await claim()).toHaveLength(1);
  });

  it('move to the new origin of their destination, also those that were under way', async () => {
    const one = destination();
    const id = await session([one]);
    const scope = { kind: 'session', stream: id } as const;
    const [under_way] = await claim();
    const moved = { url: 'https://new.test/y', origin: 'https://new.test' };
    await updateDestination(world.database.db, ORG, scope, one.id, moved);
    await settleDeliveries(world.database, NODE, [failed(under_way!)]);
    expect(await claim()).toEqual([]);
    expect(await claim()).toMatchObject([{ ...moved, attempts: 2 }]);
  });

  it('end when no attempt was ever recorded, however often they are taken over', async () => {
    const id = await session([destination()]);
    for (let attempt = 1; attempt <= BOUNDS.attempts_max; attempt += 1) {
      expect(await claim()).toMatchObject([{ attempts: attempt }]);
      await leave(world.database.db, NODE);
      await reclaimDeliveries(world.database.db);
      await heartbeat(world.database.db, NODE, 60_000);
    }
    expect(await claim()).toEqual([]);
    expect(await owed(id)).toMatchObject([
      { status: 'dead_letter', attempts: 10, error: 'what became of the last attempts is not known' },
    ]);
  });

  it('of an org with many endpoints leave room for the others', async () => {
    const other = 'org_000000000000000000000002';
    await world.database.db.insertInto('org').values({ id: other, name: 'other' }).execute();
    await session(
      Array.from({ length: 20 }, (_, index) => destination({ origin: `https://a${index}.test` })),
    );
    await session([destination({ origin: 'https://victim.test' })]);
    await world.database.db
      .updateTable('delivery')
      .set({ org: other })
      .where('origin', '=', 'https://victim.test')
      .execute();
    await world.database.db
      .insertInto('endpoint')
      .values({ org: other, origin: 'https://victim.test' })
      .execute();
    await world.database.db
      .updateTable('destination')
      .set({ org: other })
      .where('origin', '=', 'https://victim.test')
      .execute();
    const busy = [{ org: ORG, origin: 'https://a0.test', slots: 0, in_flight: 10 }];
    const taken = await claimDeliveries(
      world.database,
      NODE,
      busy,
      { ...BOUNDS, limit: 4, per_org_max: 13 },
      'salt',
    );
    expect(taken[0]!.origin).toBe('https://victim.test');
    expect(taken.filter(({ org }) => org === ORG).length).toBeLessThanOrEqual(3);
  });
});

describe('nodes that settle the same endpoints at once', () => {
  it('do not deadlock, in whatever order they name them', async () => {
    const ground = await testGround('postgres');
    const [one, two] = [await ground.open(), await ground.open()];
    await one.db.insertInto('org').values({ id: ORG, name: 'test' }).execute();
    const origins = Array.from({ length: 200 }, (_, index) => `https://${index}.test`);
    await one.db
      .insertInto('endpoint')
      .values(origins.map((origin) => ({ org: ORG, origin })))
      .execute();
    const batch = (names: string[], endpoint: Settled['endpoint']): Settled[] =>
      names.map((origin) => ({
        ...{
          stream: 's',
          id: 'd',
          org: ORG,
          origin,
          attempts: 1,
          is_probe: false,
          status: 'failed',
          was_tried: true,
        },
        ...{ retry_in_ms: 0, response_code: null, response_body: null, error: null, retry_after_ms: null },
        endpoint,
      }));
    const settling = Array.from({ length: 40 }, (_, index) => {
      const names = index % 2 === 0 ? origins : origins.toReversed();
      return settleDeliveries(
        index % 2 === 0 ? one : two,
        NODE,
        batch(names, index % 3 === 0 ? 'works' : 'fails'),
      );
    });
    await expect(Promise.all(settling)).resolves.toHaveLength(40);
    await Promise.all([one.close(), two.close()]);
    await ground.drop();
  });
});
