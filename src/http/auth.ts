/**
 * Who may call a route. A route names what it admits; one that names nothing has no caller and so no org to ask the store for.
 * What belongs to someone else is 404, what a token's scope does not cover is 403.
 */
import type { Context, MiddlewareHandler } from 'hono';
import type { Runtime } from '../engine/runtime.ts';
import { OverwinterError } from '../resource/error.ts';
import { isId } from '../resource/id.ts';
import { digest, isClientToken, parseApiKey, sameDigest } from '../secret/key.ts';
import { findApiKey } from '../store/api-keys.ts';
import { findClientToken, type Scope } from '../store/client-tokens.ts';
import { getSession, type SessionRow } from '../store/sessions.ts';
import { boundBody } from './body.ts';

export type Caller =
  | { kind: 'org'; org: string }
  | { kind: 'client'; org: string; session: string; scopes: Scope[]; expires_at: Date };

type CallerEnv = { Variables: { caller: Caller } };
type SessionEnv = { Variables: { caller: Caller; session: SessionRow } };

export type Admit = {
  /** Org keys, on a route that is not about one session. */
  org: () => Admission<CallerEnv>;
  /** Org keys, on a route below `/sessions/{session_id}`, which it loads. */
  session: () => Admission<SessionEnv>;
  /** Org keys, and client tokens of that session with this scope. */
  client: (scope: Scope) => Admission<SessionEnv>;
};

type Admission<E extends CallerEnv | SessionEnv> = {
  middleware: MiddlewareHandler<E>;
  security: Record<string, string[]>[];
};

const ORG = [{ org_key: [] }, { org_key_header: [] }];
const CLIENT = [...ORG, { client_token: [] }];
const NO_DIGEST = Buffer.alloc(32);

export function createAdmit(runtime: Runtime): Admit {
  async function authorizeOrg(context: Context): Promise<Caller> {
    const caller = await authenticate(context);
    if (caller.kind === 'client')
      throw new OverwinterError('forbidden', 'a client token does not open this route');
    context.set('caller', caller);
    return caller;
  }

  async function authorizeClient(context: Context, scope: Scope): Promise<Caller> {
    const caller = await authenticate(context);
    if (caller.kind === 'client') {
      if (caller.session !== context.req.param('session_id')) throw noSession();
      if (!caller.scopes.includes(scope))
        throw new OverwinterError('forbidden', `the token lacks the scope "${scope}"`);
    }
    context.set('caller', caller);
    return caller;
  }

  async function loadSession(context: Context, caller: Caller): Promise<void> {
    const id = context.req.param('session_id') ?? '';
    const session = isId('session', id) ? await getSession(runtime.database.db, caller.org, id) : undefined;
    if (!session) throw noSession();
    context.set('session', session);
  }

  async function authenticate(context: Context): Promise<Caller> {
    const presented = credentialOf(context);
    const caller = presented === undefined ? undefined : await callerOf(presented);
    if (caller) return caller;
    throw new OverwinterError(
      'unauthorized',
      'a valid API key or client token is needed: Authorization: Bearer <key>',
    );
  }

  async function callerOf(presented: string): Promise<Caller | undefined> {
    if (isClientToken(presented)) return await clientCaller(presented);
    const parsed = parseApiKey(presented);
    const key = parsed && (await findApiKey(runtime.database.db, parsed.public_id));
    // Also without a row, so that timing does not tell which public ids exist.
    const same = sameDigest(digest(presented), key?.digest ?? NO_DIGEST);
    return key && same ? { kind: 'org', org: key.org } : undefined;
  }

  /** Found by the digest of 256 random bits: the index lookup can tell nothing about any token. */
  async function clientCaller(token: string): Promise<Caller | undefined> {
    const row = await findClientToken(runtime.database.db, digest(token));
    if (!row) return undefined;
    return {
      kind: 'client',
      org: row.org,
      session: row.session_id,
      scopes: row.scopes,
      expires_at: row.expires_at,
    };
  }

  return {
    org: () => ({
      security: ORG,
      middleware: async (context, next) => {
        await authorizeOrg(context);
        await boundBody(context, next);
      },
    }),
    session: () => ({
      security: ORG,
      middleware: async (context, next) => {
        await loadSession(context, await authorizeOrg(context));
        await boundBody(context, next);
      },
    }),
    client: (scope) => ({
      security: CLIENT,
      middleware: async (context, next) => {
        await loadSession(context, await authorizeClient(context, scope));
        await boundBody(context, next);
      },
    }),
  };
}

function noSession(): OverwinterError {
  return new OverwinterError('not_found', 'no such session');
}

/** The key or token of a request. `?token=` is for EventSource, which can set no header: client tokens, on streams only. */
function credentialOf(context: Context): string | undefined {
  const authorization = context.req.header('authorization');
  if (authorization !== undefined) return /^Bearer +(\S+)$/i.exec(authorization)?.[1];
  const header = context.req.header('x-api-key');
  if (header !== undefined) return header;
  const token = context.req.query('token');
  const streams = context.req.path.endsWith('/events') && context.req.query('stream') === 'sse';
  return streams && token !== undefined && isClientToken(token) ? token : undefined;
}
