/**
 * The forms in which a secret may turn up where it must not. Each is a function from the secret to what it would look like, cut to
 * the part that does not depend on what stands around it, so that it is found in the middle of anything.
 */

/** How the bytes or the characters of a secret may be written. */
type Encoding = (bytes: Buffer) => string;

export const ENCODINGS: Record<string, Encoding> = {
  raw: (bytes) => bytes.toString('utf8'),
  'upper case': (bytes) => bytes.toString('utf8').toUpperCase(),
  'lower case': (bytes) => bytes.toString('utf8').toLowerCase(),
  reversed: (bytes) => Array.from(bytes.toString('utf8')).toReversed().join(''),
  rot13: (bytes) => bytes.toString('utf8').replaceAll(/[a-z]/gi, rot13),
  'spaced out': (bytes) => Array.from(bytes.toString('utf8')).join(' '),
  'with NULs between': (bytes) => Array.from(bytes.toString('utf8')).join('\0'),
  'separated by commas': (bytes) => Array.from(bytes.toString('utf8')).join(','),
  'base64 at 0': (bytes) => base64(bytes, 0),
  'base64 at 1': (bytes) => base64(bytes, 1),
  'base64 at 2': (bytes) => base64(bytes, 2),
  'base64url at 0': (bytes) => urlSafe(base64(bytes, 0)),
  'base64url at 1': (bytes) => urlSafe(base64(bytes, 1)),
  'base64url at 2': (bytes) => urlSafe(base64(bytes, 2)),
  'base64 of base64': (bytes) => base64(Buffer.from(base64(bytes, 0)), 0),
  'base64 of UTF-16LE': (bytes) => base64(utf16(bytes), 0),
  base32: (bytes) => base32(bytes),
  hex: (bytes) => bytes.toString('hex'),
  'upper hex': (bytes) => bytes.toString('hex').toUpperCase(),
  'hex with spaces': (bytes) => each(bytes, (byte) => hex(byte)).join(' '),
  'hex with colons': (bytes) => each(bytes, (byte) => hex(byte)).join(':'),
  'hex of UTF-16LE': (bytes) => utf16(bytes).toString('hex'),
  'hex of UTF-16BE': (bytes) => utf16(bytes).swap16().toString('hex'),
  'hex escapes': (bytes) => each(bytes, (byte) => `\\x${hex(byte)}`).join(''),
  'octal escapes': (bytes) => each(bytes, (byte) => `\\${byte.toString(8).padStart(3, '0')}`).join(''),
  'URL encoding': (bytes) => percent(bytes),
  'lower URL encoding': (bytes) => percent(bytes).toLowerCase(),
  'double URL encoding': (bytes) => percent(bytes).replaceAll('%', '%25'),
  'as a URL component': (bytes) => encodeURIComponent(bytes.toString('utf8')),
  'quoted-printable': (bytes) => percent(bytes).replaceAll('%', '='),
  'JSON escapes': (bytes) => each(bytes, (byte) => `\\u00${hex(byte)}`).join(''),
  'upper JSON escapes': (bytes) => each(bytes, (byte) => `\\u00${hex(byte).toUpperCase()}`).join(''),
  'decimal HTML entities': (bytes) => each(bytes, (byte) => `&#${byte};`).join(''),
  'hex HTML entities': (bytes) => each(bytes, (byte) => `&#x${hex(byte)};`).join(''),
  'decimal numbers': (bytes) => each(bytes, String).join(','),
  'decimal numbers with spaces': (bytes) => each(bytes, String).join(' '),
  binary: (bytes) => each(bytes, (byte) => byte.toString(2).padStart(8, '0')).join(''),
};

/** Forms of characters say nothing of bytes that are no text. */
const OF_TEXT = /raw|case|reversed|rot13|spaced|NULs|separated|component|UTF-16/;

export type Needle = { secret: string; encoding: string; text: string };
type Found = { secret: string; encoding: string; after: string };

/** @param secrets by name; a Buffer is bytes that are no text. */
export function needlesOf(secrets: Record<string, string | Buffer>): Needle[] {
  return Object.entries(secrets).flatMap(([secret, value]) =>
    Object.entries(ENCODINGS)
      .filter(([encoding]) => typeof value === 'string' || !OF_TEXT.test(encoding))
      .map(([encoding, encode]) => ({ secret, encoding, text: encode(Buffer.from(value)) })),
  );
}

/** What of `needles` is in a text, also where line ends or white space were put into it, and what stands before it. */
export function findIn(haystack: string, needles: Needle[]): Found[] {
  // As it is, and without line ends, be they escaped or not: what was wrapped is whole again.
  const forms = [haystack, haystack.replaceAll(/\s+|\\r|\\n/g, '')];
  return needles.flatMap(({ secret, encoding, text }) => {
    const form = forms.find((one) => one.includes(text));
    if (form === undefined) return [];
    const at = form.indexOf(text);
    return [{ secret, encoding, after: form.slice(Math.max(0, at - CONTEXT), at) }];
  });
}

const CONTEXT = 60;

function each(bytes: Buffer, write: (byte: number) => string): string[] {
  return [...bytes].map(write);
}

function hex(byte: number): string {
  return byte.toString(16).padStart(2, '0');
}

function rot13(letter: string): string {
  const first = letter < 'a' ? 65 : 97;
  return String.fromCharCode(((letter.charCodeAt(0) - first + 13) % 26) + first);
}

/** The characters of base64 that are the secret's own when `before` bytes stand before it. */
function base64(bytes: Buffer, before: number): string {
  const whole = Buffer.concat([Buffer.alloc(before), bytes]);
  const start = before === 0 ? 0 : before + 1;
  return whole.toString('base64').slice(start, Math.floor((whole.length * 8) / 6));
}

function urlSafe(text: string): string {
  return text.replaceAll('+', '-').replaceAll('/', '_');
}

function base32(bytes: Buffer): string {
  const bits = each(bytes, (byte) => byte.toString(2).padStart(8, '0')).join('');
  const whole = bits.match(/.{5}/g) ?? [];
  return whole.map((five) => 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567'[Number.parseInt(five, 2)]).join('');
}

function utf16(bytes: Buffer): Buffer {
  return Buffer.from(bytes.toString('utf8'), 'utf16le');
}

function percent(bytes: Buffer): string {
  return each(bytes, (byte) => `%${hex(byte).toUpperCase()}`).join('');
}
