/** How sending ends: nothing is asked of the database afterwards, and what cannot be recorded is not tried for longer than it may. */
import { describe, expect, it, onTestFinished } from 'vitest';
import { createDestination } from '../../src/engine/destinations.ts';
import { startDeliverer } from '../../src/engine/deliver.ts';
import type { Runtime } from '../../src/engine/runtime.ts';
import { AGENT_ID, newSession, ORG } from '../helpers/sessions.ts';
import { startReceiver } from '../helpers/receiver.ts';
import { testRuntime } from '../helpers/runtime.ts';
import { eventually } from '../helpers/world.ts';

/** A session whose first event is owed to `url`. */
async function owing(url: string): Promise<Runtime> {
  const { runtime, close } = await testRuntime();
  onTestFinished(close);
  const { db } = runtime.database;
  await db.insertInto('org').values({ id: ORG, name: 'test' }).execute();
  const agent = { name: 'a', runtime: 'claude', prompt: 'p', prompt_hash: 'h', model: 'm', revision: 1 };
  await db
    .insertInto('agent')
    .values({ id: AGENT_ID, org: ORG, ...agent })
    .execute();
  const spec = { url, level: 'user', types: null, include_raw: false, enabled: true } as const;
  await createDestination(runtime, ORG, { kind: 'org' }, spec);
  await newSession(runtime.database, runtime.log, 1, []);
  return runtime;
}

describe('a deliverer that is stopped', () => {
  it('does nothing more, whoever wakes it', async () => {
    const receiver = await startReceiver();
    const runtime = await owing(receiver.url);
    const { db } = runtime.database;
    let clock_ms = 0;
    const deliverer = startDeliverer(runtime, () => clock_ms);
    await eventually(() => receiver.received.length === 1);
    await deliverer.stop();
    await db
      .updateTable('delivery')
      .set({ status: 'delivering', node: 'nod_dead', due_at: new Date() })
      .execute();
    clock_ms += 1_000_000;
    deliverer.wake();
    // On this ground statements run one after the other: what it had begun would be done before this.
    await db.selectFrom('delivery').select('id').execute();
    const { node } = await db.selectFrom('delivery').select('node').executeTakeFirstOrThrow();
    expect(node).toBe('nod_dead');
    await receiver.close();
  });

  it('records what was sent once more at most when its time is over', async () => {
    const receiver = await startReceiver();
    const runtime = await owing(receiver.url);
    let tries = 0;
    const { run } = runtime.database;
    const database: Runtime['database'] = {
      ...runtime.database,
      run: async (statement, values) => {
        if (statement.name !== 'settle_deliveries') return await run(statement, values);
        tries += 1;
        throw Object.assign(new Error('the database is away'), { code: 'ECONNRESET' });
      },
    };
    const deliverer = startDeliverer({ ...runtime, database }, () => performance.now());
    await eventually(() => tries === 1);
    const start = performance.now();
    await deliverer.stop();
    expect(performance.now() - start).toBeLessThan(1000);
    expect(tries).toBeLessThanOrEqual(2);
    await receiver.close();
  });
});
