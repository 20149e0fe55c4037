/** Terminals as clients of all generations open them (contract §6), over real WebSockets to real shells. */
import { once } from 'node:events';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { WebSocket, type RawData } from 'ws';
import { startComputerServer } from '../../helpers/computers.ts';
import { makeKey, type Json, type TestServer } from '../../helpers/http.ts';
import { eventually } from '../../helpers/world.ts';

let server: TestServer;
let computer: string;
let name: string;
/** What the server's clock is ahead. */
let ahead_ms = 0;

beforeAll(async () => {
  server = await startComputerServer({ now: () => Date.now() + ahead_ms });
  const made = await server.ask('POST /v1/computers', { body: {} });
  expect(made.json).toMatchObject({ status: 'running' });
  computer = made.json['id']!;
  name = made.json['name']!;
});
afterAll(() => server.close());

type Client = {
  socket: WebSocket;
  text: () => string;
  frames: { bytes: Buffer; is_binary: boolean }[];
  /** Types into the shell. */
  type: (text: string) => void;
  control: (message: object) => void;
  shows: (wanted: RegExp) => Promise<unknown>;
  closed: Promise<[code: number, reason: string]>;
};

function connect(path: string, headers: Record<string, string> = {}): Client {
  const url = path.startsWith('ws') ? path : server.url.replace('http', 'ws') + path;
  const socket = new WebSocket(url, { headers, perMessageDeflate: false, maxPayload: 2 ** 20 });
  const frames: Client['frames'] = [];
  socket.on('message', (data: RawData, is_binary) => frames.push({ bytes: data as Buffer, is_binary }));
  socket.on('error', () => undefined);
  const text = (): string => Buffer.concat(frames.map(({ bytes }) => bytes)).toString();
  return {
    ...{ socket, text, frames },
    type: (typed) => socket.send(typed),
    control: (message) => socket.send(JSON.stringify(message)),
    shows: (wanted) => eventually(() => Promise.resolve(wanted.test(text()))),
    closed: once(socket, 'close').then(([code, reason]) => [code as number, String(reason)]),
  };
}

async function opened(client: Client): Promise<Client> {
  await once(client.socket, 'open');
  return client;
}

/** What a refused handshake was answered with. */
async function refusal(
  path: string,
  headers: Record<string, string> = {},
): Promise<{ status: number; detail: string }> {
  const { socket } = connect(path, headers);
  const [, response] = (await once(socket, 'unexpected-response')) as [
    never,
    AsyncIterable<Buffer> & { statusCode: number },
  ];
  let body = '';
  for await (const chunk of response) body += chunk.toString();
  const { detail } = JSON.parse(body) as Json;
  return { status: response.statusCode, detail: detail as string };
}

const bearer = (key = server.org.key): Record<string, string> => ({ authorization: `Bearer ${key}` });
const direct = (id = computer): string => `/v1/computers/${id}/terminal`;

async function session(body?: object, key = server.org.key): Promise<Record<string, string>> {
  const made = await server.ask(`POST /v1/computers/${computer}/terminals`, { key, body });
  expect(made.status).toBe(201);
  return made.json;
}

const gateway = ({ gateway_url, token }: Record<string, string>): Client =>
  connect(`${gateway_url}?token=${token}`);

describe('a terminal straight to a computer', () => {
  it('opens with the key in the headers, and again in the first message', async () => {
    const client = await opened(connect(direct(), bearer()));
    client.control({ token: server.org.key });
    client.control({ type: 'resize', cols: 100, rows: 33 });
    client.type('stty size; echo gr""üße\r');
    await client.shows(/33 100[^]*grüße/);
    expect(client.text()).not.toContain(server.org.key);
    expect(client.frames.every(({ is_binary }) => is_binary)).toBe(true);
    client.socket.close(1000);
    expect((await client.closed)[0]).toBe(1000);
  });

  it('opens with the key in the first message only, by the name of the computer; nothing sent early is lost', async () => {
    const client = await opened(connect(direct(name)));
    client.control({ token: server.org.key, org_id: server.org.id });
    client.control({ type: 'resize', rows: 44, cols: 120 });
    client.socket.send(Buffer.from('stty size\r'));
    await client.shows(/44 120/);
    client.type('exit\r');
    expect(await client.closed).toEqual([1000, '']);
  });

  it('ends its shell with its connection', async () => {
    const client = await opened(connect(direct(), bearer()));
    client.type('echo pid-$$-\r');
    await client.shows(/pid-\d+-/);
    const pid = /pid-(\d+)-/.exec(client.text())![1]!;
    client.socket.terminate();
    await eventually(async () => {
      const command = { command: `kill -0 ${pid} && echo alive || echo gone` };
      const answer = await server.ask(`POST /v1/computers/${computer}/exec`, { body: command });
      return answer.json['stdout'] === 'gone\n';
    });
  });

  it('refuses the handshake in plain HTTP', async () => {
    const reader = await makeKey(server.runtime, server.org.id, { scopes: ['read'] });
    expect(await refusal(direct(), bearer('ow_nonsense'))).toMatchObject({ status: 401 });
    expect(await refusal(direct(), bearer(reader.key))).toMatchObject({ status: 403 });
    expect(await refusal(direct(), bearer(server.stranger.key))).toMatchObject({ status: 404 });
    expect(await refusal(direct('nobody'), bearer())).toEqual({
      status: 404,
      detail: 'no computer "nobody"',
    });
    const plain = await server.ask(`GET ${direct()}`);
    expect(plain.status).toBe(400);
  });

  it.each([
    ['no key that is good', () => ({ token: 'ow_nonsense' }), 4401],
    ['something else', () => ({ hello: 'world' }), 4401],
    ["a stranger's key", () => ({ token: server.stranger.key }), 4404],
  ])('closes when the first message is %s', async (_, first, code) => {
    const client = await opened(connect(direct()));
    client.control(first());
    expect((await client.closed)[0]).toBe(code);
    expect(client.text()).toBe('');
  });

  it('closes when the first message is another key than that of the headers', async () => {
    const other = await makeKey(server.runtime, server.org.id);
    const client = await opened(connect(direct(), bearer()));
    client.control({ token: other.key });
    expect((await client.closed)[0]).toBe(4401);
  });

  it('needs a computer that runs, unless it is to be started', async () => {
    const made = await server.ask('POST /v1/computers', { body: {} });
    const id = made.json['id']!;
    await server.ask(`POST /v1/computers/${id}/stop`);
    expect(await refusal(direct(id), bearer())).toMatchObject({ status: 409 });
    const client = await opened(connect(`${direct(id)}?resume=true`, bearer()));
    client.type('echo a""wake\r');
    await client.shows(/awake/);
    await server.ask(`POST /v1/computers/${id}/stop`);
    expect(await client.closed).toEqual([4410, 'the computer has stopped']);
    await server.ask(`DELETE /v1/computers/${id}`);
  });
});

describe('a terminal by a connect token', () => {
  it('is where the operator says that the server is', async () => {
    const behind_proxy = await startComputerServer({}, { public_url: 'https://computers.example/' });
    const { id } = (await behind_proxy.ask('POST /v1/computers', { body: {} })).json;
    const { json } = await behind_proxy.ask(`POST /v1/computers/${id}/terminals`);
    expect(json['gateway_url']).toMatch(/^wss:\/\/computers\.example\/v1\/terminals\/term_/);
    await behind_proxy.close();
  });

  it('keeps its shell while nobody is attached, and shows what was before', async () => {
    const made = await session();
    expect(made).toMatchObject({
      terminal_id: expect.stringMatching(/^term_[0-9a-f]{24}$/) as string,
      gateway_url: `${server.url.replace('http', 'ws')}/v1/terminals/${made['terminal_id']}/connect`,
      expires_at: expect.stringMatching(/Z$/) as string,
    });
    const first = await opened(gateway(made));
    first.type('colour=blue; echo be""fore\r');
    await first.shows(/before/);
    first.socket.close(1000, 'client detached');
    await first.closed;
    const { terminal_id } = made;
    const again = await session({ terminal_id });
    expect(again['terminal_id']).toBe(terminal_id);
    const [second, third] = [await opened(gateway(again)), await opened(gateway(made))];
    await second.shows(/before/);
    second.type('echo is-$colour\r');
    await second.shows(/is-blue/);
    await third.shows(/before[^]*is-blue/);
    second.control({ type: 'close' });
    expect(await third.closed).toEqual([1000, '']);
    expect(await second.closed).toEqual([1000, '']);
    const gone = await server.ask(`POST /v1/computers/${computer}/terminals`, { body: { terminal_id } });
    expect(gone.status).toBe(404);
  });

  it('takes text and binary frames as keys, also a JSON object that is none of ours', async () => {
    const client = await opened(gateway(await session()));
    client.socket.send(Buffer.from('echo re""ady; cat > /dev/null; echo bi""nary\r'));
    await client.shows(/ready/);
    client.type('{"type":"other"}\r');
    client.type('{"token":"x"}\r');
    client.socket.send(Buffer.from('{"type":"close"}\r\x04'));
    await client.shows(/binary/);
    for (const typed of ['{"type":"other"}', '{"token":"x"}', '{"type":"close"}'])
      expect(client.text()).toContain(typed);
    client.control({ type: 'close' });
    await client.closed;
  });

  it('keeps characters whole that are cut between frames, both ways', async () => {
    const client = await opened(gateway(await session()));
    const smile = Buffer.from('🙂');
    const cut = "printf '\\xf0\\x9f'; sleep 0.3; printf '\\x99\\x82 done\\n'";
    client.type(`echo re""ady; read -r face; echo is-$face-; ${cut}\r`);
    await client.shows(/ready/);
    client.socket.send(smile.subarray(0, 2));
    client.socket.send(Buffer.concat([smile.subarray(2), Buffer.from('\r')]));
    await client.shows(/is-🙂-[^]*🙂 done/);
    client.control({ type: 'close' });
    await client.closed;
  });

  it('sends what is shown in frames that every client takes', async () => {
    const client = await opened(gateway(await session()));
    client.type('head -c 3000000 /dev/zero | tr "\\0" x; echo do""ne\r');
    await client.shows(/done/);
    expect(client.text().length).toBeGreaterThan(3_000_000);
    expect(Math.max(...client.frames.map(({ bytes }) => bytes.length))).toBeLessThanOrEqual(65_536);
    client.control({ type: 'close' });
    await client.closed;
  });

  it('is not opened by a token that is forged, old, or of another terminal', async () => {
    const [one, two] = [await session(), await session()];
    const path = (id: string, token: string): string => `/v1/terminals/${id}/connect?token=${token}`;
    const { terminal_id: id, token } = one as { terminal_id: string; token: string };
    expect(await refusal(path(id, 'owtt_forged'))).toMatchObject({ status: 401 });
    expect(await refusal(path(id, ''))).toMatchObject({ status: 401 });
    expect(await refusal(path(two['terminal_id']!, token))).toMatchObject({ status: 401 });
    expect(await refusal(path('term_000000000000000000000000', token))).toMatchObject({ status: 404 });
    // A key is no connect token.
    expect(await refusal(path(id, server.org.key), bearer())).toMatchObject({ status: 401 });
    ahead_ms = 121_000;
    expect(await refusal(path(id, token))).toMatchObject({ status: 401 });
    ahead_ms = 0;
    for (const made of [one, two]) {
      const client = await opened(gateway(made));
      client.control({ type: 'close' });
      await client.closed;
    }
  });

  it('is found by its own org and on its own computer only', async () => {
    const { terminal_id, ...rest } = await session();
    const stranger = await server.ask(`POST /v1/computers/${computer}/terminals`, {
      ...{ key: server.stranger.key, body: { terminal_id } },
    });
    expect(stranger.status).toBe(404);
    const theirs = await server.ask('POST /v1/computers', { key: server.stranger.key, body: {} });
    const foreign = await server.ask(`POST /v1/computers/${theirs.json['id']}/terminals`, {
      ...{ key: server.stranger.key, body: { terminal_id } },
    });
    expect(foreign.status).toBe(404);
    const odd = await server.ask(`POST /v1/computers/${computer}/terminals`, { body: { terminal_id: 'x' } });
    expect(odd.status).toBe(422);
    const client = await opened(gateway(rest));
    client.control({ type: 'close' });
    await client.closed;
  });

  it.each([undefined, '', 'null', '{}'])('is asked for with the body %s', async (raw) => {
    const ask = raw === undefined ? {} : { raw };
    const made = await server.ask(`POST /v1/computers/${computer}/terminals`, ask);
    expect(made.status).toBe(201);
    const client = await opened(gateway(made.json));
    client.control({ type: 'close' });
    await client.closed;
  });

  it('is ended by a message that is too large', async () => {
    const client = await opened(gateway(await session()));
    client.socket.send(Buffer.alloc(2 ** 20 + 1));
    expect((await client.closed)[0]).toBe(1009);
  });

  it('ends with the key that it was made by', async () => {
    const { key, key_id } = await makeKey(server.runtime, server.org.id, { scopes: ['write'] });
    const made = await session(undefined, key);
    const [one, two] = [await opened(gateway(made)), await opened(connect(direct(), bearer(key)))];
    await server.ask(`DELETE /v3/api-keys/${key_id}`);
    expect((await one.closed)[0]).toBe(4401);
    expect((await two.closed)[0]).toBe(4401);
    const path = `/v1/terminals/${made['terminal_id']}/connect?token=${made['token']}`;
    expect(await refusal(path)).toMatchObject({ status: 401 });
  });
});

describe('terminals', () => {
  it('have a place among the streams of their key, and of their computer', async () => {
    const limits = {
      ...{ requests_per_key_max: 10_000, requests_per_org_max: 10_000, failures_per_address_max: 1000 },
      ...{ streams_per_key_max: 2, streams_per_org_max: 100, streams_max: 100 },
    };
    const small = await startComputerServer({}, { limits });
    const id = (await small.ask('POST /v1/computers', { body: {} })).json['id']!;
    const url = small.url.replace('http', 'ws') + direct(id);
    const key = bearer(small.org.key);
    const clients = [await opened(connect(url, key)), await opened(connect(url, key))];
    expect(await refusal(url, key)).toMatchObject({ status: 429 });
    clients[0]!.socket.close(1000);
    await clients[0]!.closed;
    await eventually(async () => {
      const next = connect(url, key);
      const outcome = await Promise.race([
        once(next.socket, 'open').then(() => true),
        once(next.socket, 'unexpected-response').then(() => false),
      ]);
      if (outcome) clients.push(next);
      else next.socket.terminate();
      return outcome;
    });
    small.stopping.abort();
    expect(await clients[1]!.closed).toEqual([1001, 'the server is stopping']);
    await small.close();
  });
});
