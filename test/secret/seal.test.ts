/** Sealed values open only with their key, unchanged, in their place. */
import { randomBytes } from 'node:crypto';
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { parseMasterKey, SealError, sealer } from '../../src/secret/seal.ts';

const KEY = Buffer.alloc(32, 7);
const PLACE = { org: 'org_1', table: 'credential', id: 'cred_1', column: 'secret' };

function codeOf(run: () => unknown): string {
  try {
    run();
  } catch (error) {
    return error instanceof SealError ? error.code : String(error);
  }
  return 'opened';
}

/** `sealed` with one of its fields replaced. */
function changed(sealed: string, field: string, value: unknown): string {
  return JSON.stringify({ ...(JSON.parse(sealed) as object), [field]: value });
}

describe('a sealed value', () => {
  it('opens to what was sealed, whatever it was', () => {
    const seals = sealer(KEY);
    fc.assert(
      fc.property(fc.string({ unit: 'grapheme' }), (plaintext) => {
        expect(seals.open(seals.seal(plaintext, PLACE), PLACE)).toBe(plaintext);
      }),
    );
  });

  it('names its version and key, and shows nothing of the plaintext', () => {
    const sealed = sealer(KEY).seal('sk-ant-secret', PLACE);
    const { v, key_id, ...parts } = JSON.parse(sealed) as Record<string, unknown>;
    expect(v).toBe(1);
    expect(key_id).toMatch(/^[0-9a-f]{8}$/);
    expect(Object.keys(parts)).toEqual(['wrapped_data_key', 'iv', 'tag', 'ct']);
    expect(sealed).not.toContain('sk-ant-secret');
    expect(sealer(KEY).seal('sk-ant-secret', PLACE)).not.toBe(sealed);
  });

  it.each(['org', 'table', 'id', 'column'] as const)('does not open where its %s is another', (part) => {
    const sealed = sealer(KEY).seal('x', PLACE);
    expect(codeOf(() => sealer(KEY).open(sealed, { ...PLACE, [part]: 'other' }))).toBe('tampered');
  });

  it('does not open with another key, and says which it wants', () => {
    const sealed = sealer(KEY).seal('x', PLACE);
    const other = sealer(Buffer.alloc(32, 8));
    expect(codeOf(() => other.open(sealed, PLACE))).toBe('wrong_key');
    const { key_id } = JSON.parse(other.seal('x', PLACE)) as { key_id: string };
    expect(codeOf(() => other.open(changed(sealed, 'key_id', key_id), PLACE))).toBe('tampered');
  });

  it('does not open when any byte of it was changed', () => {
    const sealed = sealer(KEY).seal('some plaintext', PLACE);
    const parts = JSON.parse(sealed) as Record<string, string>;
    for (const field of ['wrapped_data_key', 'iv', 'tag', 'ct']) {
      const bytes = Buffer.from(parts[field] ?? '', 'base64');
      for (let at = 0; at < bytes.length; at += 1) {
        const copy = Buffer.from(bytes);
        copy.writeUInt8(copy.readUInt8(at) ^ 1, at);
        const code = codeOf(() => sealer(KEY).open(changed(sealed, field, copy.toString('base64')), PLACE));
        expect(code, `${field} ${at}`).toBe('tampered');
      }
      expect(codeOf(() => sealer(KEY).open(changed(sealed, field, ''), PLACE))).toBe('tampered');
    }
  });

  it.each(['', 'x', 'null', '[]', '3', '{}', '{"v":2}', '{"v":1,"key_id":"00000000"}'])(
    '%j is malformed',
    (text) => {
      expect(codeOf(() => sealer(KEY).open(text, PLACE))).toBe('malformed');
    },
  );

  it('is not made for a place that could be read as another', () => {
    expect(() => sealer(KEY).seal('x', { ...PLACE, org: 'a|b' })).toThrow(TypeError);
    expect(() => sealer(KEY).seal('x', { ...PLACE, id: '' })).toThrow(TypeError);
  });
});

describe('a master key', () => {
  it('is read in three spellings', () => {
    for (let round = 0; round < 200; round += 1) {
      const key = randomBytes(32);
      expect(parseMasterKey(key.toString('base64'))).toEqual(key);
      expect(parseMasterKey(key.toString('base64url'))).toEqual(key);
      expect(parseMasterKey(`${key.toString('hex')}\n`)).toEqual(key);
    }
  });

  it.each([
    '',
    'short',
    'a'.repeat(63),
    'a'.repeat(65),
    'é'.repeat(32),
    `${'A'.repeat(43)}==`,
    `${'+'.repeat(42)}_=`,
  ])('is refused as %j, without quoting it', (text) => {
    expect(() => parseMasterKey(text)).toThrow(/32 bytes/);
    if (text !== '') expect(() => parseMasterKey(text)).not.toThrow(text);
  });

  it('has 32 bytes', () => {
    expect(() => sealer(Buffer.alloc(16))).toThrow(TypeError);
  });
});
