/**
 * Who may do what: every route of the document against every kind of credential. `REQUIRED` is the table of what each route asks for;
 * a route without a row fails. What belongs to another org is not found, and no list shows it.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createApp, describe as describeApp } from '../../src/http/app.ts';
import { POWERS, type Power } from '../../src/http/authorize.ts';
import type { Computers } from '../../src/engine/computers/computers.ts';
import type { Deployments } from '../../src/engine/deployments/deployments.ts';
import type { Runtime } from '../../src/engine/runtime.ts';
import type { KeyScope } from '../../src/resource/api-key.ts';
import type { Scope } from '../../src/store/client-tokens.ts';
import {
  dataOf,
  makeKey,
  makeOperator,
  makeSession,
  makeToken,
  startServer,
  type Answer,
  type TestServer,
} from '../helpers/http.ts';
import { playTurn } from '../helpers/runtime.ts';
import { ABOUT_WHAT_RUNS, HAS_ENDED, makeNames, type Names } from './auth/owned.ts';
import { REQUIRED, type Row } from './auth/required.ts';

type Operation = { parameters?: { name: string }[]; security?: object[]; 'x-scope'?: object };
const document = describeApp(
  createApp({} as Runtime, {
    signal: new AbortController().signal,
    version: '0',
    capabilities: {},
    computers: {} as Computers,
    deployments: {} as Deployments,
  }),
  '0',
) as { paths: Record<string, Record<string, Operation>> };
const ROUTES = Object.entries(document.paths)
  .filter(([path]) => /^\/(v[13]|api)\//.test(path))
  .flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({
      ...{ name: `${method} ${path}`, method: method.toUpperCase(), path, operation },
      row: REQUIRED[`${method} ${path}`],
    })),
  );
type Route = (typeof ROUTES)[number];

/** What a request meets: refused as unauthorized or forbidden, told that there is no such session, or let in. */
type Fate = 'unauthorized' | 'forbidden' | 'no such session' | 'open';
type Kind = {
  name: string;
  key: string | null;
  /** Whether it is a key or token that may be used at all. */
  good: boolean;
  fate: (route: Route, row: Row) => Fate;
};

let server: TestServer;
let names: Names;
let kinds: Kind[];
let cells = 0;

beforeAll(async () => {
  server = await startServer();
  const session = await makeSession(server);
  await playTurn(server.runtime, session.id, 'done');
  names = await makeNames(server, session);
  expect(Object.values(names)).not.toContain(undefined);
  kinds = await makeKinds(session.id);
});
afterAll(() => server.close());

async function makeKinds(session: string): Promise<Kind[]> {
  const in_a_year = new Date(Date.now() + 365 * 86_400_000);
  const { runtime, org, stranger } = server;
  const operator = await makeOperator(runtime);
  const keyOf = async (owner: string, ...scopes: KeyScope[]) =>
    (await makeKey(runtime, owner, { scopes })).key;
  const read = await keyOf(org.id, 'read');
  return [
    closed('none', null),
    closed('malformed', 'x'),
    closed('a truncated key', org.key.slice(0, -1)),
    closed('an unknown key', `ow_00000000_${'a'.repeat(43)}`),
    closed('a wrong secret', `${org.key.slice(0, -4)}AAAA`),
    closed("another key's secret", org.key.slice(0, 12) + read.slice(12)),
    closed('an expired key', await expiredKey(org.id)),
    closed('a revoked key', await revokedKey(org.id)),
    closed('an expired key of the default org', await expiredKey(operator.id)),
    closed('a revoked key of the default org', await revokedKey(operator.id)),
    own('a read key', read, 'read'),
    own('a write key', await keyOf(org.id, 'write'), 'write'),
    own('an admin key', org.key, 'admin'),
    own('a key with all scopes', await keyOf(org.id, 'read', 'write', 'admin'), 'admin'),
    own('a key that expires later', (await makeKey(runtime, org.id, { expires_at: in_a_year })).key, 'admin'),
    alien('a read key of the default org', await keyOf(operator.id, 'read'), 'read'),
    alien('a write key of the default org', await keyOf(operator.id, 'write'), 'write'),
    alien('an admin key of the default org', operator.key, 'operator'),
    alien('a read key of another org', await keyOf(stranger.id, 'read'), 'read'),
    alien('a write key of another org', await keyOf(stranger.id, 'write'), 'write'),
    alien('an admin key of another org', stranger.key, 'admin'),
    ...(await tokenKinds(session)),
  ];
}

async function tokenKinds(session: string): Promise<Kind[]> {
  const { runtime, org, stranger } = server;
  const other = await makeSession(server, { key: 'another' });
  const foreign = await makeSession({ ask: (what, ask) => server.ask(what, { key: stranger.key, ...ask }) });
  const deleted = await makeSession(server, { key: 'deleted' });
  const streams = runtime.database.db.updateTable('stream').where('id', '=', deleted.id);
  await streams.set({ deleted_at: new Date() }).execute();
  const revoked = await makeToken(runtime, org.id, session);
  await server.ask(`DELETE /v3/sessions/${session}/client-tokens/${revoked.id}`);
  const tokenOf = async (...scopes: Scope[]) => (await makeToken(runtime, org.id, session, { scopes })).token;
  return [
    closed('an unknown token', `owct_${'b'.repeat(43)}`),
    closed('an expired token', (await makeToken(runtime, org.id, session, { ttl_s: -1 })).token),
    closed('a revoked token', revoked.token),
    closed('a token of a deleted session', deleted.token),
    token('a token that may read', await tokenOf('read'), ['read'], 'own'),
    token('a token that may steer', await tokenOf('steer'), ['steer'], 'own'),
    token('a token that may both', await tokenOf('read', 'steer'), ['read', 'steer'], 'own'),
    token('a token of another session', other.token, ['read', 'steer'], 'other'),
    token('a token of another org', foreign.token, ['read', 'steer'], 'other'),
  ];
}

async function expiredKey(owner: string): Promise<string> {
  const expires_at = new Date(Date.now() - 1000);
  return (await makeKey(server.runtime, owner, { expires_at })).key;
}

async function revokedKey(owner: string): Promise<string> {
  const { key, key_id } = await makeKey(server.runtime, owner);
  const keys = server.runtime.database.db.updateTable('api_key').where('id', '=', key_id);
  await keys.set({ revoked_at: new Date() }).execute();
  return key;
}

function closed(name: string, key: string | null): Kind {
  return { name, key, good: false, fate: () => 'unauthorized' };
}

function own(name: string, key: string, power: Power): Kind {
  return { name, key, good: true, fate: fateOfKey(power) };
}

/** As good as one of the org's own, but none of its sessions is there for it. */
function alien(name: string, key: string, power: Power): Kind {
  const fate: Kind['fate'] = (route, row) => {
    const fate = fateOfKey(power)(route, row);
    return fate === 'open' && route.path.includes('{session_id}') ? 'no such session' : fate;
  };
  return { name, key, good: true, fate };
}

function token(name: string, key: string, scopes: Scope[], of: 'own' | 'other'): Kind {
  return { name, key, good: true, fate: fateOfToken(scopes, of) };
}

function fateOfKey(power: Power): Kind['fate'] {
  return (_, [required]) => (POWERS.indexOf(power) >= POWERS.indexOf(required) ? 'open' : 'forbidden');
}

function fateOfToken(scopes: Scope[], of: 'own' | 'other'): Kind['fate'] {
  return (_, [, required]) => {
    if (required === undefined) return 'forbidden';
    if (of === 'other') return 'no such session';
    return scopes.includes(required) ? 'open' : 'forbidden';
  };
}

async function meetAll(
  route: Route,
  kinds: Kind[],
  present: (key: string) => Record<string, string>,
): Promise<Record<string, string>> {
  const met: Record<string, string> = {};
  for (const { name, key } of kinds) met[name] = await meet(route, key === null ? {} : present(key));
  return met;
}

function fatesOf(route: Route, kinds: Kind[]): Record<string, string> {
  return Object.fromEntries(
    kinds.map(({ name, fate }) => [name, route.row ? fate(route, route.row) : 'has no row']),
  );
}

function pathOf({ path, operation }: Route): string {
  const destination = Object.keys(names).find((name) => name.startsWith('/') && path.startsWith(name));
  const filled = path.replaceAll(/\{(\w+)\}/g, (_, param: string) => {
    const name = names[param === 'destination_id' ? destination! : param];
    if (name === undefined) throw new Error(`nothing that the org owns is named by {${param}}`);
    return name;
  });
  // Without it the schema would refuse before anything is looked for.
  return operation.parameters?.some(({ name }) => name === 'path') ? `${filled}?path=x` : filled;
}

/** Bodies are refused after the credential and before the handler, so whoever is let in changes nothing. */
const TOO_DEEP = `${'['.repeat(100)}${']'.repeat(100)}`;

async function meet(route: Route, headers: Record<string, string>): Promise<string> {
  const raw = route.method === 'GET' ? {} : { raw: TOO_DEEP };
  const answer = await server.ask(`${route.method} ${pathOf(route)}`, { key: null, headers, ...raw });
  cells += 1;
  return fateOf(answer, route);
}

function fateOf({ status, json, headers }: Answer, route: Route): string {
  const message = json['error']?.['message'] ?? json['detail'] ?? json['error'] ?? '';
  if (status === 401) return 'unauthorized';
  if (status === 403) return 'forbidden';
  if (status === 404 && message === 'no such session') return message;
  // The computer does not run, so nothing is done to it by a request whose body is not looked at.
  const known = route.method === 'GET' ? [200, 404, 409] : [400, 404, 409];
  return known.includes(status) && headers.get('x-request-id') ? 'open' : `${status} ${message}`;
}

describe('the table', () => {
  it('has a row for every route, and no other', () => {
    expect(ROUTES.map(({ name }) => name).sort()).toEqual(Object.keys(REQUIRED).sort());
  });
});

describe.each(ROUTES)('$name', (route) => {
  it('asks for what the document says', () => {
    const [power, scope] = route.row ?? [];
    expect(route.operation['x-scope']).toEqual({
      org_key: power,
      ...(scope === undefined ? {} : { client_token: scope }),
    });
    const schemes = (route.operation.security ?? []).flatMap((scheme) => Object.keys(scheme));
    const token = scope === undefined ? [] : ['client_token'];
    expect(schemes).toEqual(['org_key', 'org_key_header', ...token]);
  });

  describe.each([
    ['a bearer', (key: string) => ({ authorization: `Bearer ${key}` })],
    ['X-API-Key', (key: string) => ({ 'x-api-key': key })],
  ] as const)('asked by %s', (_, present) => {
    it('is closed without a credential, and to a wrong one', async () => {
      const closed = kinds.filter(({ good }) => !good);
      expect(await meetAll(route, closed, present)).toEqual(fatesOf(route, closed));
    });

    it('opens to whom it should, and to nobody else', async () => {
      const good = kinds.filter(({ good }) => good);
      expect(await meetAll(route, good, present)).toEqual(fatesOf(route, good));
    });
  });
});

describe('the matrix', () => {
  it('has at least 1,500 cells, and changed nothing', async () => {
    expect(cells).toBeGreaterThanOrEqual(1500);
    const { json } = await server.ask(`GET /v3/agents/${names['agent_id']}`);
    expect(json['prompt']).toBe('You help.');
    expect(dataOf((await server.ask('GET /v3/api-keys')).json)[0]!['revoked_at']).toBe(null);
  });
});

/** Lists that say the same to all. */
const OF_EVERYBODY = ['/v1/computers/templates'];

/** Every id in an answer, whatever it is called and however deep. */
function idsOf(text: string): string[] {
  return [...text.matchAll(/"([a-z]+_[0-9a-f]{24})"/g)].map((match) => match[1]!);
}

function sentenceOf(json: Answer['json']): string {
  return String(json['detail'] ?? json['error']?.['message'] ?? json['error'] ?? '');
}

describe('every route', () => {
  it('is 404 about what belongs to another org', async () => {
    const { key } = server.stranger;
    const found: string[] = [];
    for (const route of ROUTES.filter(({ path }) => path.includes('{'))) {
      const body = route.method === 'GET' ? {} : { body: route.row?.[2] ?? {} };
      const { status, json } = await server.ask(`${route.method} ${pathOf(route)}`, { key, ...body });
      const not_there =
        /^no (computer|deployment|such snapshot)/.test(sentenceOf(json)) ||
        json['error']?.['type'] === 'not_found';
      if (status !== 404 || !not_there) found.push(`${route.name}: ${status}`);
    }
    expect(found).toEqual([]);
  });

  it('shows none of it in a list', async () => {
    const lists = ROUTES.filter(
      ({ method, path, row }) =>
        method === 'GET' && !path.includes('{') && row?.[0] !== 'operator' && !OF_EVERYBODY.includes(path),
    );
    for (const { path } of lists) {
      const idsFor = async (key: string) => idsOf((await server.ask(`GET ${path}?limit=100`, { key })).text);
      const theirs = new Set(await idsFor(server.org.key));
      expect(theirs.size, path).toBeGreaterThan(0);
      expect(
        (await idsFor(server.stranger.key)).filter((id) => theirs.has(id)),
        path,
      ).toEqual([]);
    }
  });

  it('finds none of it where a body names it', async () => {
    const key = server.stranger.key;
    const body = { agent: names['agent_id'], input: 'x' };
    expect((await server.ask('POST /v3/sessions', { body, key })).status).toBe(404);
    const put = { body: { credential: names['credential_id'] }, key };
    expect((await server.ask('PUT /v3/credentials/default', put)).status).toBe(404);
  });

  it('has left it as it was', async () => {
    const agent = await server.ask(`GET /v3/agents/${names['agent_id']}`);
    expect(agent.json['prompt']).toBe('You help.');
    expect((await server.ask(`GET /v3/sessions/${names['session_id']}`)).json['status']).toBe('idle');
    const credentials = dataOf((await server.ask('GET /v3/credentials')).json);
    expect(credentials).toMatchObject([{ id: names['credential_id'], last4: '-key' }]);
    const tokens = dataOf((await server.ask(`GET /v3/sessions/${names['session_id']}/client-tokens`)).json);
    expect(tokens.filter(({ revoked_at }) => revoked_at !== null)).toHaveLength(1);
  });
});

describe('credentials of a request', () => {
  it('open one session to a client token, and no other', async () => {
    const own = await makeToken(server.runtime, server.org.id, names['session_id']!);
    const { id } = await makeSession(server, { key: 'yet another' });
    const read = (session: string) => server.ask(`GET /v3/sessions/${session}/events`, { key: own.token });
    expect((await read(names['session_id']!)).status).toBe(200);
    const answer = await read(id);
    expect([answer.status, answer.json['error']!['type']]).toEqual([404, 'not_found']);
  });
});

describe('what every route is asked about', () => {
  it('is there for its owner, so that it is not missing for everybody', async () => {
    const missed: string[] = [];
    for (const route of ROUTES.filter(({ path }) => path.includes('{')).toSorted(byHarm)) {
      const body = route.method === 'GET' ? {} : { body: route.row?.[2] ?? {} };
      const { status, json } = await server.ask(`${route.method} ${pathOf(route)}`, body);
      if (ABOUT_WHAT_RUNS.test(route.path)) expect(sentenceOf(json)).toMatch(HAS_ENDED);
      else if (status === 404 || status === 401 || status >= 500) missed.push(`${route.name}: ${status}`);
    }
    expect(missed).toEqual([]);
  });
});

/** What deletes comes last, the innermost first. */
function byHarm(a: Route, b: Route): number {
  const harm = ({ method }: Route): number => ['GET', 'PUT', 'PATCH', 'POST', 'DELETE'].indexOf(method);
  return harm(a) - harm(b) || b.path.length - a.path.length;
}
