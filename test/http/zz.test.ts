import { it, expect } from 'vitest';
import { createLog } from '../../src/store/log.ts';
import { submit } from '../../src/engine/submit.ts';
import { RULES } from '../helpers/walk.ts';
import { makeSession, startServer } from '../helpers/http.ts';
it('reader ahead of the tail', async () => {
  const s = await startServer();
  const { id } = await makeSession(s);
  const { runtime } = s;
  const log2 = createLog({ database: runtime.database, rules: RULES, now: () => Date.now(), fail: () => Promise.resolve(), held_streams_max: 10 });
  const say = (log: typeof log2) => submit({ ...runtime, log }, id, { type: 'message', text: 'x', actor: { type: 'human' } });
  const stop = new AbortController();
  const a = runtime.follow.open(id, 0, 'internal', stop.signal);
  console.log((await a.next()).map((r) => r.seq));
  await say(runtime.log);
  console.log((await a.next()).map((r) => r.seq)); // tail [3]; a is slow from here on
  await say(log2); await say(log2); // 4, 5 by another node
  const b = runtime.follow.open(id, 5, 'internal', stop.signal);
  const got = b.next();
  await say(runtime.log); // 6 here
  const r = await Promise.race([got.then((rows) => rows.map((x) => x.seq)), new Promise((r) => setTimeout(r, 4000, 'stuck'))]);
  console.log('b', r);
  stop.abort();
  await s.close();
  expect(r).toEqual([6]);
});
it('in-flight read', async () => {
  const s = await startServer();
  const { id } = await makeSession(s);
  const { runtime } = s;
  const log2 = createLog({ database: runtime.database, rules: RULES, now: () => Date.now(), fail: () => Promise.resolve(), held_streams_max: 10 });
  const say = (log: typeof log2) => submit({ ...runtime, log }, id, { type: 'message', text: 'x', actor: { type: 'human' } });
  const stop = new AbortController();
  const seen: number[][] = Array.from({ length: 20 }, () => []);
  const readers = seen.map(async (out) => { const f = runtime.follow.open(id, 2, 'internal', stop.signal); for (;;) { const rows = await f.next(); if (rows.length === 0) return; out.push(...rows.map((r) => r.seq)); } });
  await say(runtime.log);
  let stuck = 0;
  for (let round = 0; round < 60; round++) {
    for (let k = 0; k < 3; k++) { await say(log2); runtime.follow.hint(id); if (k === 1) await new Promise(setImmediate); }
    const head = 3 + (round + 1) * 3;
    const deadline = Date.now() + 1500;
    while (seen.some((o) => o.at(-1) !== head) && Date.now() < deadline) await new Promise((r) => setTimeout(r, 2));
    if (seen.some((o) => o.at(-1) !== head)) stuck++;
  }
  stop.abort(); await Promise.all(readers);
  console.log('stuck rounds', stuck, new Set(seen.map((o) => o.join())).size);
  await s.close();
  expect(stuck).toBe(0);
});
