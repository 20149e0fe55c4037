/** What is owed of the log, on both grounds: every event that a destination wants, once, from the place where it came in. */
import { sql } from 'kysely';
import { describe, expect, it } from 'vitest';
import { DESTINATIONS_MAX } from '../../src/resource/destination.ts';
import { listDeliveries, replayEvents, settleDeliveries } from '../../src/store/webhook/deliveries.ts';
import {
  getDestination,
  insertDestination,
  listDestinations,
  updateDestination,
  type NewDestination,
} from '../../src/store/webhook/destinations.ts';
import { readPage } from '../../src/store/events.ts';
import { GROUNDS, testGround } from '../helpers/grounds.ts';
import { AGENT_ID, newLog, newSession, ORG, send } from '../helpers/sessions.ts';
import { eventually } from '../helpers/world.ts';
import { MANY, NODE, settled, useDeliveries } from './delivery-world.ts';

describe.each(GROUNDS)('what is owed on %s', (kind) => {
  const { world, destination, session, owed, seqsOwed, claim } = useDeliveries(kind);

  it('are owed from the first event on to what came with the session, by level and type', async () => {
    const of_user = destination();
    const of_progress = destination({ level: 'progress' });
    const of_all = destination({ level: 'internal' });
    const of_type = destination({ types: ['turn.*', 'user.message'] });
    const of_none = destination({ types: ['user'] });
    const paused = destination({ enabled: false });
    const all = [of_user, of_progress, of_all, of_type, of_none, paused];
    const id = await session(all);
    await send(world.log, id, 'more');
    const events = await readPage(world.database.db, id, { after: 0, limit: MANY, level: 'runtime' });
    const seqs = (wanted: (event: { level: string; type: string }) => boolean) =>
      events.filter(wanted).map(({ seq }) => seq);
    expect(events[0]?.level).toBe('runtime');
    expect(await seqsOwed(id, of_user)).toEqual(seqs(({ level }) => level === 'user'));
    expect(await seqsOwed(id, of_progress)).toEqual(
      seqs(({ level }) => ['user', 'progress'].includes(level)),
    );
    expect(await seqsOwed(id, of_all)).toEqual(seqs(({ level }) => level !== 'runtime'));
    expect(await seqsOwed(id, of_type)).toEqual(seqs(({ type }) => type === 'user.message'));
    expect(await seqsOwed(id, of_none)).toEqual([]);
    expect(await seqsOwed(id, paused)).toEqual([]);
  });

  it('are owed to destinations of the agent and of the org, and of no other session', async () => {
    const [of_org, of_agent, of_other] = [destination(), destination(), destination()];
    const id = await session();
    const other = await session();
    await insertDestination(world.database.db, ORG, { kind: 'org' }, of_org);
    await insertDestination(world.database.db, ORG, { kind: 'agent', agent_id: AGENT_ID }, of_agent);
    await insertDestination(world.database.db, ORG, { kind: 'session', stream: other }, of_other);
    const { rows } = await send(world.log, id, 'more');
    const later = await session();
    for (const one of [of_org, of_agent]) {
      expect(await seqsOwed(id, one)).toEqual([rows[0]!.seq]);
      expect(await seqsOwed(later, one)).toEqual([2]);
    }
    expect(await seqsOwed(id, of_other)).toEqual([]);
  });

  it('are made again by a replay, for old events and under the ids they had', async () => {
    const one = destination();
    const id = await session([one]);
    await send(world.log, id, 'more');
    const before = await owed(id, one);
    const late = destination();
    await insertDestination(world.database.db, ORG, { kind: 'session', stream: id }, late);
    expect(await replayEvents(world.database, ORG, id, late.id, 1, MANY)).toBe(2);
    expect(await seqsOwed(id, late)).toEqual([2, 3]);
    for (const claimed of await claim()) await settleDeliveries(world.database, NODE, [settled(claimed)]);
    expect(await replayEvents(world.database, ORG, id, one.id, 3, MANY)).toBe(1);
    const after = await owed(id, one);
    expect(after.map((row) => row.id)).toEqual(before.map((row) => row.id));
    expect(after.map((row) => row.status)).toEqual(['pending', 'delivered']);
  });

  it('are signed with the newest secret and the one before it, however often it was rotated', async () => {
    const secret = (n: number) => ({ id: `dsc_${String(n).padStart(24, '0')}`, sealed: `sealed ${n}` });
    const one = destination({ secret: secret(1) });
    const id = await session([one]);
    const scope = { kind: 'session', stream: id } as const;
    for (const n of [2, 3, 4]) {
      const change = { secret: { secret: secret(n), seen: n - 2 } };
      expect(await updateDestination(world.database.db, ORG, scope, one.id, change)).toBe(true);
      // Seen before the change, and so made of what is no more.
      expect(await updateDestination(world.database.db, ORG, scope, one.id, change)).toBe(false);
    }
    expect((await claim())[0]!.secrets).toEqual([secret(4), secret(3)]);
    expect(await world.database.db.selectFrom('destination_secret').select('id').execute()).toHaveLength(2);
  });

  it('have at most so many destinations, however many are made at once', async () => {
    const id = await session();
    const scope = { kind: 'session', stream: id } as const;
    const made = await Promise.all(
      Array.from({ length: 40 }, () => insertDestination(world.database.db, ORG, scope, destination())),
    );
    expect(made.filter(Boolean)).toHaveLength(DESTINATIONS_MAX);
    expect(await listDestinations(world.database.db, ORG, scope)).toHaveLength(DESTINATIONS_MAX);
  });
});

describe('an append that waits while a destination is added', () => {
  it('owes its events to it: it is built again', async () => {
    const ground = await testGround('postgres');
    const [database, other] = [await ground.open(), await ground.open()];
    const { db } = database;
    await db.insertInto('org').values({ id: ORG, name: 'test' }).execute();
    const log = newLog(database);
    const id = await newSession(database, log, 1);
    const scope = { kind: 'session', stream: id } as const;
    const added: NewDestination = {
      ...{ id: 'dst_000000000000000000000001', url: 'https://hook.test/', origin: 'https://hook.test' },
      ...{ level: 'user', types: null, include_raw: false, enabled: true, secret: null },
    };
    const { appending } = await other.db.transaction().execute(async (transaction) => {
      await insertDestination(transaction, ORG, scope, added);
      const appending = send(log, id, 'meanwhile');
      await eventually(async () => {
        const { rows } = await sql`select from pg_locks where not granted`.execute(transaction);
        return rows.length > 0;
      });
      return { appending };
    });
    const { rows } = await appending;
    const owed = await listDeliveries(db, ORG, id, { limit: 10 });
    expect(owed.map(({ seq }) => seq)).toEqual([rows[0]!.seq]);
    expect((await getDestination(db, ORG, scope, added.id))?.created_after_seq).toBe(rows[0]!.seq - 1);
    await Promise.all([database.close(), other.close()]);
    await ground.drop();
  });
});
