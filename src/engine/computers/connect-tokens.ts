/**
 * Tokens that open one terminal for a short time, as often as one likes. Invariant: only a token's digest is kept, and never more than
 * the bound: the oldest makes room.
 */
import { randomBytes } from 'node:crypto';
import { digest, sameDigest } from '../../secret/key.ts';

/** The API key that a token was given to; the token is good no longer than it. */
export type Holder = { id: string; org: string };

export type ConnectTokens = {
  issue: (holder: Holder) => { token: string; expires_at: Date };
  /** Whom the token was given to; undefined for one that is not ours or has expired. */
  redeem: (token: string) => Holder | undefined;
};

export const TOKEN_TTL_MS = 120_000;
const TOKENS_MAX = 64;
const SECRET_BYTES = 32;

type Issued = { digest: Buffer; holder: Holder; expires_ms: number };

export function createConnectTokens(now: () => number): ConnectTokens {
  let issued: Issued[] = [];
  return {
    issue: ({ id, org }) => {
      const token = `owtt_${randomBytes(SECRET_BYTES).toString('base64url')}`;
      const expires_ms = Math.round(now()) + TOKEN_TTL_MS;
      const live = issued.filter((each) => each.expires_ms > now()).slice(1 - TOKENS_MAX);
      issued = [...live, { digest: digest(token), holder: { id, org }, expires_ms }];
      return { token, expires_at: new Date(expires_ms) };
    },
    redeem: (token) => {
      const presented = digest(token);
      const found = issued.find((each) => sameDigest(each.digest, presented));
      return found && found.expires_ms > now() ? found.holder : undefined;
    },
  };
}
