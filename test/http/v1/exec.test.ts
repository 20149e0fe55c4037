/** Commands over `/v1`, answered whole and streamed: what comes back, what ends them, and what keeps a long answer alive. */
import http from 'node:http';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startComputerServer } from '../../helpers/computers.ts';
import { makeKey, type Answer, type Json, type TestServer } from '../../helpers/http.ts';
import { eventually } from '../../helpers/world.ts';

let server: TestServer;
let id: string;

beforeAll(async () => {
  server = await startComputerServer({}, { keepalive_ms: 20 });
  id = (await server.ask('POST /v1/computers', { body: {} })).json['id']!;
});
afterAll(() => server.close());

function exec(command: string, more: object = {}, query = ''): Promise<Answer> {
  return server.ask(`POST /v1/computers/${id}/exec${query}`, { body: { command, ...more } });
}

async function stream(command: string, more: object = {}): Promise<{ answer: Answer; events: Json[] }> {
  const answer = await server.ask(`POST /v1/computers/${id}/exec/stream`, { body: { command, ...more } });
  const lines = answer.text.split('\n').filter((line) => line !== '');
  expect(lines.filter((line) => !line.startsWith('data: '))).toEqual([]);
  return { answer, events: lines.map((line) => JSON.parse(line.slice(6)) as Json) };
}

async function lastCommand(): Promise<Json> {
  return (await server.ask(`GET /v1/computers/${id}/commands?limit=1`)).json['commands']![0]!;
}

describe('a command', () => {
  it('answers with its output and its exit code, also when it fails', async () => {
    const { status, json, headers } = await exec('echo out; echo err >&2; exit 7', { timeout: 30 });
    expect(status).toBe(200);
    expect(headers.get('content-type')).toBe('application/json');
    expect(headers.get('x-request-id')).toMatch(/^req_/);
    expect(json).toEqual({
      ...{
        exit_code: 7,
        stdout: 'out\n',
        stderr: 'err\n',
        timed_out: false,
        truncated: false,
        error_type: null,
      },
      command_id: expect.stringMatching(/^cmd_[0-9a-f]{24}$/) as string,
      duration_ms: expect.any(Number) as number,
    });
    expect(await lastCommand()).toMatchObject({
      ...{ command_id: json['command_id'], source: 'api', status: 'failed', exit_code: 7 },
      ...{ stdout_bytes: 4, stderr_bytes: 4, timeout_seconds: 30, error_type: null },
    });
  });

  it('runs in the home, with the workspace beside it', async () => {
    const { json } = await exec('test "$PWD" = "$HOME" && mkdir -p -- /workspace && echo there');
    expect(json['stdout']).toBe('there\n');
  });

  it('may be longer than an argument of a process, and say more than a frame', async () => {
    const { json } = await exec(`printf %s '${'x'.repeat(1_500_000)}' | wc -c; seq 1 100000 | md5sum >&2`);
    expect(json['stdout']!.trim()).toBe('1500000');
    const large = await exec('yes 0123456789abcde | head -c 3000000');
    expect([large.json['stdout']!.length, large.json['truncated']]).toEqual([2 ** 20, true]);
    const refused = await exec('x'.repeat(4 * 1024 * 1024));
    expect([refused.status, refused.json['detail']]).toEqual([413, expect.stringContaining('exceeds')]);
  });

  it('answers at length as it is, whatever is in it', async () => {
    const script = String.raw`head -c 300000 /dev/zero; for each in {1..20000}; do printf '"gr\303\274\303\237\360\237\230\200\n'; done >&2; exit 3`;
    const { status, json } = await exec(script);
    const line = '"grüß\u{1F600}\n';
    expect([status, json['exit_code'], json['truncated']]).toEqual([200, 3, false]);
    expect(json['stdout'] === '\0'.repeat(300_000)).toBe(true);
    expect(json['stderr'] === line.repeat(20_000)).toBe(true);
    const cut = await exec(String.raw`head -c 2000000 /dev/zero; printf '\360\237'`);
    expect([cut.json['stdout']!.length, cut.json['truncated']]).toEqual([2 ** 20, true]);
  });

  it('replaces what is no text', async () => {
    const { json } = await exec(String.raw`printf '\xff\xfe|\xc3'; printf 'gr\xc3\xbc\xc3\x9f' >&2`);
    expect([json['stdout'], json['stderr']]).toEqual(['\uFFFD\uFFFD|\uFFFD', 'grüß']);
    const marked = String.raw`printf '\xef\xbb\xbfmarked'`;
    expect((await exec(marked)).json['stdout']).toBe('\uFEFFmarked');
    expect((await stream(marked)).events[1]).toEqual({ type: 'stdout', data: '\uFEFFmarked' });
  });

  it('ends at its time limit', async () => {
    const { json } = await exec('echo begun; sleep 600', { timeout: 1 });
    expect(json).toMatchObject({ exit_code: 124, timed_out: true, stdout: 'begun\n' });
    expect(await lastCommand()).toMatchObject({ status: 'timed_out', error_type: 'timeout' });
  });

  it('does not wait for what it leaves in the background', async () => {
    const { json } = await exec('sleep 600 & echo $!', { timeout: 300 });
    expect((await exec(`kill ${json['stdout']!.trim()} && echo killed`)).json['stdout']).toBe('killed\n');
  });

  it.each([
    [{ command: '' }, 'command'],
    [{}, 'command'],
    [{ command: 5 }, 'command'],
    [{ command: 'x', timeout: 0 }, 'timeout'],
    [{ command: 'x', timeout: 301 }, 'timeout'],
    [{ command: 'x', timeout: 1.5 }, 'timeout'],
    [{ command: 'x', timeout: '5' }, 'timeout'],
  ])('%j does not fit', async (body, field) => {
    for (const route of ['exec', 'exec/stream']) {
      const { status, json } = await server.ask(`POST /v1/computers/${id}/${route}`, { body });
      expect([status, json['errors']![0]!['loc']]).toEqual([422, ['body', field]]);
    }
  });

  it('is kept alive by spaces until it ends', async () => {
    const { status, text, json, headers } = await exec('sleep 0.5; echo gone');
    expect([status, json['stdout']]).toEqual([200, 'gone\n']);
    expect(text).toMatch(/^ +\{/);
    expect(headers.get('content-type')).toBe('application/json');
    expect(headers.get('x-request-id')).toMatch(/^req_/);
  });
});

describe('a stream', () => {
  it('is lines of JSON with what it writes, as it writes it', async () => {
    const { answer, events } = await stream('echo out; echo err >&2; printf gr; exit 3', { timeout: 20 });
    expect(answer.headers.get('content-type')).toBe('text/event-stream');
    const command_id = answer.headers.get('x-celesto-command-id')!;
    expect(answer.headers.get('x-request-id')).toMatch(/^req_/);
    const started_at_unix_ms = events[0]!['started_at_unix_ms'] as unknown as number;
    expect(events[0]).toEqual({ type: 'started', command_id, started_at_unix_ms, timeout_seconds: 20 });
    const said = (type: string) =>
      events
        .filter((event) => event['type'] === type)
        .map(({ data }) => data)
        .join('');
    expect([said('stdout'), said('stderr')]).toEqual(['out\ngr', 'err\n']);
    expect(events.at(-1)).toEqual({
      ...{ type: 'exit', exit_code: 3, command_id, started_at_unix_ms, timed_out: false },
      ended_at_unix_ms: expect.any(Number) as number,
      duration_ms: expect.any(Number) as number,
    });
    expect(new Set(events.map(({ type }) => type))).toEqual(new Set(['started', 'stdout', 'stderr', 'exit']));
  });

  it('gives all of a large output, in events that clients take, whole characters in each', async () => {
    const { answer, events } = await stream(`yes '\u00e4\u0001' | head -c 3000000`);
    const data = events.filter(({ type }) => type === 'stdout').map((event) => event['data']!);
    expect(Buffer.byteLength(data.join(''))).toBe(3_000_000);
    expect(data.join('')).not.toContain('\uFFFD');
    const longest = Math.max(...answer.text.split('\n').map((line) => Buffer.byteLength(line)));
    expect(longest).toBeLessThan(2 ** 20);
  });

  it('is kept alive by empty lines alone', async () => {
    const { answer, events } = await stream('sleep 0.5; echo end');
    expect(events.map(({ type }) => type)).toEqual(['started', 'stdout', 'exit']);
    expect(answer.text).toContain('\n\n\n');
  });

  it('is refused before it begins', async () => {
    const body = { command: 'true' };
    const { status, json } = await server.ask('POST /v1/computers/nobody/exec/stream', { body });
    expect([status, json]).toEqual([404, { detail: expect.stringContaining('nobody') as string }]);
  });
});

/** Asks and hangs up once the command runs. */
async function hangUp(route: string): Promise<void> {
  const request = http.request(`${server.url}/v1/computers/${id}/${route}`, {
    method: 'POST',
    headers: { authorization: `Bearer ${server.org.key}`, 'content-type': 'application/json' },
  });
  request.on('error', () => undefined);
  request.end(
    JSON.stringify({ command: 'rm -f ended; touch begun; (sleep 60173; touch ended)', timeout: 300 }),
  );
  await eventually(async () => (await exec('rm begun')).json['exit_code'] === (0 as never));
  request.destroy();
  await new Promise((resolve) => request.once('close', resolve));
}

describe('whoever leaves', () => {
  it.each(['exec', 'exec/stream'])('ends the command of %s', async (route) => {
    await hangUp(route);
    await eventually(async () => {
      const { json } = await server.ask(`GET /v1/computers/${id}/commands?limit=200`);
      const long = (json['commands'] as Json[]).filter(
        ({ timeout_seconds }) => Number(timeout_seconds) === 300,
      );
      return long[0]?.['error_type'] === 'aborted';
    });
    expect((await exec('pgrep -fc "[s]leep 60173"')).json['stdout']!.trim()).toBe('0');
  });

  it('ends it too when the key is revoked', async () => {
    const { key, key_id } = await makeKey(server.runtime, server.org.id);
    const asked = server.ask(`POST /v1/computers/${id}/exec/stream`, {
      key,
      body: { command: 'touch begun; sleep 60173', timeout: 300 },
    });
    asked.catch(() => undefined);
    await eventually(async () => (await exec('rm begun')).json['exit_code'] === (0 as never));
    await server.ask(`DELETE /v3/api-keys/${key_id}`);
    await expect(asked).rejects.toThrow();
    await eventually(async () => (await exec('pgrep -fc "[s]leep 60173"')).json['stdout']!.trim() === '0');
  });
});

describe('a computer that is stopped', () => {
  it('is started by a command that says so', async () => {
    await server.ask(`POST /v1/computers/${id}/stop`);
    expect((await exec('true', {}, '?resume=false')).status).toBe(409);
    expect((await exec('true', {}, '?resume=maybe')).status).toBe(422);
    expect((await exec('echo up', {}, '?resume=true')).json['stdout']).toBe('up\n');
    await server.ask(`POST /v1/computers/${id}/stop`);
    const streamed = await server.ask(`POST /v1/computers/${id}/exec/stream?resume=true`, {
      body: { command: 'echo up' },
    });
    expect(streamed.text).toContain('"up\\n"');
  });

  it('is started by any command where the server is set so', async () => {
    const willing = await startComputerServer({}, { auto_resume: true });
    try {
      const made = await willing.ask('POST /v1/computers', { body: {} });
      const at = `/v1/computers/${made.json['id']}`;
      await willing.ask(`POST ${at}/stop`);
      const { json } = await willing.ask(`POST ${at}/exec`, { body: { command: 'echo up' } });
      expect(json['stdout']).toBe('up\n');
      await willing.ask(`DELETE ${at}`);
    } finally {
      await willing.close();
    }
  });

  it('ends what runs in it, which then says so', async () => {
    const running = exec('touch begun; sleep 60173', { timeout: 300 });
    await eventually(async () => (await exec('rm begun')).json['exit_code'] === (0 as never));
    await server.ask(`POST /v1/computers/${id}/stop`);
    expect((await running).json).toMatchObject({ exit_code: 137, timed_out: false });
    await server.ask(`POST /v1/computers/${id}/start`);
  });
});

describe('too many commands at once', () => {
  it('are refused like too many readers', async () => {
    const limits = { requests_per_key_max: 1000, requests_per_org_max: 1000, failures_per_address_max: 10 };
    const streams = { streams_per_key_max: 1, streams_per_org_max: 10, streams_max: 10 };
    const small = await startComputerServer({}, { limits: { ...limits, ...streams } });
    try {
      const at = `/v1/computers/${(await small.ask('POST /v1/computers', { body: {} })).json['id']}`;
      const first = small.ask(`POST ${at}/exec`, {
        body: { command: 'until test -e go; do sleep 0.05; done' },
      });
      const { key } = await makeKey(small.runtime, small.org.id);
      const other = (command: string) => small.ask(`POST ${at}/exec`, { key, body: { command } });
      await eventually(async () => {
        const { json } = await small.ask(`GET ${at}/commands`);
        return json['count'] === (1 as never);
      });
      const refused = await small.ask(`POST ${at}/exec/stream`, { body: { command: 'true' } });
      expect([refused.status, refused.headers.get('retry-after')]).toEqual([429, '1']);
      expect(refused.json['detail']).toContain('too many');
      expect((await other('touch go')).status).toBe(200);
      expect((await first).status).toBe(200);
      expect((await small.ask(`POST ${at}/exec`, { body: { command: 'true' } })).status).toBe(200);
      await small.ask(`DELETE ${at}`);
    } finally {
      await small.close();
    }
  });
});
