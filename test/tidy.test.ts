/**
 * The shape of the house, enforced: which folder may import which, how long things may be, and what must be listed where. Sizes are
 * printed. `UPDATE_GOLDEN=1` rewrites the list of failpoints.
 */
import fs from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { EVENTS } from '../src/session/event.ts';
import { functionsOf, importsOf, parseSource, ROOT, sourceFiles, type SourceFile } from './helpers/source.ts';

const FLOORS = new Map([
  ...['session', 'resource'].map((folder) => [folder, 0] as const),
  ...['store', 'model', 'sandbox', 'tool', 'secret', 'blob', 'net', 'bundle'].map(
    (folder) => [folder, 1] as const,
  ),
  ['engine', 2],
  ...['http', 'client'].map((folder) => [folder, 3] as const),
  ...['cli', 'dashboard'].map((folder) => [folder, 4] as const),
  ['the roof', 5],
]);
const ROOF = ['main.ts', 'index.ts', 'server.ts', 'drivers.ts', 'settings.ts', 'config.ts', 'lock.ts'].map(
  (name) => `src/${name}`,
);
const FUNCTION_LINES_MAX = 70;
const FILE_LINES_MAX = 400;
const FOLDER_FILES_MAX = 18;
const DEPTH_MAX = 2;

const src = sourceFiles('src');
const all = [...src, ...sourceFiles('test', 'bench', 'scripts')];

describe('floors', () => {
  it('every file of src stands on a floor', () => {
    const homeless = src.filter(({ path }) => !FLOORS.has(folderOf(path)) && !ROOF.includes(path));
    expect(homeless.map(({ path }) => path)).toEqual([]);
  });

  it('a file imports its own folder or a lower floor, by its whole name', () => {
    expect(
      src.flatMap((file) => relativeImports(file).flatMap((target) => floorFault(file, target))),
    ).toEqual([]);
    const nameless = all.flatMap((file) =>
      relativeImports(file).filter((target) => !/\.(ts|json)$/.test(target)),
    );
    expect(nameless).toEqual([]);
  });

  it('the lowest floor imports no package but zod, and names the type of a byte stream', () => {
    const low = src.filter(({ path }) => FLOORS.get(folderOf(path)) === 0);
    const packages = low.flatMap((file) => importsOf(file).filter((name) => !name.startsWith('.')));
    expect(packages.filter((name) => name !== 'zod' && name !== 'node:stream')).toEqual([]);
    expect(low.filter(({ text }) => /^import (?!type\b).*'node:/m.test(text))).toEqual([]);
  });

  it('there are no barrels: only the package itself re-exports', () => {
    const barrels = src.filter(({ code }) => /^export\b[^;=(]*\bfrom\b/m.test(code)).map(({ path }) => path);
    expect(barrels.filter((path) => path !== 'src/index.ts')).toEqual([]);
    expect(src.filter(({ path }) => /\/.*\/index\.ts$/.test(path))).toEqual([]);
  });
});

describe('sizes', () => {
  const functions = all.flatMap((file) => functionsOf(file).filter(({ at }) => !isSuite(file, at)));
  const files = all.map(({ path, text }) => ({ path, lines: text.trimEnd().split('\n').length }));

  it('functions fit one screen and nest little', () => {
    const own = functions.filter(({ at }) => at.startsWith('src/'));
    console.log(`functions of src: ${own.length}, median ${median(own.map(({ lines }) => lines))} lines`);
    expect(functions.filter(({ lines }) => lines > FUNCTION_LINES_MAX)).toEqual([]);
    expect(functions.filter(({ depth }) => depth > DEPTH_MAX)).toEqual([]);
  });

  it('files hold one idea, folders few files', () => {
    const own = files.filter(({ path }) => path.startsWith('src/'));
    console.log(`files of src: ${own.length}, median ${median(own.map(({ lines }) => lines))} lines`);
    expect(files.filter(({ lines }) => lines > FILE_LINES_MAX)).toEqual([]);
    const folders = Map.groupBy(files, (file) => path.dirname(file.path));
    const full = [...folders].filter(([, inside]) => inside.length > FOLDER_FILES_MAX);
    expect(full.map(([folder, inside]) => `${folder}: ${inside.length}`)).toEqual([]);
  });
});

describe('event types', () => {
  it.each(Object.entries(EVENTS))(
    '%s has a golden file, and a place in evolve and transcript',
    (type, { body }) => {
      const golden = readJson(`fixtures/events/${type}.json`) as {
        type: string;
        level: string;
        body: object;
      };
      expect(golden.type).toBe(type);
      expect(body.strict().parse(golden.body)).toEqual(golden.body);
      for (const reader of ['evolve', 'transcript']) {
        expect(src.find(({ path }) => path === `src/session/${reader}.ts`)?.literals).toContain(type);
      }
    },
  );

  it('has no golden file of a type that is gone', () => {
    const names = fs.readdirSync(path.join(ROOT, 'fixtures/events'));
    expect(names.sort()).toEqual(
      Object.keys(EVENTS)
        .map((type) => `${type}.json`)
        .sort(),
    );
  });
});

describe('the database', () => {
  it('is spoken to in src/store only', () => {
    const outside = src.filter(({ path }) => folderOf(path) !== 'store');
    expect(outside.filter(speaksSql).map(({ path }) => path)).toEqual([]);
  });

  it('has events inserted by the log, the flush and the creation of sessions and computers only', () => {
    const inserts = /insert\s+into\s+event\b|insertInto\(\s*['"]event['"]|\bEVENT_INSERT\b/i;
    const writers = src.filter(({ bare }) => inserts.test(bare)).map(({ path }) => path);
    const doors = ['log', 'flush', 'sessions', 'computer/computers'].map((name) => `src/store/${name}.ts`);
    expect(writers.filter((path) => !doors.includes(path))).toEqual([]);
  });
});

describe('failpoints', () => {
  it('are listed in fixtures/failpoints.json', () => {
    expect(failpoints().filter((name) => !/^[a-z]+\.[a-z_]+$/.test(name))).toEqual([]);
    const listed = path.join(ROOT, 'fixtures/failpoints.json');
    const text = `${JSON.stringify(failpoints(), null, 2)}\n`;
    if (process.env['UPDATE_GOLDEN']) fs.writeFileSync(listed, text);
    expect(fs.readFileSync(listed, 'utf8'), 'run again with UPDATE_GOLDEN=1').toBe(text);
  });
});

describe('what these tests measure with', () => {
  const file = parseSource(
    'x.ts',
    [
      "import type { A } from './a.ts'; // import x from './no.ts'",
      'const table = { a: { b: /[/{]}/ } };',
      'export function f(a: { b: string }): Promise<{ c: A }> | undefined {',
      '  for (const x of a) {',
      "    if (x) { say(`{ ${x ? '}' : ''} {`); }",
      '  }',
      '  const g = () => {',
      '    return 1 / 2 / 3;',
      '  };',
      '}',
    ].join('\n'),
  );

  it('reads imports and functions, and is not misled by literals, types and comments', () => {
    expect(importsOf(file)).toEqual(['./a.ts']);
    expect(functionsOf(file)).toEqual([
      { at: 'x.ts:7', lines: 3, depth: 0 },
      { at: 'x.ts:3', lines: 6, depth: 2 },
    ]);
  });
});

function folderOf(file: string): string {
  if (ROOF.includes(file)) return 'the roof';
  return file.split('/')[1] ?? '';
}

/** As paths from the root. */
function relativeImports(file: SourceFile): string[] {
  const relative = importsOf(file).filter((name) => name.startsWith('.'));
  return relative.map((name) => path.posix.join(path.posix.dirname(file.path), name));
}

function floorFault({ path }: SourceFile, target: string): string[] {
  const from = folderOf(path);
  const to = folderOf(target);
  if (from === to || (from === 'session' && to === 'resource')) return [];
  const allowed_below = from === 'client' ? 1 : (FLOORS.get(from) ?? -1);
  return target.startsWith('src/') && (FLOORS.get(to) ?? Infinity) < allowed_below
    ? []
    : [`${path} → ${target}`];
}

/** The callback of a `describe` is a table of contents, not a function. */
function isSuite(file: SourceFile, at: string): boolean {
  const line = Number(at.split(':')[1]);
  return (
    file.path.endsWith('.test.ts') &&
    /\bdescribe\b/.test(file.text.split('\n').slice(0, line).slice(-8).join('\n'))
  );
}

function speaksSql(file: SourceFile): boolean {
  const drivers = importsOf(file).some((name) => /^(kysely|pg|@electric-sql\/pglite)(\/|$)/.test(name));
  const builder = /\.(selectFrom|insertInto|updateTable|deleteFrom)\(|\bsql[<`]/.test(file.code);
  const statement =
    /^\s*(select|insert into|update|delete from|with|alter|create|drop)\s[^]*\b(from|into|set|table|as)\s/;
  return drivers || builder || file.literals.some((literal) => statement.test(literal));
}

/** Every name that src hands to `fail`; a name made from a command's type stands for each command that the engine writes. */
function failpoints(): string[] {
  const names = src.flatMap(({ bare }) =>
    [...bare.matchAll(/\bfail\(\s*['"`]([^'"`]+)['"`]/g)].map((match) => match[1]!),
  );
  const written = src.flatMap(({ bare }) =>
    [...bare.matchAll(/\bwrite\([^;]*?\btype: '(\w+)'/g)].map((match) => match[1]!),
  );
  const expanded = names.flatMap((name) =>
    name.includes('${') ? written.map((type) => name.replace('${command.type}', type)) : [name],
  );
  return [...new Set(expanded)].sort();
}

function median(values: number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0;
}

function readJson(file: string): unknown {
  return JSON.parse(fs.readFileSync(path.join(ROOT, file), 'utf8'));
}
