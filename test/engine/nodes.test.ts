/** Several nodes on one PostgreSQL: they share the work, take over from the dead, and shut out those that only seemed dead. */
import fs from 'node:fs';
import path from 'node:path';
import type { Event, Session } from '@opencomputer/sdk';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { reply, text, toolUse, type Script } from '../helpers/model/messages-api.ts';
import type { TestNode } from '../helpers/node.ts';
import { eventually, gate, makeWorld, streamUntil, type World } from '../helpers/world.ts';

const TTL_MS = 1500;

let world: World;
let script: Script;
let one: TestNode;
let two: TestNode;
let agent: string;

beforeEach(async () => {
  script = () => reply(text('Done.'));
  const settings = { OVERWINTER_LEASE_TTL_MS: String(TTL_MS), OVERWINTER_POLL_MS: '100' };
  world = await makeWorld((request, index) => script(request, index), settings, 'postgres');
  [one, two] = [await world.start(), await world.start()];
  agent = (await one.client.agents.create({ name: 'a', prompt: 'Test.', model: 'anthropic/claude-test' })).id;
});

afterEach(() => world.end());

/** The node that runs the session's turn, and the other one. */
async function holder(session: Session): Promise<[TestNode, TestNode]> {
  const [log, nodes] = [await wholeLog(session), await Promise.all([nodeId(one), nodeId(two)])];
  const attempt = log.findLast((event) => event.type === 'turn.attempted');
  return nodes[0] === (attempt!.body as { node: string }).node ? [one, two] : [two, one];
}

async function nodeId(node: TestNode): Promise<string> {
  const answer = await fetch(`${node.url}/healthz`);
  return ((await answer.json()) as { node: string }).node;
}

async function wholeLog(session: Session): Promise<Event[]> {
  const query = { level: 'runtime', limit: 500 } as unknown as Parameters<Session['listEvents']>[0];
  return (await session.listEvents(query)).data;
}

/** Whether any process of this machine has this command line. */
function isRunning(command: string): boolean {
  return fs.globSync('/proc/[0-9]*/cmdline').some((file) => {
    try {
      return fs.readFileSync(file, 'utf8').replaceAll('\0', ' ').trim() === command;
    } catch {
      return false;
    }
  });
}

const from = (node: TestNode, id: string) => node.client.sessions.get(id);

describe('two nodes', () => {
  it('take over the turn of a node that is killed in a model call', async () => {
    const hold = gate();
    script = (_, index) =>
      index === 0 ? { ...reply(text('Lost.')), gate: () => hold.opened } : reply(text('Taken over.'));
    const session = await one.client.sessions.create({ agent, input: 'go' });
    await eventually(() => world.api.concurrent > 0);
    const [dead, heir] = await holder(session);
    await dead.kill();
    const killed_at = performance.now();
    const events = await streamUntil(await from(heir, session.id), 'turn.completed');
    expect(performance.now() - killed_at).toBeLessThan(TTL_MS + 2000);
    expect(events.at(-1)!.body).toMatchObject({ yieldReason: 'completed' });
    expect((await (await from(heir, session.id)).turns()).data).toMatchObject([{ attempt: 2, state: 'ok' }]);
    expect(world.api.refused).toEqual([]);
    hold.open();
  });

  it('never rerun a command whose node died under it, and say so to the model', async () => {
    script = (request) =>
      request.messages.length === 1
        ? reply(toolUse('bash', { command: 'echo ran >> marks; exec sleep 30' }))
        : reply(text('I see.'));
    const session = await one.client.sessions.create({ agent, input: 'go' });
    await streamUntil(session, 'tool.call');
    const [dead, heir] = await holder(session);
    await eventually(async () =>
      (await wholeLog(session)).some((event) => event.type === 'computer.attached'),
    );
    await dead.kill();
    await streamUntil(await from(heir, session.id), 'turn.completed');
    const results = world.api.requests.at(-1)!.body.messages.at(-1)!.content as {
      content: string;
      is_error: boolean;
    }[];
    expect(results[0]).toMatchObject({ type: 'tool_result', is_error: true });
    expect(results[0]!.content).toContain('may or may not have taken effect');
  });

  it('shut out a node that was stopped beyond its lease: it writes nothing and starts nothing', async () => {
    const second = path.join(world.directory, 'second');
    const pause = `3.0${process.pid}`;
    script = (request) =>
      request.messages.length === 1 && JSON.stringify(request.messages).includes('two commands')
        ? reply(
            toolUse('bash', { command: `sleep ${pause}` }),
            toolUse('bash', { command: `touch ${second}` }),
          )
        : reply(text('Taken over.'));
    const session = await one.client.sessions.create({ agent, input: 'two commands' });
    await eventually(() => isRunning(`sleep ${pause}`));
    const [zombie, heir] = await holder(session);
    zombie.process.kill('SIGSTOP');
    await streamUntil(await from(heir, session.id), 'turn.completed');
    const before = await wholeLog(await from(heir, session.id));
    // Its first command goes on without it, and is over when the zombie wakes up.
    await eventually(() => !isRunning(`sleep ${pause}`));
    zombie.process.kill('SIGCONT');
    const next = await zombie.client.sessions.create({ agent, input: 'another' });
    await streamUntil(next, 'turn.completed');
    expect(await wholeLog(await from(heir, session.id))).toEqual(before);
    expect(before.filter((event) => event.type === 'turn.completed')).toHaveLength(1);
    expect(fs.existsSync(second)).toBe(false);
  });

  it('pass a message and a stream across: what is said on one is seen on the other', async () => {
    const session = await one.client.sessions.create({ agent, input: 'go' });
    await streamUntil(session, 'turn.completed');
    for (let count = 2; count <= 6; count += 1) {
      const [speaker, listener] = count % 2 === 0 ? [one, two] : [two, one];
      const { seq } = await (await from(speaker, session.id)).steer(`message ${count}`);
      const seen = await streamUntil(await from(listener, session.id), 'turn.completed', { after: seq - 1 });
      expect(seen[0]!.seq).toBe(seq);
    }
  });

  it('end a canceled turn within two seconds although its runner hangs', async () => {
    const hold = gate();
    script = (request) =>
      request.messages.length === 1
        ? reply(toolUse('bash', { command: 'true' }))
        : { ...reply(text('Slow.')), gate: () => hold.opened };
    const session = await one.client.sessions.create({ agent, input: 'go' });
    await streamUntil(session, 'exec.completed');
    await eventually(() => world.api.concurrent > 0);
    const [hung, other] = await holder(session);
    hung.process.kill('SIGSTOP');
    const canceled_at = performance.now();
    const seen = await from(other, session.id);
    await seen.cancel();
    const events = await streamUntil(seen, 'turn.completed');
    expect(performance.now() - canceled_at).toBeLessThan(2000);
    expect(events.at(-1)!.body).toMatchObject({ yieldReason: 'canceled' });
    hung.process.kill('SIGCONT');
    hold.open();
  });
});
