/** Webhooks from a server as `npm start` runs it, arranged with the unmodified client and judged by the verifiers that receivers use. */
import { verifyWebhook, type DeliveryStatus, type Session } from '@opencomputer/sdk';
import { Webhook } from 'standardwebhooks';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { GROUNDS } from '../helpers/grounds.ts';
import { reply, text } from '../helpers/model/messages-api.ts';
import type { TestNode } from '../helpers/node.ts';
import { startReceiver, type Received, type Receiver } from '../helpers/receiver.ts';
import { eventually, gate, makeWorld, streamUntil, type World } from '../helpers/world.ts';

const SECRET = `whsec_${Buffer.from('a secret of at least 24 bytes').toString('base64')}`;
const WEBHOOKS = {
  OVERWINTER_WEBHOOK_ALLOW: '127.0.0.0/8',
  OVERWINTER_WEBHOOK_ATTEMPTS: '3',
  OVERWINTER_WEBHOOK_DELAYS: '0',
  OVERWINTER_POLL_MS: '50',
};

type Envelope = {
  type: string;
  sessionId: string;
  eventId: string;
  metadata: unknown;
  event: { id: string; seq: number; level: string; type: string; turn_id: string | null; body: Json };
};
type Json = Record<string, unknown>;
const envelopeOf = (received: Received) => JSON.parse(received.body) as Envelope;

describe.each(GROUNDS)('webhooks of a server on %s', (kind) => {
  let world: World;
  let node: TestNode;
  let receiver: Receiver;
  let agent: string;

  beforeAll(async () => {
    world = await makeWorld(() => reply(text('Done.')), WEBHOOKS, kind);
    node = await world.start();
    const made = await node.client.agents.create({ name: 'a', prompt: 'p', model: 'anthropic/claude-test' });
    agent = made.id;
  });
  afterAll(() => world.end());
  beforeEach(async () => {
    receiver = await startReceiver();
  });
  afterEach(() => receiver.close());

  const arrived = (type: string, count = 1) =>
    eventually(() => {
      const found = receiver.received.filter((one) => envelopeOf(one).type === type);
      return found.length >= count ? found : undefined;
    });
  const settled = (session: Session, status: DeliveryStatus) =>
    eventually(async () => (await session.deliveries.list({ status }))[0]);
  /** A session at rest, so that a destination added now sees the next turn only. */
  const restingSession = async (): Promise<Session> => {
    const session = await node.client.sessions.create({ agent, input: 'begin' });
    await streamUntil(session, 'turn.completed');
    return session;
  };
  const api = async (what: string, body?: object): Promise<{ status: number; json: Json }> => {
    const [method = '', path = ''] = what.split(' ');
    const response = await fetch(`${node.url}/v3${path}`, {
      method,
      headers: { authorization: `Bearer ${node.api_key}`, 'content-type': 'application/json' },
      ...(body ? { body: JSON.stringify(body) } : {}),
    });
    const answer = await response.text();
    return { status: response.status, json: answer === '' ? {} : (JSON.parse(answer) as Json) };
  };

  it('bring every user-level event of a session made with `webhook`, as the stream has it', async () => {
    const metadata = { route: 'r-1', nested: { Key: ['ä', 1.5] } };
    const session = await node.client.sessions.create({
      agent,
      input: 'hi',
      webhook: receiver.url,
      metadata,
    });
    const events = await streamUntil(session, 'turn.completed', { level: 'user' });
    const received = await eventually(() =>
      receiver.received.length >= events.length ? receiver.received : undefined,
    );
    const envelopes = received.map(envelopeOf).toSorted((a, b) => a.event.seq - b.event.seq);
    expect(envelopes.map(({ eventId }) => eventId)).toEqual(events.map(({ id }) => id));
    expect(envelopes.map(({ type }) => type)).toEqual(['user.message', 'agent.message', 'turn.completed']);
    for (const envelope of envelopes) {
      expect(envelope).toMatchObject({ sessionId: session.id, metadata, eventId: envelope.event.id });
      const stored = await api(`GET /sessions/${session.id}/events/${envelope.eventId}`);
      expect(envelope.event).toEqual(stored.json);
    }
    expect(received[0]!.headers).toMatchObject({
      ...{ 'content-type': 'application/json', 'x-oc-session-id': session.id },
      'x-oc-delivery-id': expect.stringMatching(/^dlv_[0-9a-f]{24}$/),
      'webhook-id': envelopeOf(received[0]!).eventId,
    });
    expect(received[0]!.headers).not.toHaveProperty('webhook-signature');
  });

  it('are accepted by both verifiers, which refuse altered, stale and foreign ones', async () => {
    const session = await restingSession();
    await session.destinations.create({ url: receiver.url, secret: SECRET });
    await session.steer('again');
    const [received] = await arrived('turn.completed');
    const { body, headers } = received!;
    const verified = await verifyWebhook(body, headers, SECRET);
    expect(verified).toMatchObject({
      ...{ type: 'turn.completed', sessionId: session.id, dedupeId: headers['webhook-id'] },
      deliveryId: headers['x-oc-delivery-id'],
    });
    expect(new Webhook(SECRET).verify(body, headers)).toEqual(JSON.parse(body));

    const stale = { ...headers, 'webhook-timestamp': String(Number(headers['webhook-timestamp']) - 301) };
    const other_id = { ...headers, 'webhook-id': 'evt_000000000000000000000000' };
    const later = { nowSeconds: Number(headers['webhook-timestamp']) + 301 };
    const altered = body.replace('turn.completed', 'turn.canceled!');
    const foreign = `whsec_${Buffer.from('another secret, not of here').toString('base64')}`;
    for (const [sent, bag, secret] of [
      [altered, headers, SECRET],
      [body, stale, SECRET],
      [body, other_id, SECRET],
      [body, headers, foreign],
    ] as const) {
      await expect(verifyWebhook(sent, bag, secret)).rejects.toThrow();
      expect(() => new Webhook(secret).verify(sent, bag)).toThrow();
    }
    await expect(verifyWebhook(body, headers, SECRET, later)).rejects.toThrow('tolerance');
  });

  it.each(['testsecret', 'whsec_not base64!', 'whsec_YWJj', 'YWJj', 'a=b', 'whsec_'])(
    'are signed with the key that the client derives from the secret "%s"',
    async (secret) => {
      const session = await node.client.sessions.create({
        agent,
        input: 'x',
        destinations: [{ url: receiver.url, types: ['user.message'], secret } as never],
      });
      const [received] = await arrived('user.message');
      await expect(verifyWebhook(received!.body, received!.headers, secret)).resolves.toMatchObject({
        sessionId: session.id,
      });
    },
  );

  it('carry two signatures after a rotation, for receivers that know the old or the new secret', async () => {
    const session = await restingSession();
    const { id, hasSecret } = await session.destinations.create({ url: receiver.url, secret: SECRET });
    expect(hasSecret).toBe(true);
    const next = `whsec_${Buffer.from('the next secret of the endpoint').toString('base64')}`;
    await session.destinations.update(id, { secret: next });
    await session.steer('again');
    const [received] = await arrived('turn.completed');
    expect(received!.headers['webhook-signature']!.split(' ')).toHaveLength(2);
    for (const secret of [SECRET, next]) {
      await verifyWebhook(received!.body, received!.headers, secret);
      new Webhook(secret).verify(received!.body, received!.headers);
    }
    const { status, json } = await api(`PATCH /sessions/${session.id}/destinations/${id}`, { secret: null });
    expect([status, json['has_secret']]).toEqual([200, false]);
    await session.steer('unsigned');
    const [, unsigned] = await arrived('turn.completed', 2);
    expect(unsigned!.headers).not.toHaveProperty('webhook-signature');
  });

  it('keep to the level and the types of their destination, and leave `raw` out unless it is asked for', async () => {
    const [lean, whole] = await Promise.all([startReceiver(), startReceiver()]);
    const session = await node.client.sessions.create({
      agent,
      input: { text: 'hi', raw: { blob: 'raw' } },
      destinations: [
        { url: receiver.url, level: 'progress' },
        { url: lean.url, types: ['user.*'] },
        { url: whole.url, types: ['user.message', 'turn.*'], includeRaw: true },
      ],
    });
    const seen = await streamUntil(session, 'turn.completed', { level: 'progress' });
    await arrived('turn.completed');
    await eventually(() => receiver.received.length >= seen.length);
    await eventually(() => whole.received.length >= 2);
    const types = (one: Receiver) => one.received.map((received) => envelopeOf(received).type).toSorted();
    expect(types(receiver)).toEqual(seen.map(({ type }) => type).toSorted());
    expect(types(lean)).toEqual(['user.message']);
    expect(types(whole)).toEqual(['turn.completed', 'user.message']);
    expect(envelopeOf(lean.received[0]!).event.body).toEqual({ text: 'hi' });
    const with_raw = whole.received.map(envelopeOf).find(({ type }) => type === 'user.message');
    expect(with_raw?.event.body).toEqual({ text: 'hi', raw: { blob: 'raw' } });
    await Promise.all([lean.close(), whole.close()]);
  });

  it('are tried again under the same id, signed anew, until they are taken', async () => {
    receiver.answer((_, count) => (count < 3 ? { status: 500, body: 'not yet' } : 204));
    const session = await restingSession();
    const { id } = await session.destinations.create({
      ...{ url: receiver.url, secret: SECRET, types: ['turn.completed'] },
    });
    await session.steer('again');
    const delivery = await settled(session, 'delivered');
    expect(delivery).toMatchObject({ destination: id, attempts: 3, responseCode: 204, session: session.id });
    expect(new Set(receiver.received.map(({ headers }) => headers['webhook-id'])).size).toBe(1);
    expect(new Set(receiver.received.map(({ headers }) => headers['x-oc-delivery-id']))).toEqual(
      new Set([delivery.id]),
    );
    for (const { body, headers } of receiver.received) await verifyWebhook(body, headers, SECRET);
  });

  it('end as dead letters after the last attempt, with what the receiver said, and can be sent again', async () => {
    receiver.answer(() => ({ status: 503, body: 'é'.repeat(1000) }));
    const session = await restingSession();
    await session.destinations.create({ url: receiver.url, types: ['turn.completed'] });
    await session.steer('again');
    const dead = await settled(session, 'dead_letter');
    expect(dead).toMatchObject({ attempts: 3, responseCode: 503, error: 'the receiver answered 503' });
    const { json } = await api(`GET /sessions/${session.id}/deliveries/${dead.id}`);
    expect(json['response_body']).toBe('é'.repeat(400));
    receiver.answer(() => 200);
    await session.deliveries.redeliver(dead.id);
    expect(await settled(session, 'delivered')).toMatchObject({
      id: dead.id,
      attempts: 4,
      responseCode: 200,
    });
    await session.deliveries.redeliver(dead.id);
    await eventually(() => receiver.received.length === 5);
    expect((await session.deliveries.get(dead.id)).attempts).toBe(5);
  });

  it.each([
    [400, 'bad request'],
    [404, 'gone'],
    [301, 'elsewhere'],
  ])('are given up at once after a %d', async (status, body) => {
    receiver.answer(() => ({ status, body, headers: { location: 'http://169.254.169.254/' } }));
    const session = await restingSession();
    await session.destinations.create({ url: receiver.url, types: ['turn.completed'] });
    await session.steer('again');
    expect(await settled(session, 'dead_letter')).toMatchObject({ attempts: 1, responseCode: status });
    expect(receiver.received).toHaveLength(1);
  });

  it('wait as long as `Retry-After` says', async () => {
    const at: number[] = [];
    receiver.answer((_, count) => {
      at.push(performance.now());
      return count === 1 ? { status: 429, headers: { 'retry-after': '1' } } : 204;
    });
    const session = await restingSession();
    await session.destinations.create({ url: receiver.url, types: ['turn.completed'] });
    await session.steer('again');
    expect(await settled(session, 'delivered')).toMatchObject({ attempts: 2 });
    expect(at[1]! - at[0]!).toBeGreaterThan(950);
  });

  it('cease with a pause or a deletion, and a list shows what there is', async () => {
    const session = await restingSession();
    const paused = await session.destinations.create({ url: `${receiver.url}/paused` });
    const deleted = await session.destinations.create({ url: `${receiver.url}/deleted` });
    const kept = await session.destinations.create({
      url: `${receiver.url}/kept`,
      types: ['turn.completed'],
    });
    await session.destinations.update(paused.id, { enabled: false });
    await session.destinations.delete(deleted.id);
    await session.steer('again');
    await arrived('turn.completed');
    expect(receiver.received.map(({ path }) => path)).toEqual(['/kept']);
    const list = await session.destinations.list();
    expect(list.map(({ id, enabled }) => [id, enabled])).toEqual([
      [kept.id, true],
      [paused.id, false],
    ]);
    await expect(session.destinations.get(deleted.id)).rejects.toMatchObject({ status: 404 });
    expect(await session.destinations.update(kept.id, { types: null })).toMatchObject({ types: null });
  });

  it('come from destinations of an agent and of the org, for sessions old and new', async () => {
    const session = await restingSession();
    const of_agent = await api(`POST /agents/${agent}/destinations`, {
      url: `${receiver.url}/agent`,
      types: ['turn.completed'],
    });
    const of_org = await api('POST /destinations', { url: `${receiver.url}/org`, types: ['turn.completed'] });
    expect([of_agent.json, of_org.json]).toMatchObject([
      { session: null, agent },
      { session: null, agent: null },
    ]);
    await session.steer('again');
    await arrived('turn.completed', 2);
    expect(receiver.received.map(({ path }) => path).toSorted()).toEqual(['/agent', '/org']);
    const { json } = await api(`GET /destinations/${of_org.json['id'] as string}/deliveries`);
    expect(json['data']).toMatchObject([{ session: session.id }]);
    for (const one of [
      `/agents/${agent}/destinations/${of_agent.json['id'] as string}`,
      `/destinations/${of_org.json['id'] as string}`,
    ])
      expect((await api(`DELETE ${one}`)).status).toBe(204);
  });

  it('can be tried with a ping, and replayed from any seq', async () => {
    const session = await restingSession();
    const { id } = await session.destinations.create({ url: receiver.url, secret: SECRET });
    const path = `/sessions/${session.id}/destinations/${id}`;
    expect((await api(`POST ${path}/test`)).json).toMatchObject({ ok: true, response_code: 204 });
    const { body, headers } = receiver.received[0]!;
    expect(await verifyWebhook(body, headers, SECRET)).toMatchObject({ type: 'webhook.test' });
    receiver.answer(() => ({ status: 418, body: 'short and stout' }));
    expect((await api(`POST ${path}/test`)).json).toEqual({
      ...{ ok: false, response_code: 418, response_body: 'short and stout' },
      error: 'the receiver answered 418',
    });
    receiver.answer(() => 204);
    const { status, json } = await api(`POST ${path}/replay`, { from_seq: 1 });
    expect([status, json]).toEqual([202, { queued: 3, next_seq: null }]);
    await arrived('turn.completed');
    await eventually(() => receiver.received.length === 5);
  });

  it('are not sent where they may not go, and a bad destination is said so', async () => {
    const session = await restingSession();
    for (const url of [
      'http://10.0.0.1/',
      'https://[::1]/',
      'ftp://127.0.0.1/',
      'nonsense',
      'https://user:pw@127.0.0.1/',
    ]) {
      const { status, json } = await api(`POST /sessions/${session.id}/destinations`, { url });
      expect([url, status, (json['error'] as Json)['param']]).toEqual([url, 400, 'url']);
      await expect(
        node.client.sessions.create({ agent, input: 'x', destinations: [{ url: receiver.url }, { url }] }),
      ).rejects.toMatchObject({ status: 400, param: 'destinations.1.url' });
    }
    for (const fields of [{ level: 'runtime' }, { types: ['*'] }, { types: 'turn' }, { secret: '' }]) {
      const { status } = await api(`POST /sessions/${session.id}/destinations`, {
        url: receiver.url,
        ...fields,
      });
      expect([fields, status]).toEqual([fields, 400]);
    }
    const limit = Array.from({ length: 20 }, () => session.destinations.create({ url: receiver.url }));
    await Promise.all(limit);
    await expect(session.destinations.create({ url: receiver.url })).rejects.toMatchObject({ status: 409 });
  });

  it('of one endpoint that hangs hold up no other', async () => {
    const hung = gate();
    const hanging = await startReceiver(async () => {
      await hung.opened;
      return 204;
    });
    const session = await restingSession();
    await session.destinations.create({ url: hanging.url, level: 'internal' });
    await session.destinations.create({ url: receiver.url, types: ['turn.completed'] });
    for (let count = 1; count <= 5; count += 1) {
      await session.steer(`again ${count}`);
      await arrived('turn.completed', count);
    }
    expect(hanging.received.length).toBeLessThanOrEqual(4);
    hung.open();
    await eventually(async () => (await session.deliveries.list({ status: 'delivering' })).length === 0);
    await hanging.close();
  });
});
