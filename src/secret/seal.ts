/**
 * Sealed values: envelope encryption with AES-256-GCM. Each value has its own data key, wrapped by a master key, and both
 * layers are bound to the column the value lives in: a sealed value moved to another row or column does not open. Of the master
 * keys the first seals and all open, so that the key can be changed while values sealed with the old one are still there.
 */
import { createCipheriv, createDecipheriv, createHash, randomBytes } from 'node:crypto';

/** The column that holds a sealed value. No part may be empty or hold a `|`. */
type Place = { org: string; table: string; id: string; column: string };

export type SealErrorCode = 'malformed' | 'wrong_key' | 'tampered';

/** Why a sealed value did not open. `tampered` is also what a value of another place gives. */
export class SealError extends Error {
  readonly code: SealErrorCode;

  constructor(code: SealErrorCode, message: string) {
    super(message);
    this.name = 'SealError';
    this.code = code;
  }
}

/** A master key of 32 bytes and its public name: the first 8 hex digits of its SHA-256. */
export type MasterKey = { id: string; key: Buffer };

export type Sealer = {
  /** The sealed form of `plaintext`, as JSON text. Two seals of one value differ. */
  seal(plaintext: string, place: Place): string;
  /** The plaintext. Throws `SealError`. */
  open(sealed: string, place: Place): string;
  /**
   * The same value with its data key wrapped by the first master key; null where it is already. The value itself is neither
   * opened nor sealed again. Throws `SealError`.
   */
  rewrap(sealed: string, place: Place): string | null;
};

/**
 * A sealer over one master key, or several of which the first seals; a function is asked at every use. Throws `TypeError` for a
 * key that has not 32 bytes.
 */
export function sealer(keys: Buffer | Buffer[] | (() => readonly MasterKey[])): Sealer {
  const ring = typeof keys === 'function' ? keys : fixed([keys].flat().map(masterKey));
  return {
    seal: (plaintext, place) => seal(first(ring()), plaintext, place),
    open: (sealed, place) => open(ring(), sealed, place),
    rewrap: (sealed, place) => rewrap(ring(), sealed, place),
  };
}

/** @throws TypeError for any other length than 32 bytes. */
export function masterKey(key: Buffer): MasterKey {
  if (key.length !== KEY_BYTES) throw new TypeError(`A master key has ${KEY_BYTES} bytes.`);
  return { id: createHash('sha256').update(key).digest('hex').slice(0, 8), key };
}

/** How every value that is sealed with this master key begins. */
export function sealedPrefix(key_id: string): string {
  return `{"v":1,"key_id":"${key_id}",`;
}

/** The keys that `text` writes, separated by commas or line ends, each once. Throws an `Error` that does not quote the text. */
export function parseMasterKeys(text: string): MasterKey[] {
  const written = text.split(/[,\n]/).filter((part) => part.trim() !== '');
  const keys = (written.length > 0 ? written : ['']).map((part) => masterKey(parseMasterKey(part)));
  return keys.filter(({ id }, index) => keys.findIndex((key) => key.id === id) === index);
}

/** The 32 bytes that `text` writes as base64, base64url or 64 hex digits. Throws an `Error` that does not quote the text. */
export function parseMasterKey(text: string): Buffer {
  const written = text.trim();
  if (/^[0-9a-fA-F]{64}$/.test(written)) return Buffer.from(written, 'hex');
  if (/^[A-Za-z0-9+/]{43}=?$/.test(written)) return Buffer.from(written, 'base64');
  if (/^[A-Za-z0-9_-]{43}=?$/.test(written)) return Buffer.from(written, 'base64url');
  throw new Error('A master key must be 32 bytes, written as base64, base64url or 64 hex digits.');
}

const KEY_BYTES = 32;
const IV_BYTES = 12;
const TAG_BYTES = 16;

type Sealed = { v: 1; key_id: string; wrapped_data_key: string; iv: string; tag: string; ct: string };
type Box = { iv: Buffer; tag: Buffer; ct: Buffer };

function fixed(keys: MasterKey[]): () => MasterKey[] {
  first(keys);
  return () => keys;
}

function first(ring: readonly MasterKey[]): MasterKey {
  if (!ring[0]) throw new TypeError('There is no master key.');
  return ring[0];
}

function seal(by: MasterKey, plaintext: string, place: Place): string {
  const bound_to = associatedData(place);
  const data_key = randomBytes(KEY_BYTES);
  const box = encrypt(data_key, Buffer.from(plaintext, 'utf8'), bound_to);
  // `v` and `key_id` come first: `sealedPrefix`.
  const sealed: Sealed = {
    v: 1,
    key_id: by.id,
    wrapped_data_key: wrap(by, data_key, bound_to),
    iv: box.iv.toString('base64'),
    tag: box.tag.toString('base64'),
    ct: box.ct.toString('base64'),
  };
  return JSON.stringify(sealed);
}

function open(ring: readonly MasterKey[], text: string, place: Place): string {
  const sealed = parseSealed(text);
  const bound_to = associatedData(place);
  const data_key = unwrap(ring, sealed, bound_to);
  const box = { iv: bytes(sealed.iv), tag: bytes(sealed.tag), ct: bytes(sealed.ct) };
  return decrypt(data_key, box, bound_to).toString('utf8');
}

function rewrap(ring: readonly MasterKey[], text: string, place: Place): string | null {
  const { iv, tag, ct, ...sealed } = parseSealed(text);
  const by = first(ring);
  if (sealed.key_id === by.id) return null;
  const bound_to = associatedData(place);
  const wrapped_data_key = wrap(by, unwrap(ring, sealed, bound_to), bound_to);
  return JSON.stringify({ v: 1, key_id: by.id, wrapped_data_key, iv, tag, ct } satisfies Sealed);
}

function wrap(by: MasterKey, data_key: Buffer, bound_to: Buffer): string {
  const wrapped = encrypt(by.key, data_key, bound_to);
  return Buffer.concat([wrapped.iv, wrapped.tag, wrapped.ct]).toString('base64');
}

function unwrap(
  ring: readonly MasterKey[],
  { key_id, wrapped_data_key }: Pick<Sealed, 'key_id' | 'wrapped_data_key'>,
  bound_to: Buffer,
): Buffer {
  const by = ring.find(({ id }) => id === key_id);
  if (by) return decrypt(by.key, splitWrapped(wrapped_data_key), bound_to);
  const have = ring.map(({ id }) => id).join(', ');
  throw new SealError('wrong_key', `Sealed with master key ${key_id.slice(0, 8)}; this server has ${have}.`);
}

function associatedData(place: Place): Buffer {
  const parts = [place.org, place.table, place.id, place.column];
  // With a separator inside a part, two places could share one text.
  if (parts.some((part) => part === '' || part.includes('|')))
    throw new TypeError('Bad place of a sealed value.');
  return Buffer.from(parts.join('|'), 'utf8');
}

function encrypt(key: Buffer, plaintext: Buffer, bound_to: Buffer): Box {
  const iv = randomBytes(IV_BYTES);
  const cipher = createCipheriv('aes-256-gcm', key, iv, { authTagLength: TAG_BYTES }).setAAD(bound_to);
  const ct = Buffer.concat([cipher.update(plaintext), cipher.final()]);
  return { iv, tag: cipher.getAuthTag(), ct };
}

function decrypt(key: Buffer, box: Box, bound_to: Buffer): Buffer {
  try {
    const decipher = createDecipheriv('aes-256-gcm', key, box.iv, { authTagLength: TAG_BYTES });
    decipher.setAAD(bound_to).setAuthTag(box.tag);
    return Buffer.concat([decipher.update(box.ct), decipher.final()]);
  } catch {
    throw new SealError('tampered', 'The sealed value does not verify: it was changed or belongs elsewhere.');
  }
}

function parseSealed(text: string): Sealed {
  const value = parseJson(text);
  const parts = ['key_id', 'wrapped_data_key', 'iv', 'tag', 'ct'];
  if (value?.['v'] !== 1 || parts.some((part) => typeof value[part] !== 'string')) {
    throw new SealError('malformed', 'Not a sealed value of version 1.');
  }
  return value as Sealed;
}

function parseJson(text: string): Record<string, unknown> | undefined {
  try {
    return (JSON.parse(text) as Record<string, unknown> | null) ?? undefined;
  } catch {
    return undefined;
  }
}

function splitWrapped(base64: string): Box {
  const wrapped = bytes(base64);
  const ct_start = IV_BYTES + TAG_BYTES;
  return {
    iv: wrapped.subarray(0, IV_BYTES),
    tag: wrapped.subarray(IV_BYTES, ct_start),
    ct: wrapped.subarray(ct_start),
  };
}

function bytes(base64: string): Buffer {
  return Buffer.from(base64, 'base64');
}
