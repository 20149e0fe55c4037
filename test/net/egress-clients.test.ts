import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it, type TestContext } from 'vitest';
import type { Fetched } from './egress/clients.ts';
import { runInNamespace } from './namespace.ts';

const PROGRAM = path.join(import.meta.dirname, 'egress/clients.ts');
const scratch = fs.mkdtempSync(path.join(os.tmpdir(), 'overwinter-clients-'));

let report: Record<string, Fetched>;
let got: string[];

beforeAll(async () => {
  ({ report, got } = JSON.parse(await runInNamespace(PROGRAM, [scratch], {})) as {
    report: Record<string, Fetched>;
    got: string[];
  });
});
afterAll(() => fs.rmSync(scratch, { recursive: true, force: true }));

function fetched({ skip }: TestContext, name: string): Exclude<Fetched, { missing: string }> {
  const found = report[name];
  if (found === undefined) throw new Error(`No client is called "${name}".`);
  if ('missing' in found) return skip(`${found.missing} is not installed`);
  return found;
}

describe('clients that know of the proxy by its variables', () => {
  it('curl fetches by http and by https', (context) => {
    expect(fetched(context, 'curl http')).toEqual({ code: 0, said: 'a file', seen: ['GET /file'] });
    expect(fetched(context, 'curl https')).toEqual({ code: 0, said: 'a file', seen: ['GET /file'] });
    expect(fetched(context, 'curl upload')).toEqual({ code: 0, said: 'a file', seen: ['PUT /put'] });
  });

  it('curl learns that the inside is closed', (context) => {
    const http = fetched(context, 'curl inside');
    expect(http).toMatchObject({ code: 22, seen: [] });
    expect(http.said).toContain('403');
    const https = fetched(context, 'curl inside, https');
    expect(https).toMatchObject({ code: 56, seen: [] });
    expect(https.said).toContain('403');
  });

  it('a list of hosts holds for them', (context) => {
    expect(fetched(context, 'curl listed')).toMatchObject({ code: 0, said: 'a file' });
    expect(fetched(context, 'curl not listed')).toMatchObject({ code: 56, seen: [] });
  });

  it('git clones by http and by https', (context) => {
    for (const name of ['git clone', 'git clone, https']) {
      const { code, seen } = fetched(context, name);
      expect({ code, asked: seen.slice(0, 2) }).toEqual({
        code: 0,
        asked: ['GET /git/one/info/refs', 'POST /git/one/git-upload-pack'],
      });
    }
    expect(got.slice(0, 2)).toEqual(['by git\n', 'by git\n']);
  });

  it('npm installs a package', (context) => {
    const { code, said } = fetched(context, 'npm');
    expect(code, said).toBe(0);
    expect(got[2]).toBe('by npm');
  });

  it('pip installs a wheel', (context) => {
    const { code, said } = fetched(context, 'pip');
    expect(code, said).toBe(0);
    expect(got[3]).toBe('by pip');
  });
});
