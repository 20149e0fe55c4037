/** Changing the secret of a destination: whoever repeats it loses nothing, and of those that change it at once one comes last. */
import { describe, expect, it, onTestFinished } from 'vitest';
import { changeDestination, createDestination } from '../../src/engine/destinations.ts';
import { readSecrets } from '../../src/store/webhook/destinations.ts';
import { GROUNDS } from '../helpers/grounds.ts';
import { testRuntime } from '../helpers/runtime.ts';

const SCOPE = { kind: 'org' } as const;

describe.each(GROUNDS)('the secret of a destination on %s', (kind) => {
  async function world() {
    const { runtime, close } = await testRuntime({}, kind);
    onTestFinished(close);
    const { db } = runtime.database;
    const org = runtime.newId('org');
    await db.insertInto('org').values({ id: org, name: 'test' }).execute();
    const spec = {
      url: 'https://9.9.9.9/',
      level: 'user',
      types: null,
      include_raw: false,
      enabled: true,
    } as const;
    const { id } = await createDestination(runtime, org, SCOPE, { ...spec, secret: 'first' });
    const open = ({ id: secret_id, sealed }: { id: string; sealed: string }) =>
      runtime.sealer.open(sealed, { org, table: 'destination_secret', id: secret_id, column: 'sealed' });
    return {
      change: (secret: string | null) => changeDestination(runtime, org, SCOPE, id, { secret }),
      signing: async () => (await readSecrets(db, org, id)).map(open),
      current: async () =>
        (await db.selectFrom('destination_secret').select('id').where('expires_at', 'is', null).execute())
          .length,
    };
  }

  it('stays as it is when the change is repeated, as after a lost answer', async () => {
    const { change, signing } = await world();
    await change('second');
    await change('second');
    expect(await signing()).toEqual(['second', 'first']);
    await Promise.all([change('third'), change('third'), change('third')]);
    expect(await signing()).toEqual(['third', 'second']);
    await change(null);
    expect(await signing()).toEqual([]);
  });

  it('is one when many are given at once', async () => {
    const { change, signing, current } = await world();
    const given = Array.from({ length: 6 }, (_, index) => `secret ${index}`);
    await Promise.all(given.map(change));
    expect(await current()).toBe(1);
    expect((await signing()).every((secret) => given.includes(secret))).toBe(true);
  });
});
