/** The unmodified client of the contract, against this server. */
import { connectSession, OpenComputer, type Event } from '@opencomputer/sdk';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { AGENT, startServer, type TestServer } from '../helpers/http.ts';
import { playTurn } from '../helpers/runtime.ts';

let server: TestServer;
let client: OpenComputer;
beforeAll(async () => {
  server = await startServer();
  client = new OpenComputer({ apiKey: server.org.key, baseUrl: `${server.url}/v3` });
});
afterAll(() => server.close());

async function collect(events: AsyncIterable<Event>, until: (event: Event) => boolean): Promise<Event[]> {
  const seen: Event[] = [];
  for await (const event of events) {
    seen.push(event);
    if (until(event)) break;
  }
  return seen;
}

describe('the client', () => {
  it('runs the whole journey of a session', async () => {
    const agent = await client.agents.create({ ...AGENT, key: 'sk-client-key', limits: { turnSeconds: 60 } });
    expect([agent.revision, agent.limits, agent.promptHash?.length]).toEqual([1, { turnSeconds: 60 }, 64]);
    const create = { agent: agent.id, input: 'hello', metadata: { some_key: 1 }, idempotencyKey: 'create-1' };
    const session = await client.sessions.create(create);
    expect([session.status, session.metadata]).toEqual(['queued', { some_key: 1 }]);
    expect((await client.sessions.create(create)).id).toBe(session.id);

    const browser = await connectSession({
      sessionId: session.id,
      clientToken: await session.mintClientToken({ scopes: ['read', 'steer'], ttlSeconds: 600 }),
      baseUrl: `${server.url}/v3`,
    });
    const leaving = new AbortController();
    const watching = collect(
      browser.events({ signal: leaving.signal }),
      ({ type }) => type === 'turn.completed',
    );
    await playTurn(server.runtime, session.id, 'first answer');
    const events = await watching;
    expect(events.map(({ type }) => type)).toContain('agent.message');
    expect(events.at(-1)?.body).toMatchObject({ yieldReason: 'completed' });

    const steered = await browser.steer('more', { idempotencyKey: 'steer-1' });
    expect(await browser.steer('more', { idempotencyKey: 'steer-1' })).toEqual(steered);
    await playTurn(server.runtime, session.id, 'second answer');
    const { lastTurn, result } = await session.result();
    expect(lastTurn).toMatchObject({ state: 'ok', yieldReason: 'completed' });
    expect(result?.body).toEqual({ text: 'second answer' });
    expect((await session.turns()).data).toHaveLength(2);
    expect((await session.turn(lastTurn!.id!)).resultEventId).toBe(result?.id);
    const texts = (await browser.messages()).data.map((event) => (event.body as { text: string }).text);
    expect(texts).toEqual(['hello', 'first answer', 'more', 'second answer']);
    expect(JSON.parse(await browser.eventContent(result!.id))).toEqual({ text: 'second answer' });
    expect(await session.event(result!.id)).toEqual(result);
    await session.cancel();
    await session.archive();
    expect((await session.refresh()).status).toBe('archived');
    expect((await client.sessions.list({ agent: agent.id, limit: 10 })).data.map(({ id }) => id)).toEqual([
      session.id,
    ]);
    leaving.abort();
  });

  it('gets its own error classes', async () => {
    await expect(client.sessions.get('ses_none')).rejects.toMatchObject({
      name: 'NotFoundError',
      type: 'not_found',
    });
    const stranger = new OpenComputer({ apiKey: 'osb_wrong', baseUrl: `${server.url}/v3` });
    await expect(stranger.agents.list()).rejects.toMatchObject({ name: 'AuthError', status: 401 });
    await expect(client.agents.create({ ...AGENT, prompt: 'Other.' })).rejects.toMatchObject({
      name: 'ConflictError',
    });
    await expect(client.agents.create({ ...AGENT, name: 'x', runtime: 'pi' })).rejects.toMatchObject({
      ...{ name: 'ValidationError', type: 'runtime_unavailable' },
    });
  });

  it('manages credentials', async () => {
    const made = await client.credentials.create({ key: 'sk-managed-by-sdk', name: 'mine', isDefault: true });
    expect(made).toMatchObject({ provider: 'anthropic', isDefault: true, last4: '-sdk' });
    expect((await client.credentials.rotate(made.id, 'sk-other-value')).last4).toBe('alue');
    await client.credentials.setDefault({ credential: made.id, provider: 'anthropic' });
    expect((await client.credentials.list()).map(({ id }) => id)).toContain(made.id);
    await client.credentials.delete(made.id);
    expect((await client.credentials.list()).map(({ id }) => id)).not.toContain(made.id);
  });
});
