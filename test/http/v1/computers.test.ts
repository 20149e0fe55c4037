/** Computers over `/v1`: made, found, stopped, started and deleted by processes that really run; and how each request is refused. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startComputerServer } from '../../helpers/computers.ts';
import { makeKey, type Answer, type Json, type TestServer } from '../../helpers/http.ts';

let server: TestServer;
let ask: TestServer['ask'];

beforeAll(async () => {
  server = await startComputerServer();
  ({ ask } = server);
});
afterAll(() => server.close());

const GONE = 'cmp_000000000000000000000000';

async function make(body: object = {}): Promise<Json> {
  const answer = await ask('POST /v1/computers', { body });
  expect([answer.status, answer.json['status']]).toEqual([201, 'running']);
  return answer.json;
}

/** One sentence in an object of its own. */
function expectRefusal(answer: Answer, status: number, part: string): void {
  expect([answer.status, answer.json]).toEqual([status, { detail: expect.stringContaining(part) as string }]);
  expect(answer.headers.get('content-type')).toBe('application/json');
  expect(answer.headers.get('x-request-id')).toMatch(/^req_[0-9a-f]{24}$/);
}

function expectUnfit(answer: Answer, loc: (string | number)[], part = ''): void {
  expect(answer.status).toBe(422);
  const { detail, errors, status_code, ...others } = answer.json as Record<string, unknown>;
  expect([detail, status_code, others]).toEqual(['Validation error', 422, {}]);
  const fault = { loc, msg: expect.stringContaining(part) as string, type: expect.any(String) as string };
  expect(errors).toContainEqual(fault);
}

describe('a computer', () => {
  it('is made as the first clients ask, and has all that the last ones read', async () => {
    const body = { vcpus: 2, ram_mb: 2048, image: 'ubuntu-desktop-24.04' };
    const computer = await make(body);
    expect(computer).toEqual({
      ...body,
      id: expect.stringMatching(/^cmp_[0-9a-f]{24}$/) as string,
      name: expect.stringMatching(/^[a-z][a-z0-9-]+$/) as string,
      ...{ status: 'running', disk_size_mb: 7168, template_id: 'scratch', template_version: '1' },
      ...{ network_policy: { mode: 'open' }, external_volume_enabled: false, connection: null },
      ...{ published_ports: [], session_id: null, driver: 'process' },
      compute_location: { provider: 'overwinter', region: 'local', country_code: null },
      created_at: expect.stringMatching(/^\d{4}-\d\d-\d\dT[\d:.]+Z$/) as string,
    });
    await ask(`DELETE /v1/computers/${computer['id']}`);
  });

  it('has what its template has, unless told otherwise', async () => {
    const network_policy = { mode: 'allow', hosts: ['example.com', '*.example.org'] };
    const computer = await make({
      ...{ template_id: 'coding-agent', template_version: '1', disk_size_mb: 51_200, network_policy },
      ...{ vcpus: null, ram_mb: null, image: null, size_id: null, external_volume_enabled: false },
    });
    expect(computer).toMatchObject({ vcpus: 2, ram_mb: 4096, disk_size_mb: 51_200, network_policy });
    const listed = await ask('GET /v1/computers?template_id=coding-agent');
    expect(listed.json).toMatchObject({ computers: [{ id: computer['id'] }], count: 1 });
    expect((await ask('GET /v1/computers?template_id=scratch')).json['count']).toBe(0);
    await ask(`DELETE /v1/computers/${computer['id']}`);
  });

  it('is found by id and by name, listed, stopped with its files, started and deleted', async () => {
    const { id, name } = (await make()) as unknown as { id: string; name: string };
    expect((await ask(`GET /v1/computers/${name}`)).json['id']).toBe(id);
    expect((await ask(`GET /v1//computers/${id}/`)).json['name']).toBe(name);
    await ask(`POST /v1/computers/${id}/exec`, { body: { command: 'echo kept > file' } });

    const stopped = await ask(`POST /v1/computers/${name}/stop`);
    expect([stopped.status, stopped.json['status']]).toEqual([200, 'stopped']);
    expect(stopped.json['stopped_at']).toMatch(/Z$/);
    expect((await ask(`POST /v1/computers/${id}/stop`)).json['status']).toBe('stopped');
    expect((await ask('GET /v1/computers?status=stopped')).json).toMatchObject({
      ...{ computers: [{ id }], count: 1 },
    });
    const body = { command: 'cat file' };
    expectRefusal(await ask(`POST /v1/computers/${id}/exec`, { body }), 409, 'stopped');

    const started = await ask(`POST /v1/computers/${id}/start`);
    expect([started.status, started.json['status']]).toEqual([200, 'running']);
    expect(started.json).not.toHaveProperty('stopped_at');
    expect((await ask(`POST /v1/computers/${id}/exec`, { body })).json['stdout']).toBe('kept\n');

    const deleted = await ask(`DELETE /v1/computers/${name}`);
    expect([deleted.status, deleted.json['status'], deleted.json['id']]).toEqual([200, 'deleted', id]);
    expect((await ask(`DELETE /v1/computers/${id}`)).json['status']).toBe('deleted');
    expect((await ask(`GET /v1/computers/${id}`)).json['status']).toBe('deleted');
    expectRefusal(await ask(`GET /v1/computers/${name}`), 404, name);
    expectRefusal(await ask(`POST /v1/computers/${id}/start`), 409, 'deleted');
    expect((await ask('GET /v1/computers')).json).toEqual({ computers: [], count: 0 });
    expect((await ask('GET /v1/computers?status=deleted')).json['computers']![0]!['id']).toBe(id);
  });

  it('is made once for one idempotency key', async () => {
    const headers = { 'idempotency-key': 'one' };
    const first = await ask('POST /v1/computers', { body: { vcpus: 1 }, headers });
    const again = await ask('POST /v1/computers', { body: { vcpus: 1 }, headers });
    expect([again.status, again.json['id']]).toEqual([201, first.json['id']]);
    expectRefusal(await ask('POST /v1/computers', { body: { vcpus: 2 }, headers }), 409, 'Idempotency-Key');
    const long = { headers: { 'idempotency-key': 'x'.repeat(257) }, body: {} };
    expectUnfit(await ask('POST /v1/computers', long), ['header', 'idempotency-key']);
    await ask(`DELETE /v1/computers/${first.json['id']}`);
  });

  it('retries a restore only where there is something to restore', async () => {
    const { id } = await make();
    expectRefusal(await ask(`POST /v1/computers/${id!}/retry-restore`), 409, 'restore');
    await ask(`DELETE /v1/computers/${id!}`);
  });
});

describe('a computer that does not start', () => {
  it('is in error, says why, and is started again by a retry', async () => {
    const { driver } = server.runtime;
    let broken = true;
    const flaky = await startComputerServer({
      driver: {
        ...driver,
        wake: (request) =>
          broken ? Promise.reject(new Error('a secret of the host')) : driver.wake(request),
      },
    });
    try {
      const made = await flaky.ask('POST /v1/computers', { body: {} });
      expect([made.status, made.json['status']]).toEqual([201, 'error']);
      expect(made.json['last_error']).toContain('could not be started');
      expect(made.text).not.toContain('secret');
      const at = `/v1/computers/${made.json['id']}`;
      expectRefusal(await flaky.ask(`POST ${at}/exec`, { body: { command: 'true' } }), 409, 'error');
      broken = false;
      const retried = await flaky.ask(`POST ${at}/retry-restore`);
      expect([retried.status, retried.json['status']]).toEqual([200, 'running']);
      expect(retried.json).not.toHaveProperty('last_error');
      await flaky.ask(`DELETE ${at}`);
    } finally {
      await flaky.close();
    }
  });
});

describe('many computers', () => {
  it('are deleted together, each by itself', async () => {
    const [one, other] = [await make(), await make()];
    const foreign = await ask('POST /v1/computers', { body: {}, key: server.stranger.key });
    const computer_ids = [one['id'], other['name'], GONE, foreign.json['id'], one['id']];
    const { status, json } = await ask('POST /v1/computers/bulk-delete', { body: { computer_ids } });
    expect([status, json]).toEqual([
      200,
      {
        ...{ deleted: 2, deleted_ids: [one['id'], other['name']] },
        failed_ids: [GONE, foreign.json['id']],
      },
    ]);
    const theirs = { key: server.stranger.key };
    expect((await ask(`GET /v1/computers/${foreign.json['id']}`, theirs)).json['status']).toBe('running');
    await ask(`DELETE /v1/computers/${foreign.json['id']}`, theirs);
    for (const ids of [[], Array.from({ length: 101 }, () => GONE), 'x'])
      expectUnfit(await ask('POST /v1/computers/bulk-delete', { body: { computer_ids: ids } }), [
        ...['body', 'computer_ids'],
      ]);
  });

  it('are listed up to a limit, and none of another org', async () => {
    const made = [await make(), await make(), await make()];
    expect((await ask('GET /v1/computers?limit=2')).json).toMatchObject({
      computers: [{ id: made[2]!['id'] }, { id: made[1]!['id'] }],
      count: 2,
    });
    expect((await ask('GET /v1/computers?project_id=any')).json['count']).toBe(3);
    const theirs = await ask('GET /v1/computers', { key: server.stranger.key });
    expect(theirs.json).toEqual({ computers: [], count: 0 });
    for (const limit of ['0', '201', '-1', 'x', '1.5'])
      expectUnfit(await ask(`GET /v1/computers?limit=${limit}`), ['query', 'limit']);
    expectUnfit(await ask('GET /v1/computers?status=asleep'), ['query', 'status']);
    await ask('POST /v1/computers/bulk-delete', { body: { computer_ids: made.map(({ id }) => id) } });
  });
});

describe('templates', () => {
  it('are a bare list, and tell a good key from a bad one', async () => {
    const { status, json } = await ask('GET /v1/computers/templates');
    expect([status, (json as unknown as Json[]).map(({ id }) => id)]).toEqual([
      ...[200, ['scratch', 'coding-agent']],
    ]);
    expect(json[0]).toMatchObject({ aliases: ['ubuntu-desktop-24.04'], default_vcpus: 1 });
    for (const key of [null, 'x', `${server.org.key.slice(0, -4)}AAAA`])
      expectRefusal(await ask('GET /v1/computers/templates', { key }), 401, 'key');
  });
});

describe('what a computer cannot be', () => {
  it.each([
    [{ vcpus: 0 }, 'vcpus'],
    [{ vcpus: 17 }, 'vcpus'],
    [{ vcpus: 1.5 }, 'vcpus'],
    [{ vcpus: '2' }, 'vcpus'],
    [{ ram_mb: 511 }, 'ram_mb'],
    [{ ram_mb: 32_769 }, 'ram_mb'],
    [{ disk_size_mb: 51_201 }, 'disk_size_mb'],
    [{ image: 'x'.repeat(256) }, 'image'],
    [{ template_id: 'x'.repeat(65) }, 'template_id'],
    [{ external_volume_enabled: true }, 'external_volume_enabled', 'volumes are not served'],
    [{ size_id: 'large' }, 'size_id', 'sizes are not served'],
    [{ driver: 'vmware' }, 'driver'],
  ] as [object, string, string?][])('%j is said to be of the wrong form', async (body, field, part) => {
    expectUnfit(await ask('POST /v1/computers', { body }), ['body', field], part);
  });

  it('network policies have hosts', async () => {
    const wrong = [
      { mode: 'shut' },
      { mode: 'allow' },
      { mode: 'allow', hosts: [] },
      { mode: 'allow', hosts: ['a b'] },
      'open',
    ];
    for (const network_policy of wrong)
      expect((await ask('POST /v1/computers', { body: { network_policy } })).status).toBe(422);
  });

  it.each([
    [{ template_id: 'browser-agent' }, 400, 'there are: scratch, coding-agent'],
    [{ template_version: '9' }, 400, 'version is 1'],
    [{ image: 'windows' }, 400, 'unknown image'],
    [{ driver: 'docker' }, 400, 'it runs: process'],
    [{ snapshot_id: 'snp_1' }, 404, 'no such snapshot'],
  ] as [object, number, string][])('%j is refused with a sentence', async (body, status, part) => {
    expectRefusal(await ask('POST /v1/computers', { body }), status, part);
    expect((await ask('GET /v1/computers')).json['count']).toBe(0);
  });

  it('a body is an object of JSON', async () => {
    expectUnfit(await ask('POST /v1/computers', { raw: '{' }), ['body']);
    expectUnfit(await ask('POST /v1/computers', { body: [] }), ['body']);
    const xml = { raw: '<x/>', headers: { 'content-type': 'text/xml' } };
    expectUnfit(await ask('POST /v1/computers', xml), ['body'], 'application/json');
    expectRefusal(await ask('POST /v1/computers', { raw: '['.repeat(100) }), 400, 'nests');
  });
});

describe('who may', () => {
  it('is a key of the org, whatever org of another server its client names', async () => {
    const named = (org: string) => ask('GET /v1/computers', { headers: { 'x-current-organization': org } });
    expect((await named(server.org.id)).status).toBe(200);
    expect((await named('org-of-another-server')).status).toBe(200);
    expectRefusal(await named(server.stranger.id), 403, 'another organization');
  });

  it('reads with a key that only reads, and does nothing else', async () => {
    const { key } = await makeKey(server.runtime, server.org.id, { scopes: ['read'] });
    const { id } = await make();
    expect((await ask(`GET /v1/computers/${id!}`, { key })).status).toBe(200);
    for (const what of [
      'POST /v1/computers',
      `DELETE /v1/computers/${id!}`,
      `POST /v1/computers/${id!}/stop`,
    ])
      expectRefusal(await ask(what, { key }), 403, 'write');
    await ask(`DELETE /v1/computers/${id!}`);
  });

  it('finds nothing of another org, by whatever route', async () => {
    const { id, name } = await make();
    const { key } = server.stranger;
    const rest = [
      ...['GET ', 'DELETE ', 'POST /stop', 'POST /start', 'POST /retry-restore', 'GET /commands'],
      ...['GET /observability', 'GET /published-ports', 'DELETE /published-ports/8000', 'GET /events'],
      ...['POST /display', 'POST /browser'],
    ];
    for (const one of rest.map((each) => each.split(' ') as [string, string]))
      for (const named of [id!, name!])
        expectRefusal(await ask(`${one[0]} /v1/computers/${named}${one[1]}`, { key }), 404, 'no computer');
    const body = { command: 'true' };
    for (const route of ['exec', 'exec/stream', 'published-ports'])
      expectRefusal(await ask(`POST /v1/computers/${id!}/${route}`, { key, body }), 404, 'no computer');
    await ask(`DELETE /v1/computers/${id!}`);
  });
});

describe('what is not there', () => {
  it('is 404 with a sentence, as are routes of the clients that are not served', async () => {
    for (const what of [
      'GET /v1',
      'GET /v1/',
      'GET /v1/gatekeeper/connections',
      'PUT /v1/computers',
      'GET /v1/x/y',
    ])
      expectRefusal(await ask(what), 404, 'no such route');
    for (const noun of ['display', 'browser']) {
      const { id } = await make();
      expectRefusal(await ask(`POST /v1/computers/${id!}/${noun}`), 409, noun);
      await ask(`DELETE /v1/computers/${id!}`);
    }
  });

  it('is said without what was asked for, and without a fault of ours', async () => {
    const odd = [
      '%00',
      '%ff',
      '%',
      '..%2f..',
      'a%20b',
      '%F0%9F%92%A9',
      "'; drop table computer",
      'x'.repeat(300),
    ];
    for (const name of odd) {
      const answer = await ask(`GET /v1/computers/${name}`);
      expect([name, [404, 422]]).toEqual([name, expect.arrayContaining([answer.status])]);
    }
  });
});
