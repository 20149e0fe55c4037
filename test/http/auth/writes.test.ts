/** A rotation of the master key waits for requests that may have sealed something with the old one, whichever door they came by. */
import { afterEach, describe, expect, it } from 'vitest';
import type { Driver } from '../../../src/resource/computer/driver.ts';
import { makeOperator, startServer, type TestServer } from '../../helpers/http.ts';
import { gate } from '../../helpers/world.ts';

let server: TestServer;
afterEach(() => server.close());

describe.each(['POST /v1/computers', 'POST /api/sandboxes'])('%s', (what) => {
  it('is waited for', async () => {
    const [begun, ending] = [gate(), gate()];
    const driver: Driver = {
      ...{ name: 'process', probe: () => Promise.resolve({ usable: false, reason: 'none in this test' }) },
      wake: async () => {
        begun.open();
        await ending.opened;
        throw new Error('no computers in this test');
      },
      ...{ snapshot: () => Promise.resolve(null), inventory: () => Promise.resolve([]) },
      ...{
        destroy: () => Promise.resolve(),
        quieten: () => Promise.resolve(),
        close: () => Promise.resolve(),
      },
    };
    server = await startServer({ driver });
    const { key } = await makeOperator(server.runtime);
    const over: string[] = [];
    const making = server.ask(what, { body: {} }).then(() => over.push('made'));
    await begun.opened;
    const rotating = server
      .ask('POST /v3/master-key/rotation', { key })
      .then(({ status }) => over.push(`rotated ${status}`));
    for (let index = 0; index < 20; index += 1) await server.ask('GET /v3/agents');
    expect(over).toEqual([]);
    ending.open();
    await Promise.all([making, rotating]);
    expect(over).toEqual(['made', 'rotated 200']);
  });
});
