/**
 * API keys and client tokens. The database holds a public id and a digest; the key itself is shown once and kept nowhere. 256
 * random bits need no slow hash, so the digest is a plain SHA-256.
 */
import { createHash, timingSafeEqual } from 'node:crypto';

/** Chance as an argument: `bytes` random bytes. */
export type RandomBytes = (bytes: number) => Buffer;

/** A new API key `ow_<8 hex>_<43 base64url>`. `public_id` is the 8 hex digits, by which its row is found. */
export function makeApiKey(random: RandomBytes): { public_id: string; key: string; digest: Buffer } {
  const public_id = random(4).toString('hex');
  const key = `ow_${public_id}_${random(SECRET_BYTES).toString('base64url')}`;
  return { public_id, key, digest: digest(key) };
}

/** The public id in a text that has the form of an API key; whether the key is good, only its digest says. */
export function parseApiKey(text: string): { public_id: string } | undefined {
  const public_id = /^ow_([0-9a-f]{8})_[A-Za-z0-9_-]{43}$/.exec(text)?.[1];
  return public_id === undefined ? undefined : { public_id };
}

/** A new client token `owct_<43 base64url>`; opaque, its row is found by the digest. */
export function makeClientToken(random: RandomBytes): { token: string; digest: Buffer } {
  const token = `owct_${random(SECRET_BYTES).toString('base64url')}`;
  return { token, digest: digest(token) };
}

/** Whether `text` has the form of a client token. */
export function isClientToken(text: string): boolean {
  return /^owct_[A-Za-z0-9_-]{43}$/.test(text);
}

/** SHA-256 of the whole key or token, prefix included: 32 bytes. */
export function digest(text: string): Buffer {
  return createHash('sha256').update(text, 'utf8').digest();
}

/** Compares two digests in time that does not depend on where they differ; unequal lengths are unequal. */
export function sameDigest(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && timingSafeEqual(a, b);
}

const SECRET_BYTES = 32;
