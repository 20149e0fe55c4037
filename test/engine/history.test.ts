/** The history of commands on both grounds: how many writes it takes, and what none of them may lose. */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { createHistory, type History } from '../../src/engine/computers/history.ts';
import { makeComputer } from '../../src/engine/computers/make.ts';
import type { Runtime } from '../../src/engine/runtime.ts';
import { getCommand, loseCommands, noteCommands, pruneCommands } from '../../src/store/computer/commands.ts';
import { GROUNDS } from '../helpers/grounds.ts';
import { testRuntime } from '../helpers/runtime.ts';
import { eventually, gate } from '../helpers/world.ts';

type End = Parameters<ReturnType<History['begin']>>[0];

const ORG = 'org_1';
const ENDED: End = {
  ...{ status: 'completed', ended_at: new Date(1_700_000_001_234), exit_code: 0 },
  ...{ stdout_bytes: 3, stderr_bytes: 0, error_type: null },
};

describe.each(GROUNDS)('the history of commands on %s', (kind) => {
  let runtime: Runtime;
  let close: () => Promise<void>;
  let computer_id: string;
  let history: History;
  /** The ids of each write, in order. */
  let writes: string[][];
  let given_up: string[];
  /** Writes wait for it. */
  let door: Promise<void>;
  /** So many writes more fail, as where the database does not answer. */
  let failing: number;

  beforeAll(async () => {
    ({ runtime, close } = await testRuntime({}, kind));
    await runtime.database.db.insertInto('org').values({ id: ORG, name: 'test' }).execute();
    const spec = runtime.settings.session_computer;
    computer_id = (await makeComputer(runtime, ORG, { spec, driver: 'process' }))!.id;
  });
  afterAll(() => close());

  beforeEach(() => {
    [writes, given_up, door, failing] = [[], [], Promise.resolve(), 0];
    const database: Runtime['database'] = {
      ...runtime.database,
      run: async (statement, values) => {
        writes.push(values[0] as string[]);
        await door;
        failing -= 1;
        if (failing >= 0) throw new Error('the database does not answer');
        return await runtime.database.run(statement, values);
      },
    };
    const warn = (fields: object): void => {
      if ('command' in fields) given_up.push(fields.command as string);
    };
    history = createHistory({ database, logger: { ...runtime.logger, warn } });
  });
  afterEach(async () => {
    await history.close();
    await pruneCommands(runtime.database.db, 0);
  });

  const beginning = (id: string) => ({
    ...{ id, computer_id, source: 'api', node: runtime.machine, timeout_ms: 1000 },
    started_at: new Date(1_700_000_000_000),
  });
  const begin = (id: string) => history.begin(ORG, beginning(id));
  const run = (...ids: string[]): void => ids.forEach((id) => begin(id)(ENDED));
  const read = (id: string) => getCommand(runtime.database.db, ORG, computer_id, id);
  const listed = async () => (await history.list(ORG, computer_id, 20_000)).map(({ id }) => id);
  const numbered = (count: number): string[] => Array.from({ length: count }, (_, index) => `cmd_${index}`);

  it('is written once for a command that is over quickly, and unasked', async () => {
    run('cmd_1');
    expect(await eventually(() => read('cmd_1'))).toEqual({
      ...{ ...beginning('cmd_1'), org: ORG },
      ...ENDED,
    });
    expect(writes).toEqual([['cmd_1']]);
  });

  it('shows whoever reads it each command that has begun or ended, for one write', async () => {
    const end = begin('cmd_1');
    run('cmd_2', 'cmd_3');
    expect(await history.find(ORG, computer_id, 'cmd_1')).toMatchObject({
      status: 'running',
      ended_at: null,
    });
    expect(await listed()).toEqual(['cmd_3', 'cmd_2', 'cmd_1']);
    expect(writes).toEqual([['cmd_1', 'cmd_2', 'cmd_3']]);
    end(ENDED);
    expect(await history.find(ORG, computer_id, 'cmd_1')).toMatchObject(ENDED);
    expect(writes.slice(1)).toEqual([['cmd_1']]);
  });

  it('has ends after beginnings, also while a beginning is being written', async () => {
    const { opened, open } = gate();
    door = opened;
    const end = begin('cmd_1');
    const [first, second] = [history.close(), history.close()];
    await eventually(() => writes.length > 0);
    end(ENDED);
    run('cmd_2');
    const all = listed();
    expect(writes).toEqual([['cmd_1']]);
    open();
    expect(await all).toEqual(['cmd_2', 'cmd_1']);
    await Promise.all([first, second]);
    expect(writes).toEqual([['cmd_1'], ['cmd_1', 'cmd_2']]);
    expect(await read('cmd_1')).toMatchObject(ENDED);
    // Of a write whose answer was lost it is not known when it lands.
    const running = { ...ENDED, status: 'running', ended_at: null } as const;
    await noteCommands(runtime.database, [{ ...beginning('cmd_1'), ...running, org: ORG }]);
    expect(await read('cmd_1')).toMatchObject(ENDED);
  });

  it('gathers no more than some, and gives up what the database does not take in time', async () => {
    run(...numbered(300));
    // Before any timer.
    await Promise.resolve();
    expect(writes.map(({ length }) => length)).toEqual([300]);
    const { opened, open } = gate();
    door = opened;
    const ends = numbered(10_005).map(begin);
    expect(given_up).toEqual(['cmd_10000', 'cmd_10001', 'cmd_10002', 'cmd_10003', 'cmd_10004']);
    // An end is not: nothing else would end the command.
    ends.at(-1)!(ENDED);
    open();
    expect((await listed()).length).toBe(10_001);
    expect(await read('cmd_10004')).toMatchObject(ENDED);
  });

  it('keeps what it has while the database does not answer, and asks it no more often for that', async () => {
    failing = 2;
    const end = begin('cmd_1');
    run('cmd_2');
    await history.close();
    end(ENDED);
    await eventually(() => read('cmd_1'));
    expect(await read('cmd_1')).toMatchObject(ENDED);
    expect(await read('cmd_2')).toMatchObject(ENDED);
    expect([writes.length, given_up]).toEqual([3, []]);
  });

  it('is whole after the close', async () => {
    const end = begin('cmd_1');
    run('cmd_2');
    await history.close();
    end(ENDED);
    await history.close();
    expect([await read('cmd_1'), await read('cmd_2')]).toMatchObject([ENDED, ENDED]);
    expect(given_up).toEqual([]);
  });

  it('gives up the note that cannot be written, and no other', async () => {
    const ids = numbered(20);
    run(...ids.slice(0, 7));
    history.begin(ORG, { ...beginning('cmd_bad'), computer_id: 'cmp_gone' })(ENDED);
    run(...ids.slice(7));
    expect((await listed()).toSorted()).toEqual(ids.toSorted());
    expect(given_up).toEqual(['cmd_bad']);
    const tries = writes.length;
    expect(tries).toBeLessThan(12);
    run('cmd_later');
    expect(await listed()).toContain('cmd_later');
    expect(writes.length).toBe(tries + 1);
  });

  it('has a command as lost whose server has ended under it', async () => {
    begin('cmd_1');
    run('cmd_2');
    await history.close();
    await loseCommands(runtime.database.db, runtime.machine, new Date());
    expect(await read('cmd_1')).toMatchObject({ status: 'lost', error_type: 'node_ended', exit_code: null });
    expect(await read('cmd_2')).toMatchObject(ENDED);
  });
});
