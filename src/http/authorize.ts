/**
 * Who may do what: one pure function, the only place that decides it. What it does not name is refused. Whether a resource belongs to
 * the caller's org is not asked here: every statement takes the org, and what is foreign is not found.
 */
import { KEY_SCOPES, type KeyScope } from '../resource/api-key.ts';
import { OverwinterError } from '../resource/error.ts';
import type { Scope } from '../store/client-tokens.ts';

/** Whoever presents a good key or token. `id` is the key's or token's own. */
export type Caller =
  | {
      kind: 'org';
      id: string;
      org: string;
      scopes: KeyScope[];
      in_default_org: boolean;
      expires_at: Date | null;
    }
  | { kind: 'client'; id: string; org: string; session: string; scopes: Scope[]; expires_at: Date };

/** What a key may do, each including the ones before it; `operator` is `admin` of the installation's default org. */
export const POWERS = [...KEY_SCOPES, 'operator'] as const;
export type Power = (typeof POWERS)[number];

/** What a route asks for, by the scheme of the credential; without `client_token` no client token opens it. */
export type Requirement = { org_key: Power; client_token?: Scope };

/**
 * @param session the id in the path of a route that is about one session.
 * @returns OverwinterError `unauthorized` without a caller, `not_found` for a token of another session, `forbidden` for too little.
 */
export function authorize(
  caller: Caller | undefined,
  required: Requirement,
  session: string | undefined,
): 'allow' | OverwinterError {
  switch (caller?.kind) {
    case 'org':
      return authorizeKey(caller, required.org_key);
    case 'client':
      return authorizeToken(caller, required.client_token, session);
    case undefined:
      return new OverwinterError(
        'unauthorized',
        'a valid API key or client token is needed: Authorization: Bearer <key>',
      );
    default:
      return caller satisfies never;
  }
}

/** For what only a part of a route's requests asks. @throws OverwinterError `forbidden` */
export function demand(caller: Caller, power: Power): void {
  const verdict = authorize(caller, { org_key: power }, undefined);
  if (verdict !== 'allow') throw verdict;
}

/** Said alike of a session that is not there and of one that is someone else's. */
export function noSession(): OverwinterError {
  return new OverwinterError('not_found', 'no such session');
}

function authorizeKey(caller: Extract<Caller, { kind: 'org' }>, required: Power): 'allow' | OverwinterError {
  if (rankOf(caller) >= POWERS.indexOf(required)) return 'allow';
  if (required !== 'operator')
    return new OverwinterError('forbidden', `the key lacks the scope "${required}"`);
  return new OverwinterError('forbidden', 'an admin key of the default org is needed');
}

/** The place of its highest power; -1 for a key without any. */
function rankOf({ scopes, in_default_org }: Extract<Caller, { kind: 'org' }>): number {
  if (in_default_org && scopes.includes('admin')) return POWERS.indexOf('operator');
  return Math.max(-1, ...scopes.map((scope) => POWERS.indexOf(scope)));
}

function authorizeToken(
  caller: Extract<Caller, { kind: 'client' }>,
  required: Scope | undefined,
  session: string | undefined,
): 'allow' | OverwinterError {
  if (required === undefined || session === undefined)
    return new OverwinterError('forbidden', 'a client token does not open this route');
  if (caller.session !== session) return noSession();
  if (caller.scopes.includes(required)) return 'allow';
  return new OverwinterError('forbidden', `the token lacks the scope "${required}"`);
}
