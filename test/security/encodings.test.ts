/** The search for secrets finds what it searches: a search that finds nothing proves nothing otherwise. */
import { randomBytes } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { ENCODINGS, findIn, needlesOf, type Needle } from './encodings.ts';

const SECRET = `sk-ant-Canary-${randomBytes(12).toString('base64url')}+/=`;

function formsIn(text: string, needles: Needle[]): string[] {
  return findIn(text, needles).map(({ encoding }) => encoding);
}

describe('a secret that is logged', () => {
  it.each(Object.entries(ENCODINGS))('is found as %s, in the middle of a line', (name, encode) => {
    const line = `{"level":50,"msg":"it was ${encode(Buffer.from(SECRET))}, they said"}\n`;
    expect(formsIn(line, needlesOf({ secret: SECRET }))).toContain(name);
  });

  it.each([1, 2, 3, 4, 5])('is found in base64 with %i bytes before it', (before) => {
    const encoded = Buffer.from(`${'x'.repeat(before)}${SECRET}, and more`);
    const needles = needlesOf({ secret: SECRET });
    expect(formsIn(encoded.toString('base64'), needles)).toContain(`base64 at ${before % 3}`);
    expect(formsIn(encoded.toString('base64url'), needles)).toContain(`base64url at ${before % 3}`);
  });

  it.each(['\n', '\\n', '\r\n', '\n  '])('is found where %j was put into it', (separator) => {
    const wrapped = (SECRET.match(/.{1,7}/g) ?? []).join(separator);
    expect(formsIn(`a${wrapped}b`, needlesOf({ secret: SECRET }))).toContain('raw');
  });

  it('is not found where it is not', () => {
    const text = randomBytes(100_000).toString('base64') + JSON.stringify({ SECRET: SECRET.slice(0, -1) });
    expect(formsIn(text, needlesOf({ secret: SECRET })).filter((hit) => !hit.includes('base64'))).toEqual([]);
    expect(Object.keys(ENCODINGS).length).toBeGreaterThanOrEqual(20);
  });
});
