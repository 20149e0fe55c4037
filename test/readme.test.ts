/** What the README claims by name: every setting is in its table, and every promise names a test that exists. */
import fs from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { SETTINGS } from '../src/config.ts';
import { parseSource, ROOT } from './helpers/source.ts';

const readme = read('README.md');

describe('the README', () => {
  it('has the table of settings as the program has it', () => {
    const wanted = Object.entries(SETTINGS).map(([name, { default: fallback, meaning, ...rest }]) => {
      const unit = 'unit' in rest ? ` ${rest.unit}` : '';
      return [`\`${name}\``, fallback === undefined ? 'unset' : `\`${fallback}\`${unit}`, meaning];
    });
    expect(rowsOf('Configuration')).toEqual(wanted);
  });

  it.each(rowsOf('Promises'))('promises: %s', (_promise, file = '', title) => {
    const { literals } = parseSource(file, read(file.replaceAll('`', '')));
    expect(literals).toContain(title);
  });

  it('names only commands that there are', () => {
    const { scripts } = JSON.parse(read('package.json')) as { scripts: Record<string, string> };
    const named = [...readme.matchAll(/\bnpm (?:run )?([a-z][a-z:-]*)/g)].map((match) => match[1]!);
    expect(named.filter((name) => name !== 'install' && !(name in scripts))).toEqual([]);
  });
});

/** The cells of the first table below a heading, without the table's own heading. */
function rowsOf(heading: string): string[][] {
  const section = readme.split(/^## /m).find((text) => text.startsWith(`${heading}\n`)) ?? '';
  const lines = section.split('\n').filter((line) => line.startsWith('|'));
  return lines.slice(2).map((line) =>
    line
      .split('|')
      .slice(1, -1)
      .map((cell) => cell.trim()),
  );
}

function read(file: string): string {
  return fs.readFileSync(path.join(ROOT, file), 'utf8');
}
