/** What became of a computer, over `/v1`: its commands, what it uses, its own log; and its published ports. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createObserver } from '../../../src/http/v1/observe.ts';
import type { Computer, ComputerUsage } from '../../../src/resource/computer/driver.ts';
import { emptyComputer } from '../../../src/resource/computer/life.ts';
import { startComputerServer } from '../../helpers/computers.ts';
import { dataOf, fieldOf, type Json, type TestServer } from '../../helpers/http.ts';

let server: TestServer;
let ask: TestServer['ask'];
let id: string;
let at: string;

beforeAll(async () => {
  server = await startComputerServer({}, { ports_url: () => 'https://*.apps.example' });
  ({ ask } = server);
  id = (await ask('POST /v1/computers', { body: {} })).json['id']!;
  at = `/v1/computers/${id}`;
});
afterAll(() => server.close());

describe('commands', () => {
  it('are listed newest first, without what they were or said', async () => {
    for (const command of ['echo secret', 'exit 3', 'true'])
      await ask(`POST ${at}/exec`, { body: { command } });
    const { status, json, text } = await ask(`GET ${at}/commands`);
    const commands = json['commands'] as Json[];
    expect([status, json['count'], text.includes('secret')]).toEqual([200, 3, false]);
    expect(commands.map(({ exit_code }) => exit_code)).toEqual([0, 3, 0]);
    expect(commands[2]).toMatchObject({
      status: 'completed',
      stdout_bytes: 7,
      duration_ms: expect.any(Number),
    });
    expect((await ask(`GET ${at}/commands?limit=2`)).json['count']).toBe(2);
    expect((await ask(`GET ${at}/commands?limit=201`)).status).toBe(422);
  });
});

describe('the log of a computer', () => {
  it('is read in pages, without where its driver keeps it', async () => {
    const { json, text } = await ask(`GET ${at}/events?limit=2`);
    expect(fieldOf(dataOf(json), 'type')).toEqual(['computer.created', 'computer.starting']);
    const rest = await ask(`GET ${at}/events?cursor=${json['next_cursor']}`);
    expect(rest.json).toMatchObject({
      data: [{ seq: 3, type: 'computer.started', body: { generation: 1, files: 'empty' } }],
      next_cursor: null,
    });
    expect(text + rest.text).not.toContain('reference');
    for (const query of ['cursor=9', 'after=x', 'limit=0'])
      expect([query, [400, 422]]).toEqual([
        ...[query, expect.arrayContaining([(await ask(`GET ${at}/events?${query}`)).status])],
      ]);
  });
});

describe('observability', () => {
  it('shows what its driver can tell, and nothing while it is stopped', async () => {
    const { status, json } = await ask(`GET ${at}/observability`);
    expect([status, Object.keys(json)]).toEqual([200, ['latest', 'samples']]);
    for (const window of ['1h', '24h'])
      expect((await ask(`GET ${at}/observability?window=${window}`)).status).toBe(200);
    expect((await ask(`GET ${at}/observability?window=1y`)).status).toBe(422);
    await ask(`POST ${at}/stop`);
    expect((await ask(`GET ${at}/observability`)).json['latest']).toBe(null);
    await ask(`POST ${at}/start`);
  });

  const usage: ComputerUsage = {
    ...{ cpu_seconds: 30, memory_bytes: 2 ** 20, disk_bytes: null, processes: 3, uptime_ms: 60_000 },
  };
  const handleOf = (usage: ComputerUsage): Computer =>
    ({ usage: () => Promise.resolve(usage) }) as unknown as Computer;
  const state = emptyComputer('cmp_1');

  it('keeps a sample a minute, for an hour or a day', async () => {
    const observe = createObserver();
    const start = Date.UTC(2026, 0);
    const minutes = (count: number): number => start + count * 60_000;
    const first = await observe(state, handleOf(usage), '1h', start);
    expect(first.latest).toMatchObject({
      cpu_used_percent: 50,
      ram_used_mb: 1,
      disk_used_mb: null,
      partial: true,
    });
    const soon = await observe(state, handleOf(usage), '1h', start + 1000);
    expect(soon.samples).toEqual(first.samples);
    const later = { ...usage, cpu_seconds: 36, uptime_ms: 120_000 };
    const second = await observe(state, handleOf(later), '1h', minutes(1));
    expect([second.samples.length, second.latest?.cpu_used_percent]).toEqual([2, 10]);
    expect((await observe(state, undefined, '1h', minutes(90))).samples).toEqual([]);
    const day = await observe(state, undefined, '24h', minutes(90));
    expect([day.latest, day.samples.length]).toEqual([null, 2]);
    for (let count = 100; count < 1700; count += 1)
      await observe(state, handleOf(usage), '1h', minutes(count));
    expect((await observe(state, undefined, '24h', minutes(1699))).samples).toHaveLength(1440);
  });

  it('is empty where the driver cannot tell, or for a computer that was not asked about for long', async () => {
    const observe = createObserver();
    const mute = { usage: () => Promise.reject(new Error('cannot')) } as unknown as Computer;
    expect(await observe(state, mute, '1h', 0)).toEqual({ latest: null, samples: [] });
    await observe(state, handleOf(usage), '1h', 0);
    for (let other = 0; other < 1000; other += 1)
      await observe(emptyComputer(`cmp_other_${other}`), handleOf(usage), '1h', 0);
    expect((await observe(state, undefined, '1h', 0)).samples).toEqual([]);
  });
});

describe('published ports', () => {
  it('are published, listed with their computer, and unpublished', async () => {
    const { status, json } = await ask(`POST ${at}/published-ports`, { body: {} });
    expect([status, json]).toEqual([
      200,
      {
        ...{ id: expect.stringMatching(/^cpp_/) as string, computer_id: id, port: 8000, status: 'published' },
        ...{
          url: `https://p-${String(json['id']).slice(4)}.apps.example`,
          created_at: expect.stringMatching(/Z$/) as string,
        },
      },
    ]);
    const again = await ask(`POST ${at}/published-ports`, { body: { port: 8000, force: true } });
    expect(again.json).toEqual(json);
    await ask(`POST ${at}/published-ports`, { body: { port: 65_535 } });
    const listed = (await ask(`GET ${at}/published-ports`)).json as Json[];
    expect(listed.map(({ port }) => port)).toEqual([8000, 65_535]);
    expect((await ask(`GET ${at}`)).json['published_ports']).toEqual(listed);
    expect((await ask('GET /v1/computers')).json['computers']![0]!['published_ports']).toEqual(listed);

    for (const _ of [1, 2]) {
      const over = await ask(`DELETE ${at}/published-ports/8000`);
      expect([over.status, over.json]).toEqual([
        200,
        { id: null, computer_id: id, port: 8000, status: 'unpublished', url: null, created_at: null },
      ]);
    }
    expect((await ask(`GET ${at}/published-ports`)).json).toHaveLength(1);
  });

  it('lie in a range, and are not too many', async () => {
    for (const port of [80, 1023, 65_536, 1.5, '8000'])
      expect((await ask(`POST ${at}/published-ports`, { body: { port } })).status).toBe(422);
    for (const port of ['80', '99999', 'x', '8000.5'])
      expect((await ask(`DELETE ${at}/published-ports/${port}`)).status).toBe(422);
    const statuses: number[] = [];
    for (let port = 2000; port < 2016; port += 1)
      statuses.push((await ask(`POST ${at}/published-ports`, { body: { port } })).status);
    expect(statuses.filter((status) => status === 200)).toHaveLength(15);
    const refused = await ask(`POST ${at}/published-ports`, { body: { port: 3000 } });
    expect([refused.status, refused.json]).toEqual([
      ...[409, { detail: 'a computer has at most 16 published ports' }],
    ]);
  });

  it('go with their computer', async () => {
    await ask(`DELETE ${at}`);
    expect((await ask(`GET ${at}/published-ports`)).json).toEqual([]);
    const refused = await ask(`POST ${at}/published-ports`, { body: {} });
    expect([refused.status, refused.json['detail']]).toEqual([409, expect.stringContaining('deleted')]);
  });
});
