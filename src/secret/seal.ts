/**
 * Sealed values: envelope encryption with AES-256-GCM. Each value has its own data key, wrapped by the master key, and both
 * layers are bound to the column the value lives in: a sealed value moved to another row or column does not open.
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

export type Sealer = {
  /** The sealed form of `plaintext`, as JSON text. Two seals of one value differ. */
  seal(plaintext: string, place: Place): string;
  /** The plaintext. Throws `SealError`. */
  open(sealed: string, place: Place): string;
};

/** A sealer over a master key of 32 bytes; throws `TypeError` for any other length. */
export function sealer(master_key: Buffer): Sealer {
  if (master_key.length !== KEY_BYTES) throw new TypeError(`A master key has ${KEY_BYTES} bytes.`);
  const key_id = createHash('sha256').update(master_key).digest('hex').slice(0, 8);
  return {
    seal: (plaintext, place) => seal(master_key, key_id, plaintext, place),
    open: (sealed, place) => open(master_key, key_id, sealed, place),
  };
}

/** The 32 bytes that `text` writes as base64, base64url or 64 hex digits. Throws an `Error` that does not quote the text. */
export function parseMasterKey(text: string): Buffer {
  const written = text.trim();
  if (/^[0-9a-fA-F]{64}$/.test(written)) return Buffer.from(written, 'hex');
  if (/^[A-Za-z0-9+/]{43}=?$/.test(written)) return Buffer.from(written, 'base64');
  if (/^[A-Za-z0-9_-]{43}=?$/.test(written)) return Buffer.from(written, 'base64url');
  throw new Error('The master key must be 32 bytes, written as base64, base64url or 64 hex digits.');
}

const KEY_BYTES = 32;
const IV_BYTES = 12;
const TAG_BYTES = 16;

type Sealed = { v: 1; key_id: string; wrapped_data_key: string; iv: string; tag: string; ct: string };
type Box = { iv: Buffer; tag: Buffer; ct: Buffer };

function seal(master_key: Buffer, key_id: string, plaintext: string, place: Place): string {
  const bound_to = associatedData(place);
  const data_key = randomBytes(KEY_BYTES);
  const wrapped = encrypt(master_key, data_key, bound_to);
  const box = encrypt(data_key, Buffer.from(plaintext, 'utf8'), bound_to);
  const sealed: Sealed = {
    v: 1,
    key_id,
    wrapped_data_key: Buffer.concat([wrapped.iv, wrapped.tag, wrapped.ct]).toString('base64'),
    iv: box.iv.toString('base64'),
    tag: box.tag.toString('base64'),
    ct: box.ct.toString('base64'),
  };
  return JSON.stringify(sealed);
}

function open(master_key: Buffer, key_id: string, text: string, place: Place): string {
  const sealed = parseSealed(text);
  if (sealed.key_id !== key_id) {
    throw new SealError('wrong_key', `Sealed with master key ${sealed.key_id}; this server has ${key_id}.`);
  }
  const bound_to = associatedData(place);
  const data_key = decrypt(master_key, splitWrapped(sealed.wrapped_data_key), bound_to);
  const box = { iv: bytes(sealed.iv), tag: bytes(sealed.tag), ct: bytes(sealed.ct) };
  return decrypt(data_key, box, bound_to).toString('utf8');
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
