/** URLs that open a file without a key, where they are asked for too often. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { NO_LIMITS } from '../../../src/http/rate-limit.ts';
import { startComputerServer } from '../../helpers/computers.ts';
import type { TestServer } from '../../helpers/http.ts';
import { recordedFetch } from '../../helpers/records.ts';
import { eventually } from '../../helpers/world.ts';

let server: TestServer;
let id: string;
beforeAll(async () => {
  server = await startComputerServer({}, { limits: { ...NO_LIMITS, requests_per_org_max: 4 } });
  id = (await server.ask('POST /api/sandboxes', { body: { timeout: 0 } })).json['sandboxID']!;
});
afterAll(() => server.close());

describe('a signed URL', () => {
  it('is one of the requests of its org, and another org goes on', async () => {
    const url = await eventually(async () => {
      const made = await server.ask(`POST /api/sandboxes/${id}/files/upload-url`, { body: { path: 'x' } });
      return made.status === 200 ? String(made.json['url']) : undefined;
    });
    const put = () => recordedFetch(url, { method: 'PUT', body: 'x' });
    await eventually(async () => (await put()).status === 204);
    const statuses = (await Promise.all(Array.from({ length: 60 }, put))).map(({ status }) => status);
    expect(statuses).toContain(429);
    expect(statuses.filter((status) => status !== 204 && status !== 429)).toEqual([]);
    const { key } = server.stranger;
    expect((await server.ask('GET /api/sandboxes', { key })).status).toBe(200);
  });
});
