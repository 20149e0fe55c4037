/** Commands that outlive whoever asked: how many there may be, what is kept of them, and who sees how they ended. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { CommandEnd, RunningCommand } from '../../src/engine/computers/exec.ts';
import { noted } from '../../src/engine/computers/exec/noted.ts';
import { createRoom } from '../../src/engine/computers/exec/room.ts';
import { createExecSession, type Asked, type Means } from '../../src/engine/computers/exec/session.ts';
import { createExecSessions, type ExecRequest } from '../../src/engine/computers/exec/sessions.ts';
import type { OutputChunk } from '../../src/resource/computer/driver.ts';
import type { ComputerState } from '../../src/resource/computer/life.ts';
import { startComputerServer } from '../helpers/computers.ts';
import type { TestServer } from '../helpers/http.ts';

let server: TestServer;
let computer: ComputerState;

beforeAll(async () => {
  server = await startComputerServer();
  const { id } = (await server.ask('POST /v1/computers', { body: {} })).json;
  computer = await server.runtime.computer_log.state(id!);
});
afterAll(() => server.close());

const request = (cmd: string, more: Partial<ExecRequest> = {}): ExecRequest => ({
  ...{ cmd, args: [], env: {}, timeout_ms: 60_000, typed: false, keeps: 'whole', linger_ms: null },
  ...more,
});

describe('room', () => {
  it('is bounded for an org and for the node, and made by what the org itself may lose', () => {
    const clears: Record<string, number[]> = { a: [40, 40], b: [] };
    const room = createRoom({ org_bytes_max: 100, node_bytes_max: 150 }, (org) => {
      const bytes = clears[org]?.shift();
      if (bytes !== undefined) room.give(org, bytes);
      return bytes !== undefined;
    });
    expect([room.take('a', 80), room.take('a', 20), room.take('b', 50)]).toEqual([true, true, true]);
    // The node is full, and the other org's is not its own to clear.
    expect(room.take('b', 1)).toBe(false);
    expect([room.take('a', 30), clears['a']]).toEqual([true, [40]]);
    expect([room.take('a', 100), clears['a']]).toEqual([false, []]);
    room.give('a', 50);
    expect(room.take('b', 50)).toBe(true);
  });
});

describe('commands that outlive who asked', () => {
  it('keep of one org what another cannot push out', async () => {
    const kept = { org_bytes_max: 100_000, node_bytes_max: 1_000_000 };
    const sessions = createExecSessions(server.runtime, server.computers, kept);
    const run = async (org: string) => {
      const session = await sessions.start(org, computer, request("head -c 60000 /dev/zero | tr '\\0' x"));
      await session.ended;
      return session;
    };
    const theirs = await run(server.stranger.id);
    const ours = [];
    for (let count = 0; count < 20; count += 1) ours.push(await run(server.org.id));
    expect(sessions.list(computer.id)).toEqual([theirs, ours.at(-1)]);
    expect(sessions.find(computer.id, theirs.id)?.result().stdout.length).toBe(60_000);
    for (const session of [theirs, ours.at(-1)!]) sessions.forget(session);
    expect(sessions.list(computer.id)).toEqual([]);
    // What was forgotten has given its room back.
    expect((await run(server.org.id)).result()).toMatchObject({ truncated: false });
  });

  it(
    'are no more than a computer may have, however many are asked for at once',
    { timeout: 30_000 },
    async () => {
      const sessions = createExecSessions(server.runtime, server.computers);
      const start = () =>
        sessions.start(server.org.id, computer, request('cat', { typed: true, keeps: 'end' }));
      const asked = await Promise.allSettled(Array.from({ length: 70 }, start));
      const running = asked.flatMap((each) => (each.status === 'fulfilled' ? [each.value] : []));
      expect(running).toHaveLength(64);
      for (const each of running) await sessions.signal(each, 9);
      await Promise.all(running.map(({ ended }) => ended));
      const last = await start();
      await sessions.signal(last, 9);
      await last.ended;
    },
  );

  it('give their place back when they cannot be started', async () => {
    const sessions = createExecSessions(server.runtime, server.computers);
    const gone = { ...computer, id: server.runtime.newId('computer') };
    for (let count = 0; count < 70; count += 1)
      await expect(sessions.start(server.org.id, gone, request('true'))).rejects.not.toThrow('commands run');
  });
});

describe('a command that is looked at', () => {
  const asked: Asked = {
    ...{ org: 'o', computer: 'c', command: 'x', args: [], keeps: 'whole', linger_ms: null },
  };
  const END: CommandEnd = { exit_code: 0, timed_out: false, error_type: null, duration_ms: 1 };
  const command = (end: Promise<CommandEnd>, output: AsyncIterable<OutputChunk>): RunningCommand => ({
    ...{ id: 'cmd_1', started_at: new Date(0), output, end },
    said: { stdout: 0, stderr: 0, truncated: false },
  });
  const means = (kill = (): void => undefined): Means => ({
    ...{ stdin: undefined, kill, take: () => true, give: () => undefined },
  });

  it('is killed where its output breaks off, as nobody could learn of its end', async () => {
    let killed = 0;
    const never = new Promise<CommandEnd>(() => {});
    const session = createExecSession(
      asked,
      command(never, broken()),
      means(() => (killed += 1)),
    );
    expect(await session.ended).toMatchObject({ error_type: 'internal', exit_code: 137 });
    expect(killed).toBe(1);
  });

  it('has a seat after its end for everyone who comes, and none that is kept', async () => {
    const session = createExecSession(asked, command(Promise.resolve(END), whole()), means());
    await session.ended;
    const ends: string[] = [];
    const shown: number[] = [];
    for (let count = 0; count < 40; count += 1)
      session.attach({ show: async (data) => void shown.push(data[0]!), end: (why) => ends.push(why) });
    expect([ends.length, new Set(ends), session.clients()]).toEqual([40, new Set(['exited']), 0]);
    expect(shown.slice(0, 3)).toEqual([1, 4, 3]);
  });

  async function* whole(): AsyncGenerator<OutputChunk> {
    yield { stream: 'stdout', data: Buffer.from('x') };
  }

  async function* broken(): AsyncGenerator<OutputChunk> {
    yield* whole();
    throw new Error('the pipe broke');
  }
});

describe('a command of the agent', () => {
  it('is on record as failed where its end could not be told', async () => {
    const { runtime, computers, org } = server;
    const of = { org: org.id, computer_id: computer.id, source: 'agent' } as const;
    async function* silent(): AsyncGenerator<OutputChunk> {
      yield* [];
    }
    const exit = Promise.reject(new Error('the channel broke'));
    const handle = { ...computers.awake(computer.id)!, exec: () => ({ exit, output: silent() }) };
    const execution = noted(runtime, computers.history, of, handle).exec({
      script: 'true',
      timeout_ms: 1000,
    });
    for await (const _ of execution.output);
    await expect(execution.exit).rejects.toThrow('the channel broke');
    const [row] = await computers.history.list(org.id, computer.id, 1);
    expect(row).toMatchObject({ source: 'agent', status: 'failed', error_type: 'internal' });
  });
});
