/**
 * The calls of Celesto's clients, as they put them on the wire: the same methods, paths, headers and bodies, header by header. What
 * each client reads of an answer is checked as strictly as that client reads it.
 */
import http from 'node:http';
import { text as textOf } from 'node:stream/consumers';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startComputerServer } from '../helpers/computers.ts';
import type { Json, TestServer } from '../helpers/http.ts';

let server: TestServer;
beforeAll(async () => {
  server = await startComputerServer();
});
afterAll(() => server.close());

type Heard = { status: number; headers: http.IncomingHttpHeaders; text: string; json: Json };
type Client = (method: string, path: string, body?: string, more?: string[]) => Promise<Heard>;

/** Nothing is sent but what is given. */
async function send(method: string, path: string, headers: string[], body?: string): Promise<Heard> {
  const { port } = new URL(server.url);
  const request = http.request({
    ...{ host: '127.0.0.1', port, method, path, headers, setDefaultHeaders: false, agent: false },
  });
  request.end(body);
  const response = await new Promise<http.IncomingMessage>((resolve, reject) => {
    request.once('response', resolve).once('error', reject);
  });
  const text = await textOf(response);
  return { status: response.statusCode!, headers: response.headers, text, json: parse(text) };
}

function parse(text: string): Json {
  try {
    return JSON.parse(text) as Json;
  } catch {
    return {} as Json;
  }
}

const lengthOf = (body: string): string => String(Buffer.byteLength(body));

/** Python, first generation: base URL with `/v1`; a POST without a body has a length and no type. */
const python: Client = (method, path, body, more = []) =>
  send(
    method,
    `/v1${path}`,
    [
      ...['Host', new URL(server.url).host, 'Accept', '*/*', 'Accept-Encoding', 'gzip, deflate'],
      ...['Connection', 'keep-alive', 'User-Agent', 'python-httpx/0.28.1'],
      ...['Authorization', `Bearer ${server.org.key}`],
      ...(method === 'POST' ? ['Content-Length', lengthOf(body ?? '')] : []),
      ...(body === undefined ? [] : ['Content-Type', 'application/json']),
      ...more,
    ],
    body,
  );

/** JavaScript: `fetch` of Node. */
const javascript: Client = (method, path, body, more = []) =>
  send(
    method,
    `/v1${path}`,
    [
      ...['host', new URL(server.url).host, 'connection', 'keep-alive'],
      ...(body === undefined ? [] : ['Content-Type', 'application/json']),
      ...['Authorization', `Bearer ${server.org.key}`, ...more],
      ...['accept', '*/*', 'accept-language', '*', 'sec-fetch-mode', 'cors', 'user-agent', 'node'],
      ...['accept-encoding', 'gzip, deflate'],
      ...(method === 'POST' ? ['content-length', lengthOf(body ?? '')] : []),
    ],
    body,
  );

/** Only these count as success, and the body must be an object. */
function expectPythonSuccess({ status, json }: Heard): Json {
  expect([200, 201]).toContain(status);
  expect(json).toBeTypeOf('object');
  return json;
}

/** A body that is not declared as JSON is text for this client, and every field of it missing. */
function expectJavascriptSuccess({ status, headers, json }: Heard): Json {
  expect([Math.floor(status / 100), status === 204]).toEqual([2, false]);
  expect(headers['content-type']).toContain('application/json');
  return json;
}

const CREATE_A = '{"vcpus":2,"ram_mb":2048,"image":"ubuntu-desktop-24.04"}';
const FIELDS_A = ['id', 'name', 'status', 'vcpus', 'ram_mb', 'image', 'created_at'];
const FIELDS_C = [...FIELDS_A, 'disk_size_mb', 'compute_location'];

describe('Python, first generation', () => {
  it('goes through the life of a computer', async () => {
    const made = expectPythonSuccess(await python('POST', '/computers', CREATE_A));
    expect(FIELDS_A.filter((field) => made[field] === undefined)).toEqual([]);
    const id = made['id']!;
    const listed = expectPythonSuccess(await python('GET', '/computers'));
    expect([listed['count'], listed['computers']![0]!['created_at']!.slice(0, 19).length]).toEqual([1, 19]);
    const said = await python('POST', `/computers/${id}/exec`, '{"command":"echo hello","timeout":30}');
    expect(expectPythonSuccess(said)).toMatchObject({ exit_code: 0, stdout: 'hello\n', stderr: '' });
    expect(expectPythonSuccess(await python('POST', `/computers/${id}/stop`))['status']).toBe('stopped');
    expect(expectPythonSuccess(await python('POST', `/computers/${id}/start`))['status']).toBe('running');
    const gone = expectPythonSuccess(await python('DELETE', `/computers/${id}`));
    expect(['deleting', 'deleted']).toContain(gone['status']);
  });

  it('reads a sentence out of every refusal, and the wait out of a number', async () => {
    const refusals = [
      [await python('GET', '/computers/nobody'), 404],
      [await python('POST', '/computers', '{"vcpus":99,"ram_mb":1024,"image":"ubuntu-desktop-24.04"}'), 422],
      [await python('POST', '/computers', '{"vcpus":1,"ram_mb":1024,"image":"other"}'), 400],
      [await python('GET', '/nothing/of/the/kind'), 404],
    ] as const;
    for (const [{ status, json }, expected] of refusals) {
      expect([status, json['detail']]).toEqual([expected, expect.any(String)]);
      expect([json['error'], json['message']]).toEqual([undefined, undefined]);
    }
  });

  it('may have a slash at the end of its base URL, and is not redirected', async () => {
    expect((await python('GET', '//computers')).status).toBe(200);
    expect((await python('GET', '/computers/')).status).toBe(200);
  });

  it('resumes on a conflict: start, ask until it runs, the command again', async () => {
    const id = (await python('POST', '/computers', CREATE_A)).json['id']!;
    await python('POST', `/computers/${id}/stop`);
    const body = '{"command":"echo again","timeout":30}';
    const refused = await python('POST', `/computers/${id}/exec`, body);
    expect([refused.status, refused.json['detail']]).toEqual([409, expect.stringContaining('stopped')]);
    await python('POST', `/computers/${id}/start`);
    expect((await python('GET', `/computers/${id}`)).json['status']).toBe('running');
    expect((await python('POST', `/computers/${id}/exec`, body)).json['stdout']).toBe('again\n');
    await python('DELETE', `/computers/${id}`);
  });
});

describe('JavaScript, first generation', () => {
  it('goes through the life of a computer by its name', async () => {
    const made = expectJavascriptSuccess(await javascript('POST', '/computers', CREATE_A));
    const name = encodeURIComponent(made['name']!);
    expectJavascriptSuccess(await javascript('GET', '/computers'));
    expect(expectJavascriptSuccess(await javascript('GET', `/computers/${name}`))['id']).toBe(made['id']);
    const body = '{"command":"printf \\"%s\\" \\"\u00fc\\"; exit 300","timeout":30}';
    const said = expectJavascriptSuccess(await javascript('POST', `/computers/${name}/exec`, body));
    expect(said).toMatchObject({ exit_code: 44, stdout: 'ü', stderr: '' });
    for (const verb of ['stop', 'start'])
      expectJavascriptSuccess(await javascript('POST', `/computers/${name}/${verb}`));
    expectJavascriptSuccess(await javascript('DELETE', `/computers/${name}`));
  });

  it('names a request that was refused, and an organization of wherever it was made for', async () => {
    const refused = await javascript('GET', '/computers/no%20body%2F%3F');
    expect([refused.status, refused.headers['x-request-id']]).toEqual([404, expect.stringMatching(/^req_/)]);
    const named = ['X-Current-Organization', 'b7a6cf9e-0000-4000-8000-000000000000'];
    expectJavascriptSuccess(await javascript('GET', '/computers', undefined, named));
  });
});

describe('the second generation', () => {
  let id: string;
  beforeAll(async () => {
    id = (await python('POST', '/computers', '{"template_id":"coding-agent"}')).json['id']!;
  });
  afterAll(() => python('DELETE', `/computers/${id}`));

  it('sends what its caller set, and nothing else', async () => {
    const bodies = [
      '{}',
      '{"disk_size_mb":10240,"external_volume_enabled":false}',
      '{"network_policy":{"mode":"off"}}',
    ];
    for (const body of bodies) {
      const made = expectPythonSuccess(await python('POST', '/computers', body));
      expect(FIELDS_C.filter((field) => made[field] === undefined)).toEqual([]);
      await python('DELETE', `/computers/${made['id']}`);
    }
  });

  it('checks its key against the templates, which are a bare list', async () => {
    const { status, json } = await python('GET', '/computers/templates');
    expect([status, Array.isArray(json)]).toEqual([200, true]);
    const required = ['id', 'display_name', 'description', 'default_vcpus', 'default_ram_mb'];
    for (const template of json as Json[])
      expect([...required, 'default_disk_size_mb'].filter((field) => template[field] === undefined)).toEqual(
        [],
      );
    const headers = ['Host', 'x', 'Authorization', 'Bearer not-a-key'];
    expect((await send('GET', '/v1/computers/templates', headers)).status).toBe(401);
  });

  it('filters its list', async () => {
    const query = '?status=running&template_id=coding-agent&project_id=p1&limit=200';
    expect((await python('GET', `/computers${query}`)).json).toMatchObject({ computers: [{ id }], count: 1 });
  });

  it('reads a stream line by line: all that is not empty is an event that it knows', async () => {
    const body = '{"command":"echo out; echo err >&2; exit 5","timeout":120}';
    const { status, headers, text } = await python('POST', `/computers/${id}/exec/stream`, body, [
      ...['Accept', 'text/event-stream'],
    ]);
    expect([status, headers['content-type']]).toEqual([200, 'text/event-stream']);
    const events = text
      .split('\n')
      .filter((line) => line.trim() !== '')
      .map((line) => JSON.parse(line.replace(/^data: ?/, '')) as Json);
    const [started, ...rest] = events;
    expect([started!['type'], typeof started!['command_id'], typeof started!['started_at_unix_ms']]).toEqual([
      ...['started', 'string', 'number'],
    ]);
    expect(typeof started!['timeout_seconds']).toBe('number');
    const last = rest.pop()!;
    expect([last['type'], last['exit_code']]).toEqual(['exit', 5]);
    expect(rest.every((event) => typeof event['data'] === 'string')).toBe(true);
    expect(new Set(rest.map(({ type }) => type))).toEqual(new Set(['stdout', 'stderr']));
    expect(headers['x-celesto-command-id']).toBe(last['command_id']);
  });

  it('publishes a port, lists it as a bare list, and unpublishes it twice', async () => {
    const at = `/computers/${id}/published-ports`;
    const { json } = await python('POST', at, '{"port":3000,"force":false}');
    expect(json).toMatchObject({ computer_id: id, port: 3000, status: 'published' });
    expect(new URL(json['url']!).hostname).toMatch(/^p-/);
    expect((await python('GET', at)).json).toEqual([json]);
    for (const _ of [1, 2])
      expect((await python('DELETE', `${at}/3000`)).json).toMatchObject({ status: 'unpublished', url: null });
  });

  it('lists the commands that ran', async () => {
    const { commands, count } = (await python('GET', `/computers/${id}/commands?limit=50`)).json;
    expect([count, commands![0]!['source'], commands![0]!['exit_code']]).toEqual([1, 'api', 5]);
  });
});

describe('the third generation', () => {
  it('repeats a creation with its key, and finds every field that it requires', async () => {
    const body = '{"template_id":"scratch","vcpus":1,"ram_mb":512,"disk_size_mb":7168,"size_id":null}';
    const more = ['Idempotency-Key', 'a8f6a1c0-5d0d-4e0e-9a3e-6e1b7c3d2f10'];
    const made = await python('POST', '/computers', body, more);
    const again = await python('POST', '/computers', body, more);
    expect([made.status, again.status, again.json['id']]).toEqual([201, 201, made.json['id']]);
    expect(FIELDS_C.filter((field) => made.json[field] === undefined)).toEqual([]);
    expect(Object.keys(made.json['compute_location']!)).toEqual(['provider', 'region', 'country_code']);
    const id = made.json['id']!;
    for (const noun of ['display', 'browser'])
      expect((await python('POST', `/computers/${id}/${noun}`)).status).toBe(409);
    await python('DELETE', `/computers/${id}`);
    const { status, json } = await python('GET', `/computers/${id}`);
    expect(status === 404 || ['deleting', 'deleted'].includes(json['status']!)).toBe(true);
  });
});

describe('integrations', () => {
  let id: string;
  beforeAll(async () => {
    id = (await python('POST', '/computers', CREATE_A)).json['id']!;
  });
  afterAll(() => python('DELETE', `/computers/${id}`));

  async function run(command: string, timeout = 30): Promise<Json> {
    const body = JSON.stringify({ command, timeout });
    return expectPythonSuccess(await python('POST', `/computers/${id}/exec`, body));
  }
  const inWorkspace = (script: string): string =>
    `export A='b'; if [ -d /workspace ]; then cd /workspace; fi; sh -lc '${script}'`;
  /** Bytes that do not compress, the same each time. */
  const content = Buffer.from(
    Array.from({ length: 120_000 }, (_, index) => (index * 7919 + (index >> 8)) % 256),
  );

  it('of the OpenAI agents write a file in pieces, read it, and take and give back the workspace', async () => {
    expect(await run('mkdir -p -- /workspace')).toMatchObject({ exit_code: 0 });
    expect((await run(inWorkspace('echo $A')))['stdout']).toBe('b\n');
    const part = 'celesto-openai-agents-0123456789abcdef.b64';
    await run(`mkdir -p -- /workspace/deep && : > /workspace/${part}`);
    const encoded = content.toString('base64');
    for (let at = 0; at < encoded.length; at += 49_152) {
      const piece = encoded.slice(at, at + 49_152);
      expect(await run(`cat >> /workspace/${part} <<'EOF'\n${piece}\nEOF`)).toMatchObject({ exit_code: 0 });
    }
    expect(await run(`base64 -d /workspace/${part} > /workspace/deep/file`, 120)).toMatchObject({
      exit_code: 0,
    });
    await run(`rm -f /workspace/${part}`);
    const read = await run('test -r /workspace/deep/file && base64 < /workspace/deep/file');
    expect(Buffer.from(read['stdout']!, 'base64').equals(content)).toBe(true);
    const kept = await run(inWorkspace('tar -cf - . | base64'), 120);
    expect(kept).toMatchObject({ exit_code: 0, truncated: false });
    await run('rm -rf /workspace/deep');
    await run(`base64 -d <<'EOF' | tar -xf - -C /workspace\n${kept['stdout']}EOF`, 120);
    expect((await run('md5sum < /workspace/deep/file'))['stdout']).toBe(
      (await run(md5Of(content)))['stdout'],
    );
  });

  it('of the OpenAI agents find a computer running right after they started it', async () => {
    expect((await python('POST', `/computers/${id}/stop`)).json['status']).toBe('stopped');
    expect((await python('GET', `/computers/${id}`)).json['status']).toBe('stopped');
    await python('POST', `/computers/${id}/start`);
    expect(await run('test -r /workspace/deep/file')).toMatchObject({ exit_code: 0 });
  });

  it('of Pi send 180,000 characters in one command', async () => {
    const piece = 'QUJD'.repeat(45_000);
    expect(await run(`printf '%s' '${piece}' >> /workspace/upload.b64`, 300)).toMatchObject({ exit_code: 0 });
    expect((await run('wc -c < /workspace/upload.b64'))['stdout']!.trim()).toBe('180000');
    const tools = 'sh base64 tar mkdir cat test mktemp setsid ps readlink find';
    expect((await run(`command -v ${tools} > /dev/null; echo $?`))['stdout']).toBe('0\n');
  });

  function md5Of(bytes: Buffer): string {
    return `base64 -d <<'EOF' | md5sum\n${bytes.toString('base64')}\nEOF`;
  }
});
