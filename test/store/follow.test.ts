/** Readers that stay, on both grounds: each sees every event once and in order, whoever writes and whatever hint is lost. */
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Level } from '../../src/session/event.ts';
import { isVisible } from '../../src/session/event.ts';
import type { Database } from '../../src/store/ground/database.ts';
import { readEvents } from '../../src/store/events.ts';
import { createFollow, type Follow } from '../../src/store/follow.ts';
import type { Log } from '../../src/store/log.ts';
import { GROUNDS, testGround, type TestGround } from '../helpers/grounds.ts';
import { newLog, newSession, ORG, run, send } from '../helpers/sessions.ts';

describe.each(GROUNDS)('followers on %s', (kind) => {
  let ground: TestGround;
  let database: Database;
  let here: Log;
  let elsewhere: Log;
  let follow: Follow;
  let count = 0;

  beforeEach(async () => {
    ground = await testGround(kind);
    database = await ground.open();
    await database.db.insertInto('org').values({ id: ORG, name: 'test' }).execute();
    [here, elsewhere] = [newLog(database), newLog(database)];
    follow = createFollow(database, here, 20);
  });

  afterEach(async () => {
    follow.close();
    await database.close();
    await ground.drop();
  });

  /** Reads until it has what the log has up to `head`. */
  async function readTo(id: string, after: number, level: Level, head: Promise<number>): Promise<number[]> {
    const leaving = new AbortController();
    const follower = follow.open(id, after, level, leaving.signal);
    const seqs: number[] = [];
    void head.then(async (end) => {
      const { events } = await readEvents(database.db, id, after + 1, end);
      const wanted = events.filter((event) => isVisible(event.level, level)).length;
      while (seqs.length < wanted) await new Promise((resolve) => setTimeout(resolve, 1));
      leaving.abort();
    });
    for (;;) {
      const rows = await follower.next();
      if (rows.length === 0) return seqs;
      seqs.push(...rows.map((row) => row.seq));
    }
  }

  const step = fc.record({
    elsewhere: fc.boolean(),
    hinted: fc.boolean(),
    opens: fc.option(
      fc.record({
        after: fc.nat(30),
        level: fc.constantFrom<Level>('user', 'progress', 'internal', 'runtime'),
      }),
    ),
  });

  it('see every event once and in order', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: 25 }), async (steps) => {
        const id = await newSession(database, here, (count += 1));
        const { promise: head, resolve: end } = Promise.withResolvers<number>();
        const readers: Promise<void>[] = [];
        let last = 2;
        for (const { elsewhere: remote, hinted, opens } of steps) {
          if (opens) {
            const after = Math.min(opens.after, last);
            readers.push(check(id, after, opens.level, head));
          }
          const { written } = await send(remote ? elsewhere : here, id, 'text');
          last = written.at(-1)!.seq;
          if (remote && hinted) follow.hint(id, last);
        }
        // Events below the user level as well, so that the levels differ.
        const begun = await run(elsewhere, id, 0, { type: 'begin', node: 'n' });
        end(begun.state.head);
        await Promise.all(readers);
      }),
      { numRuns: 30 },
    );
  });

  async function check(id: string, after: number, level: Level, head: Promise<number>): Promise<void> {
    const seqs = await readTo(id, after, level, head);
    const { events } = await readEvents(database.db, id, after + 1, await head);
    expect(seqs).toEqual(events.filter((event) => isVisible(event.level, level)).map((event) => event.seq));
  }
});
