/** Sealed values open only with their key, unchanged, in their place. */
import { randomBytes } from 'node:crypto';
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  masterKey,
  parseMasterKey,
  parseMasterKeys,
  SealError,
  sealedPrefix,
  sealer,
} from '../../src/secret/seal.ts';

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

describe('several master keys', () => {
  const OLD = KEY;
  const NEW = Buffer.alloc(32, 8);
  const both = sealer([NEW, OLD]);
  const place = fc.record({
    org: fc.stringMatching(/^org_[0-9a-f]{1,24}$/),
    table: fc.constantFrom('credential', 'destination_secret'),
    id: fc.stringMatching(/^[a-z]{3}_[0-9a-f]{1,24}$/),
    column: fc.constant('sealed'),
  });

  it('seal with the first and open with all', () => {
    expect(sealer(NEW).open(both.seal('x', PLACE), PLACE)).toBe('x');
    expect(codeOf(() => sealer(OLD).open(both.seal('x', PLACE), PLACE))).toBe('wrong_key');
    expect(both.open(sealer(OLD).seal('x', PLACE), PLACE)).toBe('x');
  });

  it('put a value under the first: it opens to the same there, in its place only, and no more with the old', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'grapheme' }), place, place, (plaintext, at, elsewhere) => {
        const rewrapped = both.rewrap(sealer(OLD).seal(plaintext, at), at)!;
        expect(sealer(NEW).open(rewrapped, at)).toBe(plaintext);
        expect(codeOf(() => sealer(OLD).open(rewrapped, at))).toBe('wrong_key');
        expect(rewrapped.startsWith(sealedPrefix(masterKey(NEW).id))).toBe(true);
        const same = JSON.stringify(at) === JSON.stringify(elsewhere);
        expect(codeOf(() => both.open(rewrapped, elsewhere))).toBe(same ? 'opened' : 'tampered');
      }),
    );
  });

  it('change nothing but the wrapping, and nothing that is under the first already', () => {
    const sealed = sealer(OLD).seal('x', PLACE);
    const rewrapped = both.rewrap(sealed, PLACE)!;
    const { iv, tag, ct } = JSON.parse(sealed) as Record<string, string>;
    expect(JSON.parse(rewrapped)).toMatchObject({ v: 1, iv, tag, ct });
    expect(Object.keys(JSON.parse(rewrapped) as object)).toEqual(Object.keys(JSON.parse(sealed) as object));
    expect(both.rewrap(rewrapped, PLACE)).toBe(null);
  });

  it('put no value under the first that they cannot open, or that belongs elsewhere', () => {
    const sealed = sealer(OLD).seal('x', PLACE);
    expect(codeOf(() => sealer(NEW).rewrap(sealed, PLACE))).toBe('wrong_key');
    expect(codeOf(() => both.rewrap(sealed, { ...PLACE, org: 'org_2' }))).toBe('tampered');
    expect(codeOf(() => both.rewrap('{}', PLACE))).toBe('malformed');
  });

  it('pass through any chain of changes of the key, one value after the other', () => {
    fc.assert(
      fc.property(
        fc.array(fc.uint8Array({ minLength: 32, maxLength: 32 }), { minLength: 2, maxLength: 5 }),
        (drawn) => {
          const keys = drawn.map((bytes) => Buffer.from(bytes));
          let sealed = sealer(keys[0]!).seal('the value', PLACE);
          for (const [at, key] of keys.entries()) {
            const ring = sealer(at === 0 ? key : [key, keys[at - 1]!]);
            sealed = ring.rewrap(sealed, PLACE) ?? sealed;
          }
          expect(sealer(keys.at(-1)!).open(sealed, PLACE)).toBe('the value');
        },
      ),
    );
  });

  it('are at least one', () => {
    expect(() => sealer([])).toThrow(TypeError);
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

  it('may be followed by others, each of which counts once', () => {
    const [one, two] = [randomBytes(32), randomBytes(32)];
    const idsOf = (text: string) => parseMasterKeys(text).map(({ id }) => id);
    const ids = [masterKey(one).id, masterKey(two).id];
    expect(idsOf(`${one.toString('hex')}, ${two.toString('base64')}`)).toEqual(ids);
    expect(idsOf(`${one.toString('base64')}\n${two.toString('base64')}\n`)).toEqual(ids);
    expect(idsOf(`${one.toString('base64')},${one.toString('hex')},`)).toEqual([ids[0]]);
    for (const text of ['', ',', `${one.toString('hex')},short`])
      expect(() => parseMasterKeys(text)).toThrow(/32 bytes/);
  });

  it('has 32 bytes', () => {
    expect(() => sealer(Buffer.alloc(16))).toThrow(TypeError);
  });
});
