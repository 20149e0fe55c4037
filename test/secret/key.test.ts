/** The forms of API keys and client tokens. */
import { createHash, randomBytes } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import {
  digest,
  isClientToken,
  makeApiKey,
  makeClientToken,
  parseApiKey,
  sameDigest,
} from '../../src/secret/key.ts';

describe('an API key', () => {
  it('has a public id and 256 bits of chance', () => {
    for (let round = 0; round < 100; round += 1) {
      const made = makeApiKey(randomBytes);
      expect(made.key).toMatch(/^ow_[0-9a-f]{8}_[A-Za-z0-9_-]{43}$/);
      expect(parseApiKey(made.key)).toEqual({ public_id: made.public_id });
      expect(sameDigest(made.digest, digest(made.key))).toBe(true);
    }
  });

  it('follows from the chance that it is given', () => {
    expect(makeApiKey(zeros).key).toBe(`ow_00000000_${'A'.repeat(43)}`);
    expect(makeClientToken(zeros).token).toBe(`owct_${'A'.repeat(43)}`);
  });

  it.each([
    '',
    'ow_',
    `ow_0000000_${'A'.repeat(43)}`,
    `ow_0000000G_${'A'.repeat(43)}`,
    `ow_00000000_${'A'.repeat(42)}`,
    `ow_00000000_${'A'.repeat(44)}`,
    `ow_00000000_${'A'.repeat(43)}\n`,
    ` ow_00000000_${'A'.repeat(43)}`,
    `owct_${'A'.repeat(43)}`,
  ])('is not %j', (text) => {
    expect(parseApiKey(text)).toBeUndefined();
  });
});

describe('a client token', () => {
  it('is opaque, and no API key', () => {
    const made = makeClientToken(randomBytes);
    expect(isClientToken(made.token)).toBe(true);
    expect(parseApiKey(made.token)).toBeUndefined();
    expect(isClientToken(makeApiKey(randomBytes).key)).toBe(false);
    expect(isClientToken(`${made.token}x`)).toBe(false);
    expect(made.digest).toEqual(digest(made.token));
  });
});

describe('a digest', () => {
  it('is the SHA-256 of the text', () => {
    expect(digest('abc')).toEqual(createHash('sha256').update('abc').digest());
  });

  it('is the same only byte for byte', () => {
    const one = digest('abc');
    expect(sameDigest(one, Buffer.from(one))).toBe(true);
    expect(sameDigest(one, digest('abd'))).toBe(false);
    expect(sameDigest(one, one.subarray(0, 31))).toBe(false);
    expect(sameDigest(one, new Uint8Array())).toBe(false);
  });
});

function zeros(bytes: number): Buffer {
  return Buffer.alloc(bytes);
}
