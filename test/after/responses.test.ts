/**
 * What the document promises was seen, and nothing else was: every route with every success that it has and with a refusal. Asked only
 * after the whole suite: when every test file has left its mark and no test was left out by its name. After a part of it, only what
 * was seen is judged.
 */
import fs from 'node:fs';
import path from 'node:path';
import { describe, expect, inject, it } from 'vitest';
import document from '../../schema/openapi.json' with { type: 'json' };
import { readLines, type Seen } from '../helpers/records.ts';

const ROOT = path.join(import.meta.dirname, '..', '..');

type Operation = { name: string; method: string; pattern: RegExp; documented: string[]; seen: Set<number> };

/** The more of a path is fixed, the earlier it is tried: `/credentials/default` is no credential. */
const operations: Operation[] = Object.entries(document.paths)
  .toSorted(([one], [other]) => one.split('{').length - other.split('{').length)
  .flatMap(([route, methods]) =>
    Object.entries(methods).map(([method, { responses }]) => ({
      ...{ name: `${method.toUpperCase()} ${route}`, method: method.toUpperCase() },
      pattern: new RegExp(`^${route.replaceAll(/\{\w+\}/g, '[^/]+')}$`),
      documented: Object.keys(responses as object),
      seen: new Set<number>(),
    })),
  );

for (const { method, path, status } of readLines<Seen>('answers'))
  operations.find((one) => one.method === method && one.pattern.test(path))?.seen.add(status);

const ran = new Set(readLines<string>('files'));
const absent = fs
  .globSync('test/**/*.test.ts', { cwd: ROOT })
  .filter((file) => !file.startsWith('test/after/') && !ran.has(file));
const skipped = absent.length > 0 || inject('tests_are_picked');

describe('the answers of the whole suite', () => {
  it('are ones that the document has', () => {
    const unheard = operations.flatMap(({ name, documented, seen }) =>
      [...seen].filter((status) => !covers(documented, status)).map((status) => `${name}: ${status}`),
    );
    expect(unheard).toEqual([]);
  });

  it('are all that the document has: each success of each route, and a refusal', () => {
    const missing = operations.flatMap(({ name, documented, seen }) =>
      documented
        .filter((status) => isAsked(status) && !isSeen(status, seen))
        .map((status) => `${name}: ${status}`),
    );
    if (skipped) {
      console.log(
        `${absent.length} test files did not run, so these are not asked for:\n${missing.join('\n')}`,
      );
      return;
    }
    expect(missing).toEqual([]);
  });
});

/** Exactly, or as the class of a failure. */
function covers(documented: string[], status: number): boolean {
  return (
    documented.includes(String(status)) || (status >= 400 && documented.includes(`${String(status)[0]}XX`))
  );
}

/** A server that fails is not something that a test can ask of every route. */
function isAsked(status: string): boolean {
  return /^[234]/.test(status);
}

function isSeen(status: string, seen: Set<number>): boolean {
  return [...seen].some((one) => status === String(one) || status === `${String(one)[0]}XX`);
}
