/** What all nodes of the whole suite have written holds none of the secrets that they were given. When a part ran, of that part. */
import { describe, expect, it } from 'vitest';
import { KEY } from '../helpers/model/anthropic-calls.ts';
import { readLines, readRecords } from '../helpers/records.ts';
import { findIn, needlesOf } from '../security/encodings.ts';

/** Shorter ones are words that tests use elsewhere. */
const SECRET_CHARACTERS_MIN = 12;

describe('the output of all nodes', () => {
  const output = readRecords('output');
  const known = [...readLines<string>('secrets'), KEY, 'sk-rotated-canary'];
  const secrets = [...new Set(known)].filter((secret) => secret.length >= SECRET_CHARACTERS_MIN);

  it('holds no secret of any of them, in no encoding', () => {
    console.log(`searched ${output.length} characters for ${secrets.length} secrets`);
    const needles = needlesOf(
      Object.fromEntries(secrets.map((secret) => [`${secret.slice(0, 12)}…`, secret])),
    );
    expect(findIn(output, needles)).toEqual([]);
  });

  it('is what was searched: a line that every start writes is there', () => {
    if (secrets.length > 2) expect(output).toContain('Overwinter');
  });
});
