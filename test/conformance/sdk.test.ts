/** The unmodified `@opencomputer/sdk` against a server as `npm start` runs it: the contract's journeys, one by one. */
import { once } from 'node:events';
import net from 'node:net';
import {
  AuthError,
  ConflictError,
  connectSession,
  NotFoundError,
  OpenComputer,
  ValidationError,
  type Event,
} from '@opencomputer/sdk';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { GROUNDS } from '../helpers/grounds.ts';
import { reply, text, toolUse, type Reply, type Script } from '../helpers/model/messages-api.ts';
import type { TestNode } from '../helpers/node.ts';
import { eventually, gate, makeWorld, streamUntil, type World } from '../helpers/world.ts';

const of = (events: Event[], type: string): Event[] => events.filter((event) => event.type === type);
const bodyOf = (event: Event | undefined): Record<string, unknown> => event?.body as Record<string, unknown>;

describe.each(GROUNDS)('the client against a server on %s', (kind) => {
  let world: World;
  let node: TestNode;
  let oc: OpenComputer;
  let agent: string;
  /** What the model answers in the test at hand. */
  let script: Script;

  beforeAll(async () => {
    world = await makeWorld((request, index) => script(request, index), {}, kind);
    node = await world.start();
    oc = node.client;
  });

  afterAll(() => world.end());

  let count = 0;
  beforeEach(async () => {
    count += 1;
    const created = await oc.agents.create({
      name: `agent-${count}`,
      prompt: 'You are a test.',
      model: 'anthropic/claude-test',
    });
    agent = created.id;
    script = () => reply(text('Done.'));
  });

  afterEach(() => expect(world.api.refused).toEqual([]));

  describe('a session', () => {
    it('is created, streams to turn.completed, and has a result', async () => {
      script = (request) =>
        request.messages.length === 1
          ? reply(text('I will look.'), toolUse('bash', { command: 'echo "$((6 * 7))"' }))
          : reply(text('It is 42.'));
      const session = await oc.sessions.create({ agent, input: 'What is 6 times 7?' });
      expect(['queued', 'running']).toContain(session.status);
      const events = await streamUntil(session, 'turn.completed');
      expect(events.map((event) => `${event.type}/${event.level}`)).toEqual([
        'user.message/user',
        'turn.started/progress',
        'agent.message/progress',
        'tool.call/progress',
        'exec.completed/progress',
        'agent.message/progress',
        'agent.result/internal',
        'agent.message/user',
        'turn.completed/user',
      ]);
      expect(bodyOf(of(events, 'exec.completed')[0])).toMatchObject({ exitCode: 0, summary: '42\n' });
      const { result, lastTurn } = await session.result();
      expect(bodyOf(result as Event)).toEqual({ text: 'It is 42.' });
      expect(lastTurn).toMatchObject({
        state: 'ok',
        yieldReason: 'completed',
        resultEventId: (result as Event).id,
      });
      expect(bodyOf(events.at(-1)).resultEventId).toBe((result as Event).id);
      expect((await session.refresh()).status).toBe('idle');
      const { data: turns } = await session.turns();
      expect(turns).toMatchObject([{ state: 'ok', attempt: 1 }]);
      expect(await session.turn(turns[0]!.id)).toMatchObject({ id: turns[0]!.id });
    });

    it('takes a steer while it runs into the next turn, and joins several', async () => {
      const hold = gate();
      script = (request) =>
        request.messages.length === 1
          ? { ...reply(text('First.')), gate: () => hold.opened }
          : reply(text('Then.'));
      const session = await oc.sessions.create({ agent, input: 'one' });
      await streamUntil(session, 'turn.started');
      const steered = await session.steer('two');
      expect(steered.seq).toBeGreaterThan(1);
      await session.steer('three');
      hold.open();
      const events = await streamUntil(session, 'turn.completed', { count: 2 });
      expect(of(events, 'turn.started').map((event) => bodyOf(event).inputFromSeq)).toEqual([2, steered.seq]);
      const last = world.api.requests.at(-1)!.body.messages.at(-1)!;
      expect(last.content).toEqual([text('two'), text('three')]);
      const { data: messages } = await session.messages();
      expect(messages.map((event) => bodyOf(event).text)).toEqual(['one', 'two', 'three', 'First.', 'Then.']);
    });

    it('asks, waits for the answer, and goes on with it', async () => {
      script = (request) =>
        request.messages.length === 1
          ? reply(toolUse('ask', { text: 'Which colour?' }))
          : reply(text('Blue it is.'));
      const session = await oc.sessions.create({ agent, input: 'Paint it.' });
      const asked = await streamUntil(session, 'turn.completed');
      expect(bodyOf(asked.at(-1))).toMatchObject({ yieldReason: 'needs_input' });
      expect(bodyOf(of(asked, 'agent.message').at(-1))).toEqual({
        text: 'Which colour?',
        awaitingInput: true,
      });
      expect((await session.refresh()).status).toBe('awaiting_input');
      await session.steer('blue');
      const events = await streamUntil(session, 'turn.completed', { after: asked.at(-1)!.seq });
      expect(bodyOf(events.at(-1))).toMatchObject({ yieldReason: 'completed' });
      const last = world.api.requests.at(-1)!.body.messages.at(-1)!;
      expect(last.content).toMatchObject([{ type: 'tool_result' }, { type: 'text', text: 'blue' }]);
    });

    it('is canceled in a model call and in a command, within two seconds, and stays steerable', async () => {
      const never = gate();
      const held: Reply = { ...reply(text('Slow.')), gate: () => never.opened };
      const answers: Reply[] = [held, reply(toolUse('bash', { command: 'sleep 60' })), reply(text('Here.'))];
      script = () => answers.shift()!;
      const session = await oc.sessions.create({ agent, input: 'go' });
      await streamUntil(session, 'turn.started');
      await eventually(() => world.api.concurrent > 0);
      const began = performance.now();
      await session.cancel();
      await session.cancel();
      const first = await streamUntil(session, 'turn.completed');
      expect(performance.now() - began).toBeLessThan(2000);
      expect(bodyOf(first.at(-1))).toMatchObject({ yieldReason: 'canceled' });
      expect((await session.refresh()).status).toBe('idle');
      await session.steer('again');
      await streamUntil(session, 'tool.call', { after: first.at(-1)!.seq });
      const again = performance.now();
      await session.cancel();
      const second = await streamUntil(session, 'turn.completed', { after: first.at(-1)!.seq });
      expect(performance.now() - again).toBeLessThan(2000);
      expect(bodyOf(second.at(-1))).toMatchObject({ yieldReason: 'canceled' });
      await session.cancel();
      await session.steer('and now');
      const third = await streamUntil(session, 'turn.completed', { after: second.at(-1)!.seq });
      expect(bodyOf(third.at(-1))).toMatchObject({ yieldReason: 'completed' });
      never.open();
    });

    it('is archived: read-only, still readable, and archiving twice is fine', async () => {
      const never = gate();
      script = () => ({ ...reply(text('Slow.')), gate: () => never.opened });
      const session = await oc.sessions.create({ agent, input: 'go' });
      await streamUntil(session, 'turn.started');
      await session.archive();
      expect((await session.refresh()).status).toBe('archived');
      await session.archive();
      await expect(session.steer('more')).rejects.toBeInstanceOf(ConflictError);
      const { data } = await session.listEvents();
      expect(bodyOf(data.at(-1))).toMatchObject({ yieldReason: 'canceled' });
      never.open();
    });

    it('keeps its limits, and says which one ended the turn', async () => {
      script = (request) =>
        request.messages.length < 40 ? reply(toolUse('bash', { command: 'true' })) : reply(text('Never.'));
      const tokens = await oc.sessions.create({ agent, input: 'go', limits: { tokens: 1500 } });
      const spent = await streamUntil(tokens, 'turn.completed');
      expect(bodyOf(spent.at(-1))).toMatchObject({ yieldReason: 'budget_exceeded' });
      await tokens.steer('more');
      const refused = await streamUntil(tokens, 'turn.completed', { after: spent.at(-1)!.seq });
      expect(bodyOf(refused.at(-1))).toMatchObject({ yieldReason: 'budget_exceeded', usage: { tokens: 0 } });

      script = () => reply(text('Yes.'));
      const turns = await oc.sessions.create({ agent, input: 'go', limits: { turns: 1 } });
      await streamUntil(turns, 'turn.completed');
      await turns.steer('more');
      const over = await streamUntil(turns, 'turn.completed', { count: 2 });
      expect(of(over, 'turn.completed').map((event) => bodyOf(event).yieldReason)).toEqual([
        'completed',
        'max_turns',
      ]);

      script = () => reply(toolUse('bash', { command: 'sleep 60' }));
      const seconds = await oc.sessions.create({ agent, input: 'go', limits: { turnSeconds: 1 } });
      const late = await streamUntil(seconds, 'turn.completed');
      expect(bodyOf(late.at(-1))).toMatchObject({ yieldReason: 'deadline_exceeded' });
      expect((await seconds.refresh()).status).toBe('idle');
    });

    it('is made once for an idempotency key or a create key', async () => {
      const params = { agent, input: 'once', idempotencyKey: `key-${count}` };
      const [one, two] = await Promise.all([oc.sessions.create(params), oc.sessions.create(params)]);
      expect(two.id).toBe(one.id);
      await expect(oc.sessions.create({ ...params, input: 'other' })).rejects.toBeInstanceOf(ConflictError);
      const keyed = await oc.sessions.create({ agent, input: 'x', key: 'ticket-1' });
      expect((await oc.sessions.create({ agent, input: 'x', key: 'ticket-1' })).id).toBe(keyed.id);
      await expect(oc.sessions.create({ agent, input: 'y', key: 'ticket-1' })).rejects.toBeInstanceOf(
        ConflictError,
      );
      await streamUntil(one, 'turn.completed');
      const steer = () => one.steer('again', { idempotencyKey: 's-1' });
      expect((await steer()).id).toBe((await steer()).id);
      const { data } = await oc.sessions.list({ agent });
      expect(data.map((session) => session.id).sort()).toEqual([keyed.id, one.id].sort());
    });

    it('is streamed and steered with a client token, and nothing else', async () => {
      const session = await oc.sessions.create({ agent, input: 'hello', metadata: { ticket: 7 } });
      const clientToken = await session.mintClientToken({ ttlSeconds: 600 });
      for (const token of [session.clientToken!, clientToken]) {
        const viewer = await connectSession({
          sessionId: session.id,
          clientToken: token,
          baseUrl: `${node.url}/v3`,
        });
        const events = await streamUntil(viewer, 'turn.completed');
        expect((await viewer.event(events[0]!.id)).id).toBe(events[0]!.id);
        expect(JSON.parse(await viewer.eventContent(events[0]!.id))).toEqual({ text: 'hello' });
        expect((await viewer.steer('more')).seq).toBeGreaterThan(0);
      }
      const thief = new OpenComputer({ apiKey: clientToken, baseUrl: `${node.url}/v3`, maxRetries: 0 });
      await expect(thief.sessions.get(session.id)).rejects.toBeInstanceOf(AuthError);
      const other = await oc.sessions.create({ agent, input: 'other' });
      const stranger = await connectSession({ sessionId: other.id, clientToken, baseUrl: `${node.url}/v3` });
      await expect(stranger.listEvents()).rejects.toBeInstanceOf(NotFoundError);
      expect((await oc.sessions.get(session.id)).metadata).toEqual({ ticket: 7 });
    });

    it('goes on streaming without gap or repetition when the connection is cut', async () => {
      const hold = gate();
      script = (request) =>
        request.messages.length === 1
          ? reply(toolUse('bash', { command: 'true' }))
          : { ...reply(text('End.')), gate: () => hold.opened };
      const proxy = await cuttingProxy(Number(new URL(node.url).port));
      const client = new OpenComputer({ apiKey: node.api_key, baseUrl: `${proxy.url}/v3` });
      const created = await oc.sessions.create({ agent, input: 'go' });
      const session = await client.sessions.get(created.id);
      const seqs: number[] = [];
      for await (const event of session.events()) {
        seqs.push(event.seq);
        if (event.type === 'exec.completed') {
          proxy.cut();
          hold.open();
        }
        if (event.type === 'turn.completed') break;
      }
      const { data } = await created.listEvents();
      expect(seqs).toEqual(data.map((event) => event.seq));
      proxy.close();
    });

    it('refuses with the error classes of the client', async () => {
      const bad = new OpenComputer({ apiKey: 'osb_nobody', baseUrl: `${node.url}/v3` });
      await expect(bad.agents.list()).rejects.toBeInstanceOf(AuthError);
      await expect(oc.sessions.get('ses_ffffffffffffffffffffffff')).rejects.toBeInstanceOf(NotFoundError);
      await expect(
        oc.sessions.create({ agent: 'agt_ffffffffffffffffffffffff', input: 'x' }),
      ).rejects.toBeInstanceOf(NotFoundError);
      const other = { name: `agent-${count}`, prompt: 'Another.', model: 'anthropic/claude-test' };
      await expect(oc.agents.create(other)).rejects.toBeInstanceOf(ConflictError);
      const codex = { name: 'codex', prompt: 'x', model: 'openai/gpt-5-codex', runtime: 'codex' } as const;
      await expect(oc.agents.create(codex)).rejects.toBeInstanceOf(ValidationError);
      const missing = oc.sessions.create({ agent, input: undefined as unknown as string });
      await expect(missing).rejects.toMatchObject({ status: 400, type: 'invalid' });
    });

    it('goes on after a model that sent half a character, in text and in a call', async () => {
      script = (request) =>
        request.messages.length === 1
          ? reply(text('half \ud83d emoji'), toolUse('bash', { command: 'echo "\ud800"' }))
          : reply(text('Whole.'));
      const session = await oc.sessions.create({ agent, input: 'go' });
      const events = await streamUntil(session, 'turn.completed');
      expect(bodyOf(events.at(-1))).toMatchObject({ yieldReason: 'completed' });
      expect((await session.refresh()).status).toBe('idle');
    });

    it('reports a model that cannot be paid or reached, and stays steerable', async () => {
      script = () => ({ error: { status: 401, type: 'authentication_error', message: 'bad key' } });
      const session = await oc.sessions.create({ agent, input: 'go' });
      const events = await streamUntil(session, 'turn.completed');
      expect(of(events, 'error.model')).toHaveLength(1);
      expect(bodyOf(events.at(-1))).toMatchObject({
        yieldReason: 'error',
        error: { code: 'authentication_error' },
      });
      expect((await session.refresh()).status).toBe('idle');
      script = () => ({ error: { status: 400, type: 'invalid_request_error', message: 'no such thing' } });
      await session.steer('again');
      await streamUntil(session, 'turn.completed', { after: events.at(-1)!.seq });
      expect((await session.refresh()).status).toBe('failed');
      script = () => reply(text('Back.'));
      await session.steer('once more');
      await eventually(async () => (await session.refresh()).status === 'idle');
    });
  });

  describe('a server that is killed', () => {
    it('in the middle of a stream: the refused reconnect is thrown, and the cursor goes on', async () => {
      const hold = gate();
      script = (request) =>
        request.messages.length === 1
          ? reply(toolUse('bash', { command: 'true' }))
          : { ...reply(text('End.')), gate: () => hold.opened };
      const port = new URL(node.url).port;
      const created = await oc.sessions.create({ agent, input: 'go' });
      const seqs: number[] = [];
      const reading = (async () => {
        for await (const event of created.events()) seqs.push(event.seq);
      })();
      const thrown = expect(reading).rejects.toThrow();
      await eventually(() => seqs.length >= 4 && world.api.concurrent > 0);
      await node.kill();
      await thrown;
      hold.open();
      node = await world.start({ OVERWINTER_PORT: port });
      oc = node.client;
      const session = await oc.sessions.get(created.id);
      const rest = await streamUntil(session, 'turn.completed', { after: seqs.at(-1)! });
      const { data } = await session.listEvents();
      expect([...seqs, ...rest.map((event) => event.seq)]).toEqual(data.map((event) => event.seq));
      expect(bodyOf(rest.at(-1))).toMatchObject({ yieldReason: 'completed' });
      expect((await session.turns()).data).toMatchObject([{ attempt: 2 }]);
    });
  });
});

/** Passes bytes through to a port of this host, and can cut every connection. */
async function cuttingProxy(port: number): Promise<{ url: string; cut: () => void; close: () => void }> {
  const sockets = new Set<net.Socket>();
  const server = net.createServer((inbound) => {
    const outbound = net.connect(port, '127.0.0.1');
    for (const socket of [inbound, outbound]) {
      sockets.add(socket);
      socket.on('error', () => undefined);
      socket.on('close', () => sockets.delete(socket));
    }
    inbound.pipe(outbound).pipe(inbound);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const cut = (): void => sockets.forEach((socket) => socket.destroy());
  const { port: own } = server.address() as net.AddressInfo;
  return { url: `http://127.0.0.1:${own}`, cut, close: () => (cut(), server.close()) };
}
