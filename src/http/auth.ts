/**
 * The way into a route: who calls, within which rate, whether they may (http/authorize.ts), and the session they ask about. A route
 * names what it requires; one that names nothing has no caller and so no org to ask the store for.
 */
import type { Context, MiddlewareHandler } from 'hono';
import type { Runtime } from '../engine/runtime.ts';
import { isId } from '../resource/id.ts';
import { digest, isClientToken, parseApiKey, sameDigest } from '../secret/key.ts';
import { findApiKey, touchApiKey, type FoundApiKey } from '../store/api-keys.ts';
import { findClientToken, type Scope } from '../store/client-tokens.ts';
import { getSession, type SessionRow } from '../store/sessions.ts';
import type { Env } from './api.ts';
import { authorize, noSession, type Caller, type Power, type Requirement } from './authorize.ts';
import { boundBody, BODY_BYTES_MAX } from './body.ts';
import type { RateLimit } from './rate-limit.ts';

export type CallerEnv = { Variables: { caller: Caller } };
type SessionEnv = { Variables: { caller: Caller; session: SessionRow } };

export type Admit = {
  /** Org keys with this power, on a route that is not about one session. */
  org: (power: Power) => Admission<CallerEnv>;
  /** Org keys with this power, on a route below `/sessions/{session_id}`, which it loads. */
  session: (power: Power) => Admission<SessionEnv>;
  /** Client tokens of that session with this scope, and org keys: `read` for `read`, `write` for `steer`. */
  client: (scope: Scope) => Admission<SessionEnv>;
  /** As `org`, for a route that takes its body from the socket as it comes, of any size. */
  upload: (power: Power) => Admission<CallerEnv>;
  /** For a key that came otherwise than in a request's headers. @throws OverwinterError */
  key: (address: string, presented: string, power: Power) => Promise<Caller>;
  /** Looks up a credential of another kind; counts as a failure of the address where it finds nothing. */
  attempt: RateLimit['authenticate'];
  /** Counts a request that bears such a credential among those of its holder. @throws OverwinterError `rate_limited` */
  count: RateLimit['countRequest'];
};

export type Admission<E extends CallerEnv | SessionEnv> = {
  middleware: MiddlewareHandler<E>;
  security: Record<string, string[]>[];
  /** What the document tells of the requirement. */
  'x-scope': Requirement;
};

const KEY_POWER = { read: 'read', steer: 'write' } as const;
const NO_DIGEST = Buffer.alloc(32);

/** @param body_bytes_max of the body of one request. */
export function createAdmit(runtime: Runtime, rate: RateLimit, body_bytes_max = BODY_BYTES_MAX): Admit {
  const bound = boundBody(body_bytes_max);
  const touching = new Set<string>();

  /** In this order: an address that only guesses never reaches the database, a refusal never reads a body. */
  async function admit(context: Context<Env>, required: Requirement): Promise<Caller> {
    const address = context.env.incoming.socket.remoteAddress ?? '';
    return await admitBearer(address, credentialOf(context), required, context.req.param('session_id'));
  }

  async function admitBearer(
    address: string,
    presented: string | undefined,
    required: Requirement,
    session: string | undefined,
  ): Promise<Caller> {
    const caller = await rate.authenticate(address, () => callerOf(presented));
    if (caller) await rate.countRequest(caller);
    const verdict = authorize(caller, required, session);
    if (verdict === 'allow' && caller) return caller;
    throw verdict;
  }

  async function callerOf(presented: string | undefined): Promise<Caller | undefined> {
    if (presented === undefined) return undefined;
    if (isClientToken(presented)) return await clientCaller(presented);
    const parsed = parseApiKey(presented);
    const key = parsed && (await findApiKey(runtime.database.db, parsed.public_id));
    // Also without a row, so that timing does not tell which public ids exist.
    const same = sameDigest(digest(presented), key?.digest ?? NO_DIGEST);
    return key && same ? orgCaller(key) : undefined;
  }

  function orgCaller(key: FoundApiKey): Caller {
    if (key.use_is_unwritten) void touch(key.id);
    const { id, org, scopes, in_default_org, expires_at } = key;
    return { kind: 'org', id, org, scopes, in_default_org, expires_at };
  }

  /** The note of a key's use is worth neither a request's time nor its failure. */
  async function touch(id: string): Promise<void> {
    if (touching.has(id)) return;
    touching.add(id);
    await touchApiKey(runtime.database.db, id)
      .catch((error: unknown) =>
        runtime.logger.debug({ err: error, key: id }, 'the use of a key is not noted'),
      )
      .finally(() => touching.delete(id));
  }

  /** Found by the digest of 256 random bits: the index lookup can tell nothing about any token. */
  async function clientCaller(token: string): Promise<Caller | undefined> {
    const row = await findClientToken(runtime.database.db, digest(token));
    if (!row) return undefined;
    const { id, org, session_id: session, scopes, expires_at } = row;
    return { kind: 'client', id, org, session, scopes, expires_at };
  }

  async function loadSession(context: Context, caller: Caller): Promise<SessionRow> {
    const id = context.req.param('session_id') ?? '';
    const session = isId('session', id) ? await getSession(runtime.database.db, caller.org, id) : undefined;
    if (!session) throw noSession();
    return session;
  }

  function admission(required: Requirement, loads: boolean, bounded = bound): Admission<SessionEnv> {
    return {
      'x-scope': required,
      security: securityOf(required),
      middleware: async (context, next) => {
        const caller = await admit(context as unknown as Context<Env>, required);
        context.set('caller', caller);
        if (loads) context.set('session', await loadSession(context, caller));
        await bounded(context, next);
      },
    };
  }

  return {
    org: (power) => admission({ org_key: power }, false) as unknown as Admission<CallerEnv>,
    session: (power) => admission({ org_key: power }, true),
    client: (scope) => admission({ org_key: KEY_POWER[scope], client_token: scope }, true),
    upload: (power) =>
      admission({ org_key: power }, false, (_, next) => next()) as unknown as Admission<CallerEnv>,
    key: (address, presented, power) => admitBearer(address, presented, { org_key: power }, undefined),
    attempt: rate.authenticate,
    count: rate.countRequest,
  };
}

function securityOf({ client_token }: Requirement): Record<string, string[]>[] {
  const org = [{ org_key: [] }, { org_key_header: [] }];
  return client_token === undefined ? org : [...org, { client_token: [] }];
}

/** The key or token of a request. `?token=` is for EventSource, which can set no header: client tokens, on streams only. */
export function credentialOf(context: Context): string | undefined {
  const authorization = context.req.header('authorization');
  if (authorization !== undefined) return /^Bearer +(\S+)$/i.exec(authorization)?.[1];
  const header = context.req.header('x-api-key');
  if (header !== undefined) return header;
  const token = context.req.query('token');
  const streams = context.req.path.endsWith('/events') && context.req.query('stream') === 'sse';
  return streams && token !== undefined && isClientToken(token) ? token : undefined;
}
