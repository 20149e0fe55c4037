/** The OpenAPI document is sound and tells of every route; the generated files are what the code says. */
import { execFile } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { promisify } from 'node:util';
import { describe, expect, it } from 'vitest';
import type { Computers } from '../../src/engine/computers/computers.ts';
import type { Deployments } from '../../src/engine/deployments/deployments.ts';
import type { Runtime } from '../../src/engine/runtime.ts';
import { createApp, describe as describeApp } from '../../src/http/app.ts';

type Operation = {
  security?: Record<string, string[]>[];
  parameters?: { in: string; name: string; required?: boolean; schema?: object }[];
  requestBody?: { content: Record<string, { schema?: object }> };
  responses: Record<string, { description?: string; content?: Record<string, { schema?: object }> }>;
};
type Document = {
  openapi: string;
  paths: Record<string, Record<string, Operation>>;
  components: { schemas: Record<string, object>; securitySchemes: Record<string, object> };
};

const ROOT = path.join(import.meta.dirname, '..', '..');
/** The document itself and the page that shows it. */
const OF_THE_DOCUMENT = /^\/(openapi\.json|reference(\/.*)?)$/;
const app = createApp({} as Runtime, {
  signal: new AbortController().signal,
  version: '1.2.3',
  capabilities: {},
  computers: {} as Computers,
  deployments: {} as Deployments,
});
const document = JSON.parse(JSON.stringify(describeApp(app, '1.2.3'))) as Document;
const operations = Object.entries(document.paths).flatMap(([name, methods]) =>
  Object.entries(methods).map(([method, operation]) => ({ name, method, operation })),
);

describe('the document', () => {
  it('is OpenAPI 3.1 and names this version', () => {
    expect(document).toMatchObject({ openapi: '3.1.0', info: { title: 'Overwinter', version: '1.2.3' } });
  });

  it('has every route of the app, and no other', () => {
    const served = app.routes
      .filter(({ method, path }) => method !== 'ALL' && !OF_THE_DOCUMENT.test(path))
      .map(({ method, path }) => `${method.toLowerCase()} ${path.replaceAll(/:(\w+)/g, '{$1}')}`);
    const described = operations.map(({ method, name }) => `${method} ${name}`);
    expect(described.sort()).toEqual([...new Set(served)].sort());
  });

  it('resolves every reference', () => {
    const references = [...JSON.stringify(document).matchAll(/"\$ref":"#\/components\/schemas\/([^"]+)"/g)];
    expect(references.length).toBeGreaterThan(20);
    for (const [, name] of references) expect(Object.keys(document.components.schemas)).toContain(name);
  });

  it.each(operations.map((entry) => [`${entry.method} ${entry.name}`, entry] as const))(
    'describes %s whole',
    (_, entry) => {
      const { name, operation } = entry;
      const declared = (operation.parameters ?? []).filter((parameter) => parameter.in === 'path');
      expect(declared.map((parameter) => parameter.name)).toEqual(
        [...name.matchAll(/\{(\w+)\}/g)].map(([, param]) => param),
      );
      expect(declared.every(({ required, schema }) => required === true && schema !== undefined)).toBe(true);
      const schemes = (operation.security ?? []).flatMap((scheme) => Object.keys(scheme));
      expect(schemes.length > 0).toBe(/^\/(v[13]|api)\//.test(name));
      for (const scheme of schemes)
        expect(Object.keys(document.components.securitySchemes)).toContain(scheme);
      for (const { description, content } of Object.values(operation.responses)) {
        expect(description).toBeTruthy();
        for (const media of Object.values(content ?? {})) expect(media.schema).toBeDefined();
      }
    },
  );
});

describe('generated files', () => {
  it('are what the code says', async () => {
    const script = path.join(ROOT, 'scripts/generated.ts');
    await expect(promisify(execFile)(process.execPath, [script, '--check'])).resolves.toMatchObject({
      stderr: '',
    });
  });

  it('hold a schema for every event type', () => {
    const { types } = JSON.parse(fs.readFileSync(path.join(ROOT, 'schema/events.json'), 'utf8')) as {
      types: Record<string, { level: string; body: { type: string } }>;
    };
    expect(types['turn.completed']).toMatchObject({ level: 'user', body: { type: 'object' } });
  });
});
