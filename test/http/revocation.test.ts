/** A key or token that is revoked or expires ends the streams it opened, on every node, within a second; and only those. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createRevocations } from '../../src/http/revocations.ts';
import { testGround, type TestGround } from '../helpers/grounds.ts';
import { makeKey, makeSession, makeToken, startServer, type TestServer } from '../helpers/http.ts';
import { play } from '../helpers/runtime.ts';
import { openStream, seqs, type Stream } from '../helpers/stream.ts';
import { gate } from '../helpers/world.ts';

const WITHIN_MS = 1000;
/** The database's clock and this process's own, and the rounding of a timer. */
const CLOCKS_DIFFER_MS = 100;

describe('an open stream', () => {
  let ground: TestGround;
  let a: TestServer;
  let b: TestServer;
  let session: string;

  beforeAll(async () => {
    ground = await testGround('postgres');
    a = await startServer({}, {}, ground);
    b = await startServer({}, {}, ground);
    session = (await makeSession(a)).id;
  });
  afterAll(async () => {
    await a.close();
    await b.close();
    await ground.drop();
  });

  const open = async (node: TestServer, credential: string): Promise<Stream> => {
    const stream = await openStream(`${node.url}/v3/sessions/${session}/events?stream=sse`, {
      authorization: `Bearer ${credential}`,
    });
    expect(stream.status).toBe(200);
    await stream.until((frames) => seqs(frames).includes(2));
    return stream;
  };

  /** In ms, from before `act` to the end of the stream. */
  const endsAfter = async (stream: Stream, act: () => Promise<unknown>): Promise<number> => {
    const start = performance.now();
    const [end] = await Promise.all([stream.ended().then(() => performance.now()), act()]);
    return end - start;
  };

  const token = async (fields = {}) => await makeToken(a.runtime, a.org.id, session, fields);
  const key = async (fields = {}) => await makeKey(a.runtime, a.org.id, { scopes: ['read'], ...fields });

  it.each([
    ['another node', () => b],
    ['the same node', () => a],
  ])('ends within a second of the revocation of its client token: %s', async (_, node) => {
    const { id, token: presented } = await token();
    const revoke = () => a.ask(`DELETE /v3/sessions/${session}/client-tokens/${id}`);
    expect(await endsAfter(await open(node(), presented), revoke)).toBeLessThan(WITHIN_MS);
    const again = await b.ask(`GET /v3/sessions/${session}/events`, { key: presented });
    expect(again.status).toBe(401);
  });

  it.each([
    ['another node', () => b],
    ['the same node', () => a],
  ])('ends within a second of the revocation of its API key: %s', async (_, node) => {
    const { key: presented, key_id } = await key();
    const revoke = () => a.ask(`DELETE /v3/api-keys/${key_id}`);
    expect(await endsAfter(await open(node(), presented), revoke)).toBeLessThan(WITHIN_MS);
    expect((await b.ask(`GET /v3/sessions/${session}`, { key: presented })).status).toBe(401);
  });

  it('ends within a second of the revocation of the API key that asked for its client token', async () => {
    const [own, other] = [await key({ scopes: ['write'] }), await key({ scopes: ['write'] })];
    const mint = async (by: string) =>
      (await a.ask(`POST /v3/sessions/${session}/client-tokens`, { key: by })).json['token']!;
    const [ending, lasting] = [await mint(own.key), await mint(other.key)];
    const revoke = () => a.ask(`DELETE /v3/api-keys/${own.key_id}`);
    expect(await endsAfter(await open(b, ending), revoke)).toBeLessThan(WITHIN_MS);
    const read = async (token: string) =>
      (await b.ask(`GET /v3/sessions/${session}/events`, { key: token })).status;
    expect([await read(ending), await read(lasting)]).toEqual([401, 200]);
  });

  it('ends within a second of the revocation of all client tokens; those of keys go on', async () => {
    const { id } = await makeSession(a, { key: 'all' });
    const url = `${b.url}/v3/sessions/${id}/events?stream=sse`;
    const opened = await Promise.all(
      [1, 2, 3].map(async () => {
        const { token } = await makeToken(a.runtime, a.org.id, id);
        return await openStream(url, { authorization: `Bearer ${token}` });
      }),
    );
    const kept = await openStream(url, { authorization: `Bearer ${a.org.key}` });
    const start = performance.now();
    await a.ask(`DELETE /v3/sessions/${id}/client-tokens`);
    await Promise.all(opened.map((stream) => stream.ended()));
    expect(performance.now() - start).toBeLessThan(WITHIN_MS);
    await play(a.runtime, id, { type: 'message', text: 'still there?', actor: { type: 'human' } });
    await kept.until((frames) => seqs(frames).includes(3));
    kept.close();
  });

  it('ends when its key or token expires', async () => {
    const lifetime_ms = 2000;
    const start = performance.now();
    const expires_at = new Date(Date.now() + lifetime_ms);
    const ends = [(await key({ expires_at })).key, (await token({ ttl_s: lifetime_ms / 1000 })).token].map(
      async (credential) => {
        await (await open(b, credential)).ended();
        return performance.now() - start;
      },
    );
    for (const open_ms of await Promise.all(ends)) {
      expect(open_ms).toBeGreaterThan(lifetime_ms - CLOCKS_DIFFER_MS);
      expect(open_ms).toBeLessThan(lifetime_ms + WITHIN_MS);
    }
  });

  it('stays open with a key that lasts longer than a timer can run', async () => {
    const years = new Date('9999-12-31T00:00:00Z');
    const stream = await open(b, (await key({ expires_at: years })).key);
    const before = seqs(stream.frames).at(-1)!;
    await play(a.runtime, session, { type: 'message', text: 'hello', actor: { type: 'human' } });
    await stream.until((frames) => seqs(frames).includes(before + 1));
    stream.close();
  });

  it('ends with the deletion of the session, for client tokens', async () => {
    const { id, token } = await makeSession(a, { key: 'deleted' });
    const stream = await openStream(`${b.url}/v3/sessions/${id}/events?stream=sse&token=${token}`, {});
    const streams = a.runtime.database.db.updateTable('stream').where('id', '=', id);
    const ended = endsAfter(stream, () => streams.set({ deleted_at: new Date() }).execute());
    expect(await ended).toBeLessThan(WITHIN_MS);
  });
});

describe('the watch over open streams', () => {
  const quiet = (): void => undefined;

  it('asks for all of them at once, and for nothing when there are none', async () => {
    const asked: string[][] = [];
    const { check, watch } = createRevocations((ids) => {
      asked.push(ids);
      return Promise.resolve(new Set(ids));
    }, quiet);
    await check();
    const stops = ['key_1', 'ctk_1', 'key_1'].map((id) => watch(id, quiet));
    await check();
    for (const stop of stops) stop();
    await check();
    expect(asked).toEqual([['key_1', 'ctk_1']]);
  });

  it('ends every stream of a credential, and no other', async () => {
    const ended: string[] = [];
    const { check, watch } = createRevocations(() => Promise.resolve(new Set(['key_2'])), quiet);
    for (const [id, name] of [
      ['key_1', 'a'],
      ['key_1', 'b'],
      ['key_2', 'c'],
    ] as const) {
      watch(id, () => ended.push(name));
    }
    await check();
    expect(ended).toEqual(['a', 'b']);
  });

  it('looks again for what was revoked while it looked', async () => {
    const looking = gate();
    const usable = new Set(['key_1']);
    let ended = false;
    const { check, watch } = createRevocations(async () => {
      const seen = new Set(usable);
      await looking.opened;
      return seen;
    }, quiet);
    watch('key_1', () => (ended = true));
    const first = check();
    usable.clear();
    const second = check();
    looking.open();
    await first;
    await second;
    expect(ended).toBe(true);
  });

  it('goes on after a round that failed', async () => {
    const reasons: object[] = [];
    let fails = true;
    let ended = false;
    const { check, watch } = createRevocations(
      () => (fails ? Promise.reject(new Error('no database')) : Promise.resolve(new Set())),
      (fields) => reasons.push(fields),
    );
    watch('key_1', () => (ended = true));
    await check();
    expect([ended, reasons.length]).toEqual([false, 1]);
    fails = false;
    await check();
    expect(ended).toBe(true);
  });
});
