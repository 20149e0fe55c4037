/** Webhooks of several nodes on one database: the work is shared, and nodes that die take nothing with them. */
import type { Session } from '@opencomputer/sdk';
import { describe, expect, it } from 'vitest';
import { reply, text } from '../helpers/model/messages-api.ts';
import type { TestNode } from '../helpers/node.ts';
import { startReceiver } from '../helpers/receiver.ts';
import { eventually, gate, makeWorld, streamUntil } from '../helpers/world.ts';

const WEBHOOKS = {
  OVERWINTER_WEBHOOK_ALLOW: '127.0.0.0/8',
  OVERWINTER_WEBHOOK_DELAYS: '0',
  OVERWINTER_POLL_MS: '100',
};

describe('webhooks of three nodes', { timeout: 90_000 }, () => {
  it('all arrive under stable ids, though a third of the requests fails and two nodes are killed', async () => {
    const world = await makeWorld(() => reply(text('Done.')), WEBHOOKS, 'postgres');
    const nodes = [await world.start(), await world.start(), await world.start()];
    const [last] = nodes as [TestNode, ...TestNode[]];
    const taken: string[] = [];
    const receiver = await startReceiver((received, count) => {
      // Whoever asks in the middle of it all dies of it, with requests under way.
      if (count === 25) nodes[1]!.process.kill('SIGKILL');
      if (count === 60) nodes[2]!.process.kill('SIGKILL');
      if (count % 3 === 0) return 500;
      taken.push(received.headers['webhook-id']!);
      return 204;
    });
    const { id: agent } = await last.client.agents.create({
      ...{ name: 'a', prompt: 'p', model: 'anthropic/claude-test' },
    });
    const sessions = await Promise.all(
      Array.from({ length: 30 }, (_, index) =>
        last.client.sessions.create({ agent, input: `${index}`, webhook: `${receiver.url}/${index}` }),
      ),
    );
    const owed = (await Promise.all(sessions.map(userEvents))).flat();
    await Promise.all([nodes[1]!.ended, nodes[2]!.ended]);
    await eventually(() => owed.every((id) => taken.includes(id)), 60_000);
    await eventually(async () => (await Promise.all(sessions.map(undelivered))).every((left) => left === 0));
    expect(new Set(taken)).toEqual(new Set(owed));
    await world.end();
    await receiver.close();
  });

  it('go on with the rest while an endpoint hangs, and catch up with it when it answers', async () => {
    const world = await makeWorld(() => reply(text('Done.')), WEBHOOKS, 'postgres');
    const node = await world.start();
    await world.start();
    const hung = gate();
    const hanging = await startReceiver(async () => {
      await hung.opened;
      return 204;
    });
    const receiver = await startReceiver();
    const { id: agent } = await node.client.agents.create({
      ...{ name: 'a', prompt: 'p', model: 'anthropic/claude-test' },
    });
    const sessions = await Promise.all(
      Array.from({ length: 40 }, (_, index) =>
        node.client.sessions.create({
          ...{ agent, input: `${index}` },
          destinations: [{ url: hanging.url }, { url: receiver.url }],
        }),
      ),
    );
    const owed = (await Promise.all(sessions.map(userEvents))).flat();
    await eventually(() => receiver.received.length === owed.length);
    // Four from each node, before any of them came back.
    expect(hanging.received.length).toBeLessThanOrEqual(8);
    hung.open();
    await eventually(() => hanging.received.length === owed.length, 60_000);
    await world.end();
    await Promise.all([receiver.close(), hanging.close()]);
  });
});

/** The ids of a session's events of level `user`, once its turn has ended. */
async function userEvents(session: Session): Promise<string[]> {
  const events = await streamUntil(session, 'turn.completed', { level: 'user' });
  return events.map(({ id }) => id);
}

async function undelivered(session: Session): Promise<number> {
  const deliveries = await session.deliveries.list({ limit: 100 });
  return deliveries.filter(({ status }) => status !== 'delivered').length;
}
