/**
 * `npm run demo:webhook`: a session's events come to the receiver of examples/webhook-receiver.ts, signed; the receiver is away for a
 * while, and loses nothing. A stand-in plays the model. Leaves nothing behind.
 */
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import fs from 'node:fs';
import type { Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import os from 'node:os';
import path from 'node:path';
import type { Session } from '@opencomputer/sdk';
import { startReceiver } from '../examples/webhook-receiver.ts';
import { reply, startMessagesApi, text } from '../test/helpers/model/messages-api.ts';
import { PROCESS_SANDBOX, startNode } from '../test/helpers/node.ts';
import { eventually, streamUntil } from '../test/helpers/world.ts';

const secret = `whsec_${randomBytes(32).toString('base64')}`;
const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'overwinter-demo-'));
const model = await startMessagesApi(() => reply(text('A webhook a day keeps polling away.')));
const node = await startNode({
  ...PROCESS_SANDBOX,
  OVERWINTER_DATA_DIR: directory,
  OVERWINTER_WEBHOOK_ALLOW: '127.0.0.1',
  OVERWINTER_WEBHOOK_DELAYS: '1',
  ANTHROPIC_BASE_URL: model.base_url,
  ANTHROPIC_API_KEY: 'sk-stand-in',
});
console.log(`server    ${node.url}, with OVERWINTER_WEBHOOK_ALLOW=127.0.0.1`);

let received = 0;
let receiver = await listen(0);
const { port } = receiver.address() as AddressInfo;
console.log(`receiver  http://127.0.0.1:${port} (examples/webhook-receiver.ts)`);

const agent = await node.client.agents.create({
  name: 'demo',
  prompt: 'Be brief.',
  model: 'anthropic/stand-in',
});
const session = await node.client.sessions.create({
  agent: agent.id,
  input: 'hello',
  metadata: { order: 42 },
});
await streamUntil(session, 'turn.completed');
await session.destinations.create({ url: `http://127.0.0.1:${port}/hook`, secret });
console.log(`session   ${session.id}, with a signed destination\n\nA turn:`);
await turn(session, 'Say something about webhooks.');
await eventually(() => received === 3);

console.log('\nThe receiver goes away, and a turn is made:');
receiver.closeAllConnections();
receiver.close();
await once(receiver, 'close');
await turn(session, 'And once more.');
await eventually(async () => (await session.deliveries.list({ status: 'failed' })).length === 3);
console.log('          three deliveries failed and wait to be sent again\n\nIt comes back:');
receiver = await listen(port);
await eventually(() => received === 6);

await node.stop();
await model.close();
receiver.closeAllConnections();
receiver.close();
fs.rmSync(directory, { recursive: true, force: true });

async function turn(session: Session, message: string): Promise<void> {
  await session.steer(message);
  await eventually(async () => (await session.refresh()).status === 'idle');
}

async function listen(port: number): Promise<Server> {
  const server = startReceiver(secret, ({ type, metadata, event }) => {
    received += 1;
    console.log(`          ${type.padEnd(16)} seq ${event.seq}, metadata ${JSON.stringify(metadata)}`);
  });
  server.listen(port, '127.0.0.1');
  await once(server, 'listening');
  return server;
}
