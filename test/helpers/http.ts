/** The HTTP app on a real socket over a real database, an org with a key, and a client that hides nothing. */
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import type { Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { createComputers, type Computers } from '../../src/engine/computers/computers.ts';
import { createApp, type AppOptions } from '../../src/http/app.ts';
import { createListener, type Bounds } from '../../src/http/listener.ts';
import { createDeployments } from '../../src/engine/deployments/deployments.ts';
import type { Runtime } from '../../src/engine/runtime.ts';
import { makeApiKey, makeClientToken } from '../../src/secret/key.ts';
import { insertApiKey, type NewApiKey } from '../../src/store/api-keys.ts';
import { insertClientToken, type NewClientToken } from '../../src/store/client-tokens.ts';
import { ensureDefaultOrg, insertOrg } from '../../src/store/orgs.ts';
import type { GROUNDS, TestGround } from './grounds.ts';
import { recordedFetch } from './records.ts';
import { testRuntime } from './runtime.ts';

type Org = { id: string; key: string; key_id: string };

export type Answer = { status: number; headers: Headers; text: string; json: Json };
/** Tests read answers freely; a wrong shape fails the assertion that reads it. */
export type Json = { [field: string]: Json } & Json[] & string;

/** The entries of a page. */
export function dataOf(page: Json): Json[] {
  return page['data'] as Json[];
}

/** One field of each entry, which is a string. */
export function fieldOf(entries: Json[], field: string): string[] {
  return entries.map((entry) => entry[field] as string);
}

type Ask = { key?: string | null; body?: unknown; raw?: string; headers?: Record<string, string> };

export type TestServer = {
  url: string;
  runtime: Runtime;
  computers: Computers;
  org: Org;
  /** Another tenant of the same server. */
  stranger: Org;
  stopping: AbortController;
  http: Server;
  /** `ask('POST /v3/agents', {body})`, with the org's key unless told otherwise. */
  ask: (what: string, ask?: Ask) => Promise<Answer>;
  close: () => Promise<void>;
};

/** @param on two servers on one PostgreSQL database are two nodes. */
export async function startServer(
  overrides: Partial<Runtime> = {},
  options: Partial<AppOptions> & { bounds?: Bounds } = {},
  on: (typeof GROUNDS)[number] | TestGround = 'embedded',
): Promise<TestServer> {
  const { runtime, close } = await testRuntime(overrides, on);
  const stopping = new AbortController();
  const computers = createComputers(runtime);
  const deployments = createDeployments(runtime, computers, stopping.signal);
  const app = createApp(runtime, {
    ...{ signal: stopping.signal, version: '0.0.0', capabilities: {}, computers, deployments },
    ...options,
  });
  const server = createListener(app, runtime.newId, options.bounds);
  await once(server.listen(0, '127.0.0.1'), 'listening');
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const org = await makeOrg(runtime);
  return {
    ...{ url, runtime, computers, org, stranger: await makeOrg(runtime), stopping, http: server },
    ask: (what, ask = {}) => request(url, what, { key: org.key, ...ask }),
    close: async () => {
      stopping.abort();
      server.closeAllConnections();
      server.close();
      await once(server, 'close');
      await deployments.close();
      await computers.history.close();
      await close();
    },
  };
}

async function makeOrg(runtime: Runtime): Promise<Org> {
  const id = runtime.newId('org');
  const { key, stored } = drawKey(runtime);
  await insertOrg(runtime.database.db, { id, name: 'test' }, stored);
  return { id, key, key_id: stored.id };
}

/** The default org, made when there is none, with an admin key: the operator's. */
export async function makeOperator(runtime: Runtime): Promise<Org> {
  const { id } = await ensureDefaultOrg(runtime.database.db, runtime.newId('org'), 'default');
  return { id, ...(await makeKey(runtime, id)) };
}

/** An API key of the org, `admin` unless told otherwise. */
export async function makeKey(
  runtime: Runtime,
  org: string,
  fields: Pick<Partial<NewApiKey>, 'scopes' | 'expires_at'> = {},
): Promise<{ key: string; key_id: string }> {
  const { key, stored } = drawKey(runtime, fields);
  await insertApiKey(runtime.database.db, org, stored);
  return { key, key_id: stored.id };
}

/** A client token of the session, for both scopes and an hour unless told otherwise. */
export async function makeToken(
  runtime: Runtime,
  org: string,
  session_id: string,
  fields: Partial<Pick<NewClientToken, 'scopes' | 'ttl_s'>> = {},
): Promise<{ id: string; token: string }> {
  const { token, digest } = makeClientToken(randomBytes);
  const row = { id: runtime.newId('client_token'), session_id, digest, ttl_s: 3600, minted_by: null };
  await insertClientToken(runtime.database.db, org, { ...row, scopes: ['read', 'steer'], ...fields });
  return { id: row.id, token };
}

function drawKey(runtime: Runtime, fields: Partial<NewApiKey> = {}): { key: string; stored: NewApiKey } {
  const { key, ...made } = makeApiKey(randomBytes);
  const id = runtime.newId('api_key');
  return { key, stored: { id, name: 'test', scopes: ['admin'], ...made, ...fields } };
}

async function request(url: string, what: string, { key, body, raw, headers }: Ask): Promise<Answer> {
  const [method, path] = what.split(' ') as [string, string];
  const sent = raw ?? (body === undefined ? undefined : JSON.stringify(body));
  const response = await recordedFetch(url + path, {
    method,
    headers: {
      ...(key ? { authorization: `Bearer ${key}` } : {}),
      ...(sent === undefined ? {} : { 'content-type': 'application/json' }),
      ...headers,
    },
    ...(sent === undefined ? {} : { body: sent }),
  });
  const text = await response.text();
  return { status: response.status, headers: response.headers, text, json: parse(text) };
}

function parse(text: string): Json {
  try {
    return JSON.parse(text) as Json;
  } catch {
    return {} as Json;
  }
}

export const AGENT = { name: 'helper', prompt: 'You help.', model: 'anthropic/claude-test' };

/** An agent and a session of it; the input is queued, and nothing runs it. */
export async function makeSession(
  { ask }: Pick<TestServer, 'ask'>,
  fields: Record<string, unknown> = {},
): Promise<{ id: string; token: string; agent: string }> {
  const agent = (await ask('POST /v3/agents', { body: AGENT })).json['id']!;
  const made = await ask('POST /v3/sessions', { body: { agent, input: 'hello', ...fields } });
  return { id: made.json['session']!['id']!, token: made.json['client_token']!, agent };
}
