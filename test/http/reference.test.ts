/** The API reference: a page of this server alone, and a document whose examples work. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { archive, upload } from '../conformance/deploy.ts';
import { startComputerServer } from '../helpers/computers.ts';
import { dataOf, makeOperator, makeSession, type Json, type TestServer } from '../helpers/http.ts';
import { startReceiver, type Receiver } from '../helpers/receiver.ts';

let server: TestServer;
let receiver: Receiver;

beforeAll(async () => {
  server = await startComputerServer();
  receiver = await startReceiver();
});
afterAll(async () => {
  await server.close();
  await receiver.close();
});

describe('the page', () => {
  it('brings all that it needs from this server, and may load nothing from another', async () => {
    const page = await server.ask('GET /reference', { key: null });
    expect(page.headers.get('content-security-policy')).toContain("default-src 'none'; script-src 'self'");
    const needs = [...page.text.matchAll(/(?:src|href)="([^"]+)"/g)].map((match) => match[1]!);
    expect(needs.filter((url) => !url.startsWith('data:')).length).toBe(3);
    for (const url of needs.filter((url) => !url.startsWith('data:'))) {
      const { status, headers } = await server.ask(`GET ${url}`, { key: null });
      expect([url, status]).toEqual([url, 200]);
      expect(headers.get('content-type')).toMatch(/^text\/(css|javascript)/);
    }
    const start = await server.ask('GET /reference/start.js', { key: null });
    expect(start.text).toContain("url: '/openapi.json'");
  });

  it('serves the same bytes each time', async () => {
    for (const name of ['reference/swagger-ui-bundle.js', 'openapi.json']) {
      const [first, second] = await Promise.all([1, 2].map(() => server.ask(`GET /${name}`, { key: null })));
      const third = await server.ask(`GET /${name}`, { key: null });
      expect(first!.text.length).toBeGreaterThan(10_000);
      expect([second!.text === first!.text, third.text === first!.text]).toEqual([true, true]);
      expect(third.headers.get('content-type')).toBe(first!.headers.get('content-type'));
    }
  });

  it('serves no other file', async () => {
    for (const name of ['package.json', '..%2f..%2fpackage.json', 'swagger-ui.css.map']) {
      expect((await server.ask(`GET /reference/${name}`, { key: null })).status).toBe(404);
    }
  });
});

describe('the examples of the document', () => {
  it('are there for every body that a request must have, and the server takes each of them', async () => {
    const { paths, components } = (await server.ask('GET /openapi.json', { key: null })).json;
    const names = await realNames();
    const operator = await makeOperator(server.runtime);
    const tried: string[] = [];
    for (const [path, methods] of Object.entries(paths!)) {
      for (const [method, operation] of Object.entries(methods)) {
        const name = schemaOf(operation);
        if (name === undefined || path === ASKS_AN_APP) continue;
        const example = components!['schemas']![name]!['example'];
        expect([method, path, name, example]).not.toContain(undefined);
        const body = withRealNames(JSON.stringify(example), names);
        const url = path.replaceAll(/\{(\w+)\}/g, (_, parameter: string) => names[parameter]!);
        const at = path.startsWith('/v3/agents') && path.includes('destination_id') ? 'of_agent' : 'of_org';
        const real = path.startsWith('/v3/sessions')
          ? url
          : url.replace(names['destination_id']!, names[at]!);
        const answer = await server.ask(`${method.toUpperCase()} ${real}`, {
          raw: body,
          headers: { 'content-type': 'application/json' },
          ...(path === '/v3/orgs' ? { key: operator.key } : {}),
        });
        expect([method, path, answer.status, answer.text]).toEqual([
          ...[method, path, expect.toSatisfy((status: number) => status < 300), expect.anything()],
        ]);
        tried.push(name);
      }
    }
    expect(new Set(tried).size).toBeGreaterThan(10);
  });
});

/** It needs one that runs: test/conformance/deployments.test.ts. */
const ASKS_AN_APP = '/v1/deploy/agents/run';

/** The schema of a body that the request must have. */
function schemaOf(operation: Json): string | undefined {
  const content = operation['requestBody']?.['content']?.['application/json'];
  return content?.['schema']?.['$ref']?.split('/').at(-1);
}

/** The examples' ids stand for these. */
async function realNames(): Promise<Record<string, string>> {
  const session = await makeSession(server);
  const made = async (path: string, body: object) => (await server.ask(`POST ${path}`, { body })).json['id']!;
  const url = { url: receiver.url };
  const computer = await made('/v1/computers', {});
  const begun = async (noun: 'exec' | 'pty', body: object) =>
    (await server.ask(`POST /api/sandboxes/${computer}/${noun}`, { body })).json['sessionID']!;
  const app_name = 'weather-bot';
  await upload({ url: server.url, api_key: server.org.key }, { name: app_name }, await archive({ x: '' }));
  return {
    app_name,
    session_id: session.id,
    agent_id: dataOf((await server.ask('GET /v3/agents')).json)[0]!['id']!,
    credential_id: await made('/v3/credentials', { key: 'sk-some-key' }),
    destination_id: await made(`/v3/sessions/${session.id}/destinations`, url),
    of_agent: await made(`/v3/agents/${session.agent}/destinations`, url),
    of_org: await made('/v3/destinations', url),
    ...{ computer_id: computer, sandbox_id: computer },
    checkpoint_id: await made(`/v1/computers/${computer}/snapshots`, {}),
    exec_id: await begun('exec', { cmd: 'cat' }),
    pty_id: await begun('pty', {}),
  };
}

function withRealNames(example: string, names: Record<string, string>): string {
  return example
    .replaceAll('agt_000000000000000000000000', names['agent_id']!)
    .replaceAll('ses_000000000000000000000000', names['session_id']!)
    .replaceAll('cred_000000000000000000000000', names['credential_id']!)
    .replaceAll('https://example.com/hook', receiver.url);
}
