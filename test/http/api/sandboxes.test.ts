/** The sandbox API where the SDK does not look: what is refused and how, who may wake what, and what waits for whom. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createExecSession } from '../../../src/engine/computers/exec/session.ts';
import { createStdin } from '../../../src/engine/computers/exec/stdin.ts';
import { startComputerServer } from '../../helpers/computers.ts';
import {
  fieldOf,
  makeKey,
  makeSession,
  type Answer,
  type Json,
  type TestServer,
} from '../../helpers/http.ts';

let server: TestServer;
let id: string;
let at: string;

beforeAll(async () => {
  server = await startComputerServer({}, { wake_patience_ms: 0 });
  id = (await server.ask('POST /api/sandboxes', { body: { timeout: 0 } })).json['sandboxID']!;
  at = `/api/sandboxes/${id}`;
});
afterAll(() => server.close());

const refusalOf = ({ status, json }: Answer): [number, string, string] => [
  status,
  json['code']!,
  json['error']!,
];

describe('a refusal', () => {
  it.each<[string, string, object, [number, string, RegExp]]>([
    ['a size out of range', 'POST /api/sandboxes', { memoryMB: 5 }, [400, 'invalid', /"memoryMB"/]],
    ['an unknown template', 'POST /api/sandboxes', { templateID: 'x' }, [400, 'invalid', /"templateID"/]],
    [
      'a variable with no name',
      'POST /api/sandboxes',
      { envs: { 'a b': 'x' } },
      [400, 'invalid', /"envs\.a b"/],
    ],
    ['mounts', 'POST /api/sandboxes', { mounts: [{}] }, [422, 'not_supported', /"mounts"/]],
    ['a secret store', 'POST /api/sandboxes', { secretStore: 's' }, [422, 'not_supported', /"secretStore"/]],
    ['a family', 'POST /api/sandboxes', { sandboxFamily: 'spot' }, [422, 'not_supported', /"sandboxFamily"/]],
    [
      'a checkpoint that is not there',
      'POST /api/sandboxes/from-checkpoint/snp_0',
      {},
      [404, 'not_found', /snapshot/],
    ],
  ])('names what is wrong: %s', async (_, what, body, [status, code, sentence]) => {
    expect(refusalOf(await server.ask(what, { body }))).toEqual([
      status,
      code,
      expect.stringMatching(sentence),
    ]);
  });

  it('says nothing of what a variable holds', async () => {
    const secret = 'sk-very-secret-value';
    const { text } = await server.ask('POST /api/sandboxes', { body: { envs: { A: `${secret}\0` } } });
    expect(text).toContain('envs.A');
    expect(text).not.toContain(secret);
  });

  it('meets a port, an argument and a body that do not fit', async () => {
    const preview = await server.ask(`POST ${at}/preview`, { body: { port: 80 } });
    expect(refusalOf(preview)).toEqual([400, 'invalid', expect.stringContaining('"port"')]);
    const auth = await server.ask(`POST ${at}/preview`, { body: { port: 8000, authConfig: { a: 1 } } });
    expect(refusalOf(auth)).toEqual([422, 'not_supported', expect.stringContaining('authConfig')]);
    const command = await server.ask(`POST ${at}/exec/run`, { body: { cmd: 'true', args: ['\0'] } });
    expect(command.status).toBe(200);
    const large = await server.ask(`POST ${at}/exec/run`, { body: { cmd: 'x'.repeat(5_000_000) } });
    expect(refusalOf(large)).toEqual([413, 'too_large', expect.any(String)]);
    expect((await server.ask(`GET ${at}/exec/cmd_0`)).json['code']).toBe('invalid');
  });

  it('is the same to a stranger as of what is not there, and 403 to a client token', async () => {
    const { key } = server.stranger;
    expect((await server.ask(`GET ${at}`, { key })).status).toBe(404);
    expect((await server.ask(`GET ${at}/scale`, { key })).status).toBe(404);
    expect((await server.ask(`POST ${at}/scale`, { body: {} })).json['code']).toBe('not_supported');
    const { token } = await makeSession(server);
    expect((await server.ask(`GET ${at}`, { key: token })).status).toBe(403);
    expect((await server.ask('GET /api/webhooks', { key: null })).status).toBe(401);
  });
});

describe('a sandbox that hibernates', () => {
  it('is woken by a key that may write, and not by one that may read', async () => {
    const { key } = await makeKey(server.runtime, server.org.id, { scopes: ['read'] });
    await server.ask(`PUT ${at}/files?path=note`, { raw: 'kept' });
    await server.ask(`POST ${at}/hibernate`);
    expect(refusalOf(await server.ask(`GET ${at}/files?path=note`, { key }))).toEqual([
      ...[409, 'conflict', expect.stringContaining('may only read')],
    ]);
    expect((await server.ask(`GET ${at}/files?path=note`)).text).toBe('kept');
    expect((await server.ask(`GET ${at}/files?path=note`, { key })).text).toBe('kept');
  });

  it('is said to be waking to a client that asks again', async () => {
    await server.ask(`POST ${at}/hibernate`);
    const headers = { 'x-osb-async-wake': '1' };
    const waking = await server.ask(`GET ${at}/files?path=note`, { headers });
    expect([waking.status, waking.json['waking'], waking.headers.get('retry-after')]).toEqual([
      503,
      true,
      '1',
    ]);
    await server.computers.settled(id);
    expect((await server.ask(`GET ${at}`)).json['status']).toBe('running');
  });
});

describe('a sandbox whose processes have died', () => {
  it('is started by what writes, and not by a key that may read nor by a read of /v1', async () => {
    const { key } = await makeKey(server.runtime, server.org.id, { scopes: ['read'] });
    const v1 = `/v1/computers/${id}`;
    await server.ask(`PUT ${at}/files?path=note`, { raw: 'kept' });
    await server.computers.awake(id)!.hibernate();
    const before = await server.runtime.computer_log.state(id);
    expect(before.status).toBe('running');
    for (const [what, by] of [
      [`GET ${at}/files?path=note`, key],
      [`GET ${at}/files/list?path=/`, key],
      [`GET ${v1}/files?path=note`, key],
      [`GET ${v1}/files?path=note`, server.org.key],
      [`GET ${v1}/files/list?path=/`, server.org.key],
      [`GET ${v1}/archive?path=/home`, server.org.key],
    ] as const) {
      const { status, text } = await server.ask(what, { key: by });
      expect([status, text], what).toEqual([409, expect.stringContaining('the processes of the computer')]);
    }
    for (const what of [`GET ${at}`, `GET ${at}/exec`, `GET ${v1}/observability`, `GET ${v1}/commands`])
      expect((await server.ask(what, { key })).status, what).toBe(200);
    expect(await server.runtime.computer_log.state(id)).toEqual(before);
    expect((await server.ask(`PUT ${at}/files?path=more`, { raw: 'x' })).status).toBe(204);
    expect((await server.ask(`GET ${at}/files?path=note`, { key })).text).toBe('kept');
  });
});

describe('a command that outlives who asked', () => {
  it('is remembered by the history when its output is not', async () => {
    const { json } = await server.ask(`POST /v1/computers/${id}/exec`, { body: { command: 'exit 3' } });
    const result = await server.ask(`GET ${at}/exec/${json['command_id']}/result`);
    expect(result.json).toEqual({
      running: false,
      exitCode: 3,
      error: expect.stringContaining('not kept') as string,
    });
  });

  it('is forgotten once who waited for it has its result', async () => {
    const { json } = await server.ask(`POST ${at}/exec/run`, { body: { cmd: 'echo waited for' } });
    expect(json['stdout']).toBe('waited for\n');
    const listed = (await server.ask(`GET ${at}/exec`)).json as unknown as Json[];
    expect(listed.filter(({ command }) => command === 'echo waited for')).toEqual([]);
  });

  it('says when some of its output was dropped', async () => {
    const body = { cmd: 'head -c 17000000 /dev/zero | tr "\\0" x' };
    const { json } = await server.ask(`POST ${at}/exec/run`, { body });
    expect([json['stdout']!.length, json['truncated']]).toEqual([16 * 1024 * 1024, true]);
  });

  it('drops what the node cannot keep, and shows who comes late only the last of it', async () => {
    const chunk = { stream: 'stdout', data: Buffer.alloc(100_000, 'x') } as const;
    async function* output() {
      for (let count = 0; count < 6; count += 1) yield await Promise.resolve(chunk);
    }
    const end = Promise.resolve({ exit_code: 0, timed_out: false, error_type: null, duration_ms: 1 });
    const command = {
      id: 'cmd_1',
      started_at: new Date(0),
      output: output(),
      end,
      said: { stdout: 0, stderr: 0, truncated: false },
    };
    const asked = {
      org: 'o',
      computer: 'c',
      command: 'x',
      args: new Array<string>(),
      keeps: 'whole',
      linger_ms: null,
    } as const;
    let left = 500_000;
    const session = createExecSession({ ...asked, keeps: 'whole' }, command, {
      stdin: undefined,
      kill: () => undefined,
      take: (bytes) => (left -= bytes) >= 0,
      give: (bytes) => (left += bytes),
    });
    await session.ended;
    expect([session.result().stdout.length, session.result().truncated]).toEqual([500_000, true]);
    const seen: number[] = [];
    let ended = '';
    session.attach({ show: async (data) => void seen.push(data.length), end: (why) => (ended = why) });
    expect([seen.reduce((sum, bytes) => sum + bytes, 0) < 270_000, seen.at(-1), ended]).toEqual([
      true,
      5,
      'exited',
    ]);
  });

  it('takes what is typed one after another, and nothing after its end', async () => {
    const stdin = createStdin();
    const input = stdin[Symbol.asyncIterator]();
    const order: string[] = [];
    const first = stdin.push(Buffer.from('a')).then(() => order.push('a is taken'));
    expect(Buffer.from((await input.next()).value as Uint8Array).toString()).toBe('a');
    await first;
    const second = stdin.push(Buffer.from('b'));
    await input.return!();
    await second;
    await stdin.push(Buffer.from('c'));
    expect([order, (await input.next()).done]).toEqual([['a is taken'], true]);
  });
});

describe('a list', () => {
  it('has those of the org, without those that are gone', async () => {
    const gone = (await server.ask('POST /api/sandboxes', { body: {} })).json;
    expect(gone['timeout']).toBe(300);
    await server.ask(`DELETE /api/sandboxes/${gone['sandboxID']}`);
    const list = (await server.ask('GET /api/sandboxes?limit=200')).json as unknown as Json[];
    expect(list.map(({ sandboxID }) => sandboxID)).toEqual([id]);
    expect((await server.ask(`GET /api/sandboxes/${gone['sandboxID']}`)).json['status']).toBe('stopped');
  });
});

it('has files that are reached whatever variables it was given', async () => {
  const envs = { PATH: '/nowhere', BASH_ENV: '/home/agent/spoilt' };
  const { json } = await server.ask('POST /api/sandboxes', { body: { envs } });
  const at = `/v1/computers/${json['sandboxID']!}`;
  const headers = { authorization: `Bearer ${server.org.key}` };
  const spoilt = `${server.url}${at}/files?path=/home/agent/spoilt`;
  expect((await fetch(spoilt, { method: 'PUT', headers, body: 'exit 9' })).status).toBe(200);
  expect((await server.ask(`POST ${at}/files/mkdir`, { body: { path: '/home/agent/made' } })).status).toBe(
    200,
  );
  const list = await server.ask(`GET ${at}/files/list?path=/home/agent`);
  expect(fieldOf(list.json['files']! as unknown as Json[], 'name').toSorted()).toEqual(['made', 'spoilt']);
  expect((await server.ask(`DELETE ${at}/files?path=/home/agent/spoilt`)).status).toBe(200);
  await server.ask(`DELETE ${at}`);
});
