/** The one decision of who may do what, as rules: a ladder for keys, one session and its scopes for tokens, and no for the rest. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { authorize, demand, POWERS, type Caller, type Requirement } from '../../src/http/authorize.ts';
import { OverwinterError, type ErrorCode } from '../../src/resource/error.ts';
import { KEY_SCOPES } from '../../src/resource/api-key.ts';

const SESSION = 'ses_1';
type Key = Extract<Caller, { kind: 'org' }>;
type Token = Extract<Caller, { kind: 'client' }>;

const key = (fields: Partial<Key>): Key => ({
  ...{ kind: 'org', id: 'key_1', org: 'org_1', scopes: [], in_default_org: false, expires_at: null },
  ...fields,
});
const token = (fields: Partial<Token>): Token => ({
  ...{ kind: 'client', id: 'ctk_1', org: 'org_1', session: SESSION, scopes: [], expires_at: new Date() },
  ...fields,
});

const verdict = (
  caller: Caller | undefined,
  required: Requirement,
  session?: string,
): 'allow' | ErrorCode => {
  const found = authorize(caller, required, session);
  return found instanceof OverwinterError ? found.code : found;
};

const keys = fc.record({
  scopes: fc.subarray([...KEY_SCOPES]),
  in_default_org: fc.boolean(),
});
const tokens = fc.record({
  scopes: fc.subarray<'read' | 'steer'>(['read', 'steer']),
  session: fc.constantFrom(SESSION, 'ses_2'),
});
const requirements = fc.record(
  { org_key: fc.constantFrom(...POWERS), client_token: fc.constantFrom('read', 'steer') },
  { requiredKeys: ['org_key'] },
) as fc.Arbitrary<Requirement>;
const sessions = fc.constantFrom(undefined, SESSION, 'ses_2');

describe('a key', () => {
  it.each([
    [[], false, []],
    [['read'], false, ['read']],
    [['write'], false, ['read', 'write']],
    [['read', 'write'], false, ['read', 'write']],
    [['admin'], false, ['read', 'write', 'admin']],
    [['read'], true, ['read']],
    [['write'], true, ['read', 'write']],
    [['admin'], true, ['read', 'write', 'admin', 'operator']],
  ] as const)('with %j, in the default org: %s, may %j', (scopes, in_default_org, powers) => {
    const caller = key({ scopes: [...scopes], in_default_org });
    expect(POWERS.filter((power) => verdict(caller, { org_key: power }) === 'allow')).toEqual(powers);
  });

  it('never loses a power with another scope, and what it may not is forbidden', () => {
    fc.assert(
      fc.property(keys, fc.constantFrom(...KEY_SCOPES), requirements, (fields, more, required) => {
        const before = verdict(key(fields), required, SESSION);
        const after = verdict(key({ ...fields, scopes: [...fields.scopes, more] }), required, SESSION);
        expect(['allow', 'forbidden']).toContain(before);
        if (before === 'allow') expect(after).toBe('allow');
      }),
    );
  });

  it('is asked for more where only a part of a route needs it', () => {
    expect(() => demand(key({ scopes: ['write'] }), 'admin')).toThrow(OverwinterError);
    expect(() => demand(token({ scopes: ['read', 'steer'] }), 'read')).toThrow(OverwinterError);
    demand(key({ scopes: ['admin'] }), 'admin');
  });
});

describe('a client token', () => {
  it('opens what names its scope, in its own session, and nothing else', () => {
    fc.assert(
      fc.property(tokens, requirements, sessions, (fields, required, session) => {
        const { client_token } = required;
        const opens =
          client_token !== undefined && session === fields.session && fields.scopes.includes(client_token);
        expect(verdict(token(fields), required, session) === 'allow').toBe(opens);
      }),
    );
  });

  it('is not told whether another session is there', () => {
    const caller = token({ scopes: ['read'], session: 'ses_2' });
    const required: Requirement = { org_key: 'read', client_token: 'steer' };
    expect(verdict(caller, required, SESSION)).toBe('not_found');
    expect(verdict({ ...caller, session: SESSION }, required, SESSION)).toBe('forbidden');
  });
});

describe('nobody', () => {
  it('may nothing, whatever is asked', () => {
    fc.assert(
      fc.property(requirements, sessions, (required, session) => {
        expect(verdict(undefined, required, session)).toBe('unauthorized');
      }),
    );
  });
});
