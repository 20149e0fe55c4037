/** The hosts file: read as hosts(5) says, and again when it has changed. */
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import { openHosts } from '../../src/net/hosts.ts';

function fileOf(text: string): string {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'overwinter-hosts-'));
  onTestFinished(() => fs.rmSync(directory, { recursive: true }));
  const file = path.join(directory, 'hosts');
  fs.writeFileSync(file, text);
  return file;
}

it('gives every address of a name, in whichever letters and with whichever blanks it is written', () => {
  const hosts = openHosts(
    fileOf('# all\n\t10.0.0.1  Inner.Test. other # more\r\n::1 inner.test\nnonsense x\n'),
  );
  expect(hosts('inner.test')).toEqual(['10.0.0.1', '::1']);
  expect([hosts('other'), hosts('more'), hosts('x'), hosts('10.0.0.1')]).toEqual([['10.0.0.1'], [], [], []]);
});

it('counts as it is now: changed, gone and back', () => {
  const file = fileOf('10.0.0.1 a\n');
  const hosts = openHosts(file);
  expect(hosts('a')).toEqual(['10.0.0.1']);
  fs.writeFileSync(file, '10.0.0.22 a\n');
  expect(hosts('a')).toEqual(['10.0.0.22']);
  fs.rmSync(file);
  expect(hosts('a')).toEqual([]);
  fs.writeFileSync(file, '10.0.0.3 a\n');
  expect(hosts('a')).toEqual(['10.0.0.3']);
});
