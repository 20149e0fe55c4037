/** Uploads as `multipart/form-data`: one that fits, and one of which something was made wrong, down to the bytes between the parts. */
import { gzipSync } from 'node:zlib';
import { tarOf, zipOf } from '../../bundle/archives.ts';
import { ODD_STRINGS, ODD_VALUES } from './odd.ts';
import type { Random } from './random.ts';

const BOUNDARY = 'c2f1a7d0e5b94f6f8c1d2e3f40516273';
export const FORM_TYPE = `multipart/form-data; boundary=${BOUNDARY}`;

/** Of which none makes a program: what is built costs most. */
const ARCHIVES: readonly Buffer[] = [
  gzipSync(tarOf([{ name: 'README.md', body: '#' }])),
  tarOf([{ name: '../x', body: 'evil' }]),
  gzipSync(
    tarOf([
      { name: 'a', type: '2', target: '/etc' },
      { name: 'a/b', body: 'evil' },
    ]),
  ),
  gzipSync(tarOf([{ name: 'null', type: '3' }])),
  gzipSync(Buffer.alloc(3_000_000)).subarray(0, 2000),
  zipOf([{ name: 'x', body: 'a', says_bytes: 1000 }]),
  zipOf([{ name: '../../x', body: 'evil' }]),
  Buffer.from('PK\x03\x04 no zip'),
  Buffer.alloc(1024),
  Buffer.alloc(0),
];

/** Names that cases share, so that some of them meet. */
export const APP_NAMES = ['app', 'other app'] as const;

export function formOf(random: Random): Buffer {
  const fields: [string, string][] = [
    ['name', random.chance(0.6) ? random.pick(APP_NAMES) : random.pick(ODD_STRINGS)],
    ['description', random.pick(['', 'words', random.pick(ODD_STRINGS)])],
    ['project_id', random.chance(0.8) ? '' : random.pick(ODD_STRINGS)],
    ['config', configOf(random)],
  ];
  const kept = fields.filter(() => random.chance(0.9));
  const parts = kept.map(([name, value]) => part(`name="${name}"`, Buffer.from(value.toWellFormed())));
  if (random.chance(0.9)) {
    const archive = Buffer.from(random.chance(0.05) ? ARCHIVES[0]! : random.pick(ARCHIVES.slice(1)));
    parts.splice(
      random.below(parts.length + 1),
      0,
      part('name="code_bundle"; filename="app_bundle.tar.gz"', archive),
    );
  }
  if (random.chance(0.1)) parts.push(part(random.pick(ODD_PARTS), Buffer.from('x')));
  const whole = Buffer.concat([...parts, Buffer.from(`--${BOUNDARY}--\r\n`)]);
  if (random.chance(0.7)) return whole;
  if (random.chance(0.5)) return whole.subarray(0, random.below(whole.length));
  whole[random.below(whole.length)] = random.below(256);
  return whole;
}

function configOf(random: Random): string {
  const value = random.chance(0.5) ? {} : random.pick(ODD_VALUES);
  const text = JSON.stringify({ env: value, [random.pick(['port', 'vcpus', 'start_command', 'x'])]: value });
  return random.chance(0.8) ? text : text.slice(0, random.below(text.length));
}

const ODD_PARTS = [
  'name="code_bundle"; filename="again"',
  ...['name=""', 'filename="x"', `name="${'n'.repeat(5000)}"`, 'name="__proto__"', "name*=utf-8''%ff", ''],
];

function part(disposition: string, body: Buffer): Buffer {
  const head = `--${BOUNDARY}\r\nContent-Disposition: form-data; ${disposition}\r\n\r\n`;
  return Buffer.concat([Buffer.from(head), body, Buffer.from('\r\n')]);
}
