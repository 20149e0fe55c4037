/** An org that works as it should while others are fuzzed: it makes one of everything, and knows at once when something fails. */
import type { Pool } from './requests.ts';

type Json = Record<string, unknown>;

export type Tenant = { url: string; key: string; webhook_url: string };

/** How many ids of each kind cases choose from. */
const SLOTS = 8;

export const KINDS = [
  ...[
    'agent',
    'session',
    'event',
    'turn',
    'credential',
    'destination',
    'delivery',
    'client_token',
    'api_key',
  ],
  'org',
] as const;

/** A fresh pool: a few ids of every kind; `foreign` as given. */
export function emptyPool(foreign: string[]): Pool {
  const nothing = Object.fromEntries(
    KINDS.map((kind) => [kind, Array.from({ length: SLOTS }, () => 'none')]),
  );
  return { ...nothing, foreign };
}

/** Asks, and throws unless the status is `expected`. */
export async function ask(
  tenant: Pick<Tenant, 'url' | 'key'>,
  what: string,
  expected: number,
  body?: object,
): Promise<Json> {
  const [method, path] = what.split(' ') as [string, string];
  const response = await fetch(`${tenant.url}${path}`, {
    method,
    headers: { authorization: `Bearer ${tenant.key}`, 'content-type': 'application/json' },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
  const text = await response.text();
  if (response.status !== expected)
    throw new Error(`${what} answered ${response.status}: ${text.slice(0, 300)}`);
  return text === '' ? {} : (JSON.parse(text) as Json);
}

/**
 * One of everything, made and read back; its ids go into place `slot` of the pool.
 * @throws what did not work
 */
export async function useAll(tenant: Tenant, pool: Pool, slot: number): Promise<string> {
  const keep = (kind: string, id: unknown): string => (pool[kind]![slot % SLOTS] = String(id));
  const agent = keep(
    'agent',
    (await ask(tenant, 'POST /v3/agents', 201, { ...AGENT, name: `helper ${slot}` }))['id'],
  );
  const made = await ask(tenant, 'POST /v3/sessions', 201, {
    ...{ agent, input: 'hello', limits: { turns: 2 }, webhook: `${tenant.webhook_url}/${slot}` },
    metadata: { slot },
  });
  const session = String((made['session'] as Json)['id']);
  const sent = await ask(tenant, `POST /v3/sessions/${session}/messages`, 202, { text: 'more' });
  keep('event', (sent['event'] as Json)['id']);
  const destination = await ask(tenant, `POST /v3/sessions/${session}/destinations`, 201, {
    url: `${tenant.webhook_url}/second`,
  });
  keep('destination', destination['id']);
  const tokens = await ask(tenant, `POST /v3/sessions/${session}/client-tokens`, 201, {});
  keep('client_token', tokens['id'] ?? tokens['token_id']);
  keep('credential', (await ask(tenant, 'POST /v3/credentials', 201, { key: 'sk-some-key' }))['id']);
  const key = await ask(tenant, 'POST /v3/api-keys', 201, { name: 'k', scopes: ['read'] });
  keep('api_key', (key['api_key'] as Json | undefined)?.['id'] ?? key['id']);
  await readAll(tenant, session, keep);
  await removeForAll(tenant);
  // Last, so that nobody fuzzes a session of which this function still expects something.
  keep('session', session);
  return session;
}

const AGENT = { prompt: 'You help.', model: 'anthropic/claude-test' };

/** What cases have asked to be sent of the whole org: it would soon be sent everything many times. */
async function removeForAll(tenant: Tenant): Promise<void> {
  const listed = await ask(tenant, 'GET /v3/destinations', 200);
  for (const { id } of (listed['data'] ?? listed) as Json[]) {
    await ask(tenant, `DELETE /v3/destinations/${String(id)}`, 204).catch((error: unknown) => {
      // A case may have been quicker.
      if (!String(error).includes('answered 404')) throw error;
    });
  }
}

async function readAll(
  tenant: Tenant,
  session: string,
  keep: (kind: string, id: unknown) => void,
): Promise<void> {
  const read = await ask(tenant, `GET /v3/sessions/${session}`, 200);
  if (read['id'] !== session) throw new Error(`GET ${session} gave ${String(read['id'])}`);
  const events = await ask(tenant, `GET /v3/sessions/${session}/events?level=runtime&limit=500`, 200);
  const seqs = (events['data'] as Json[]).map(({ seq }) => seq);
  if (seqs.some((seq, index) => seq !== index + 1)) throw new Error(`${session} has the seqs ${seqs.join()}`);
  const turns = (await ask(tenant, `GET /v3/sessions/${session}/turns`, 200))['data'] as Json[];
  if (turns[0]) keep('turn', turns[0]['id']);
  const deliveries = (await ask(tenant, `GET /v3/sessions/${session}/deliveries`, 200))['data'] as Json[];
  if (deliveries[0]) keep('delivery', deliveries[0]['id']);
}
