/** The log on both grounds: order, fencing, idempotency and durability of what was acknowledged. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { evolve } from '../../src/session/evolve.ts';
import { emptyState } from '../../src/session/state.ts';
import type { Database } from '../../src/store/ground/database.ts';
import { readEvents, readPage } from '../../src/store/events.ts';
import { claim, heartbeat, voidAllLeases } from '../../src/store/leases.ts';
import type { Log } from '../../src/store/log.ts';
import { chainHash } from '../../src/store/rows.ts';
import { GROUNDS, testGround, type TestGround } from '../helpers/grounds.ts';
import { newLog, newSession, ORG, run, send } from '../helpers/sessions.ts';

describe.each(GROUNDS)('the log on %s', (kind) => {
  let ground: TestGround;
  let database: Database;
  let log: Log;
  let count = 0;

  beforeEach(async () => {
    ground = await testGround(kind);
    database = await ground.open();
    await database.db.insertInto('org').values({ id: ORG, name: 'test' }).execute();
    log = newLog(database);
  });

  afterEach(async () => {
    await database.close();
    await ground.drop();
  });

  const create = (): Promise<string> => newSession(database, log, (count += 1));

  it('gives 1,000 concurrent appends of 20 sessions dense seqs, and each its place', async () => {
    const ids = await Promise.all(Array.from({ length: 20 }, () => create()));
    const acked = await Promise.all(
      Array.from({ length: 1000 }, async (_, index) => {
        const id = ids[index % ids.length]!;
        const { written } = await send(log, id, `message ${index}`);
        return { id, seq: written[0]!.seq, text: `message ${index}` };
      }),
    );
    for (const id of ids) {
      const { events } = await readEvents(database.db, id, 1);
      expect(events.map((event) => event.seq)).toEqual(events.map((_, index) => index + 1));
      for (const { seq, text } of acked.filter((ack) => ack.id === id)) {
        expect(events[seq - 1]?.body).toEqual({ text });
      }
    }
  });

  it('keeps the order of two writers that hold different views of one session', async () => {
    const id = await create();
    const other = newLog(database);
    await Promise.all(
      Array.from({ length: 100 }, (_, index) => send(index % 2 === 0 ? log : other, id, `${index}`)),
    );
    const { events } = await readEvents(database.db, id, 1);
    expect(events).toHaveLength(102);
    expect(new Set(events.slice(2).map((event) => JSON.stringify(event.body))).size).toBe(100);
  });

  it('stores the state that the events fold to, and a hash chain that verifies', async () => {
    const id = await create();
    for (let index = 0; index < 300; index += 1) await send(log, id, `m ${index}`);
    const row = await database.db
      .selectFrom('stream')
      .selectAll()
      .where('id', '=', id)
      .executeTakeFirstOrThrow();
    const { events } = await readEvents(database.db, id, 1);
    const prefix = events.filter((event) => event.seq <= row.state_seq).reduce(evolve, emptyState(id));
    expect(row.state).toEqual(JSON.parse(JSON.stringify(prefix)));
    expect(row.state_seq).toBeGreaterThanOrEqual(256);
    expect(await newLog(database).state(id)).toEqual(events.reduce(evolve, emptyState(id)));
    let hash = '';
    for (const event of events) hash = chainHash(hash, event.seq, event.type, JSON.stringify(event.body));
    expect(Buffer.from(row.hash).toString('hex')).toBe(hash);
  });

  it('refuses a runner whose epoch another claim has raised, whatever it writes', async () => {
    const id = await create();
    await heartbeat(database.db, 'nod_a', 10_000);
    const [first] = await claim(database, 'nod_a', 10);
    expect(first).toMatchObject({ stream: id, epoch: 1 });
    await run(log, id, first!.epoch, { type: 'begin', node: 'nod_a' });
    await voidAllLeases(database.db);
    await heartbeat(database.db, 'nod_b', 10_000);
    const [second] = await claim(database, 'nod_b', 10);
    expect(second?.epoch).toBe(2);
    const late = run(log, id, first!.epoch, { type: 'computer_changed', change: LOST });
    await expect(late).rejects.toMatchObject({ code: 'fenced' });
    await run(log, id, 2, { type: 'begin', node: 'nod_b' });
    const { events } = await readEvents(database.db, id, 1);
    expect(
      events.filter((event) => event.type === 'turn.attempted').map((event) => event.body),
    ).toMatchObject([
      { attempt: 1, node: 'nod_a' },
      { attempt: 2, node: 'nod_b', interrupted: true },
    ]);
  });

  it('claims a session for one of two racing nodes only', async () => {
    await Promise.all(Array.from({ length: 10 }, () => create()));
    await heartbeat(database.db, 'nod_a', 10_000);
    await heartbeat(database.db, 'nod_b', 10_000);
    const claims = await Promise.all([claim(database, 'nod_a', 10), claim(database, 'nod_b', 10)]);
    const streams = claims.flat().map((taken) => taken.stream);
    expect(new Set(streams).size).toBe(streams.length);
    expect(streams.length + (await claim(database, 'nod_a', 10)).length).toBe(10);
  });

  it('writes one event for an idempotency key, however many race', async () => {
    const id = await create();
    const other = newLog(database);
    const answers = await Promise.all(
      Array.from({ length: 32 }, (_, index) => send(index % 2 === 0 ? log : other, id, 'once', 'key-1')),
    );
    expect(answers.filter((answer) => answer.written.length > 0)).toHaveLength(1);
    const seqs = answers.map((answer) => answer.replay?.seq ?? answer.written[0]!.seq);
    expect(new Set(seqs)).toEqual(new Set([3]));
  });

  it('keeps bodies to the byte: NUL, lone surrogates, key order, large ones', async () => {
    const id = await create();
    const texts = ['a\u0000b', '\ud800 alone', '\u2028', 'x'.repeat(200_000)];
    for (const text of texts) await send(newLog(database), id, text);
    const { events } = await readEvents(database.db, id, 3);
    expect(events.map((event) => (event.body as { text: string }).text)).toEqual(texts);
    const page = await readPage(database.db, id, { after: 5, limit: 10, level: 'user' });
    expect(page[0]).toMatchObject({ content_ref: `events/${page[0]!.id}`, body_bytes: 200_011 });
    expect(page[0]!.body.length).toBeLessThan(2000);
  });

  it('has a role that can neither change nor delete events', async () => {
    const id = await create();
    const change = database.db
      .updateTable('event')
      .set({ type: 'forged' })
      .where('stream', '=', id)
      .execute();
    await expect(change).rejects.toThrow(/permission denied/);
    const removal = database.db.deleteFrom('event').where('stream', '=', id).execute();
    await expect(removal).rejects.toThrow(/permission denied/);
  });

  it('refuses an append to a session that does not exist', async () => {
    await expect(send(log, 'ses_ffffffffffffffffffffffff', 'x')).rejects.toMatchObject({ code: 'not_found' });
  });
});

const LOST = {
  type: 'computer.lost',
  body: { computer_id: 'cmp_1', generation: 1, message: 'gone' },
} as const;
