/**
 * Durability, proved by crashing: the server kills itself after a named effect, is started again, and the session finishes by itself
 * as if nothing had happened, for every failpoint there is.
 */
import type { Event, Session } from '@opencomputer/sdk';
import { describe, expect, it } from 'vitest';
import failpoints from '../../fixtures/failpoints.json' with { type: 'json' };
import { reply, text, toolUse, type Script } from '../helpers/model/messages-api.ts';
import type { TestNode } from '../helpers/node.ts';
import { startReceiver, type Receiver } from '../helpers/receiver.ts';
import { eventually, makeWorld } from '../helpers/world.ts';

/**
 * The model is overloaded once, then works with a file over two commands; in the second turn, after a sleep of the computer, it still
 * finds the file.
 */
function makeScript(): Script {
  let overloaded = true;
  return (request) => {
    const said = JSON.stringify(request.messages);
    if (overloaded) {
      overloaded = false;
      return { error: { status: 529, type: 'overloaded_error', message: 'Overloaded' } };
    }
    if (said.includes('found: hello')) return reply(text('It is still there.'));
    if (said.includes('second')) return reply(toolUse('bash', { command: 'echo found: $(cat note)' }));
    if (said.includes('Said.')) return reply(text('Finished.'));
    if (said.includes('"content":"hello')) return reply(toolUse('say', { text: 'Written.' }));
    return reply(
      text('Writing.'),
      toolUse('bash', { command: 'test -s note || echo hello >> note; cat note' }),
    );
  };
}

/** Effects of a driver, of keys, of deployments, and of computers that no session asks for are killed in tests of their own. */
const ELSEWHERE = /^(sandbox|secret|snapshot|release|deployment)\.|^blob\.(directory_made|all_removed)$/;
const OF_OWNERS =
  /^computer\.(delete_intended|destroyed|snapshot_removed|forgotten|deleted|reaped|rewind_copied|rewound)$/;
const reached = failpoints.filter((name) => !ELSEWHERE.test(name) && !OF_OWNERS.test(name));

describe.each(reached)('killed after %s', (failpoint) => {
  it('finishes the session after a restart, and every webhook arrives', { timeout: 40_000 }, async () => {
    const receiver = await startReceiver();
    const world = await makeWorld(makeScript(), {
      OVERWINTER_HIBERNATE_AFTER_MS: '1',
      OVERWINTER_POLL_MS: '50',
      OVERWINTER_WEBHOOK_ALLOW: '127.0.0.0/8',
    });
    try {
      const first = await world.start({ OVERWINTER_FAILPOINT: failpoint });
      await journey(first, receiver).catch(() => undefined);
      // The last effects come after the last event that the journey waits for.
      await eventually(() => first.process.signalCode === 'SIGKILL');
      const session = await journey(await world.start(), receiver);
      const log = await wholeLog(session);
      expect(log.map((event) => event.seq)).toEqual(log.map((_, index) => index + 1));
      const ends = log.filter((event) => event.type === 'turn.completed');
      expect(ends.map((event) => (event.body as { yieldReason: string }).yieldReason)).toEqual([
        'completed',
        'completed',
      ]);
      const { result } = await session.result();
      expect(result?.body).toEqual({ text: 'It is still there.' });
      await arrived(receiver, session, log);
      expect(world.api.refused).toEqual([]);
    } finally {
      await world.end();
      await receiver.close();
    }
  });
});

/** Two turns with a sleep of the computer after each. Every step may be repeated, so a second node goes on where the first died. */
async function journey(node: TestNode, receiver: Receiver): Promise<Session> {
  const { agents, sessions } = node.client;
  const agent = await agents.create({ name: 'a', prompt: 'Test.', model: 'anthropic/claude-test' });
  const session = await sessions.create({
    ...{ agent: agent.id, input: 'first', key: 'the-session' },
    webhook: `${receiver.url}/first`,
  });
  await asleep(session, 1);
  await session.steer('second', { idempotencyKey: 'second' });
  await asleep(session, 2);
  await replay(node, session, `${receiver.url}/second`);
  return session;
}

/** A destination of later, which gets what was before it. */
async function replay(node: TestNode, session: Session, url: string): Promise<void> {
  const known = (await session.destinations.list()).find((one) => one.url === url);
  const { id } = known ?? (await session.destinations.create({ url }));
  const response = await fetch(`${node.url}/v3/sessions/${session.id}/destinations/${id}/replay`, {
    method: 'POST',
    headers: { authorization: `Bearer ${node.api_key}`, 'content-type': 'application/json' },
    body: '{"from_seq":1}',
  });
  if (!response.ok) throw new Error(`replay answered ${response.status}`);
}

/** Every event of level `user` has come to both destinations, under its own id. */
async function arrived(receiver: Receiver, session: Session, log: Event[]): Promise<void> {
  const owed = log.filter(({ level }) => level === 'user').map(({ id }) => id);
  for (const path of ['/first', '/second']) {
    const missing = (): string[] => {
      const came = receiver.received.filter((one) => one.path === path);
      return owed.filter((id) => !came.some(({ headers }) => headers['webhook-id'] === id));
    };
    await eventually(() => missing().length === 0);
  }
  await eventually(async () => {
    const { length } = await session.deliveries.list({ status: 'delivered', limit: 100 });
    return length === 2 * owed.length;
  });
}

/** Waits for the end of the turn and for the sleep that follows it. */
async function asleep(session: Session, turns: number): Promise<void> {
  await eventually(async () => {
    const log = await wholeLog(session);
    const ended = log.filter((event) => event.type === 'turn.completed');
    const slept = log.findLastIndex((event) => event.type === 'computer.hibernated');
    return ended.length >= turns && slept > log.indexOf(ended[turns - 1]!);
  }, 20_000);
}

async function wholeLog(session: Session): Promise<Event[]> {
  const query = { level: 'runtime', limit: 500 } as unknown as Parameters<Session['listEvents']>[0];
  return (await session.listEvents(query)).data;
}
