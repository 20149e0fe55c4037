/** The examples run as they stand, against a server as `npm start` runs it. */
import { execFile } from 'node:child_process';
import path from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ROOT } from './helpers/source.ts';
import { reply, text } from './helpers/model/messages-api.ts';
import type { TestNode } from './helpers/node.ts';
import { makeWorld, type World } from './helpers/world.ts';

let world: World;
let node: TestNode;
beforeAll(async () => {
  world = await makeWorld(() => reply(text('.')), { OVERWINTER_SANDBOX: 'bwrap' });
  node = await world.start();
});
afterAll(() => world.end());

async function run(example: string, ...args: string[]): Promise<string> {
  const file = path.join(ROOT, 'examples/computers', example);
  const env = { PATH: process.env['PATH'], OVERWINTER_URL: node.url, OVERWINTER_API_KEY: node.api_key };
  return (await promisify(execFile)(process.execPath, [file, ...args], { env })).stdout;
}

describe('the patterns of using a computer', () => {
  it('create, run, delete', async () => {
    expect(await run('create-run-delete.ts')).toBe('2^10 is 1024\n\n');
  });

  it('create, stop, start', async () => {
    expect(await run('create-stop-start.ts')).toBe('half of the work\n\n');
  });

  it('a known computer', async () => {
    const first = await run('known-computer.ts');
    const name = /computer: (\S+)/.exec(first)?.[1] ?? '';
    const again = await run('known-computer.ts', name);
    expect(again.match(/ran$/gm)).toHaveLength(2);
    expect(again).toContain(`computer: ${name}\n`);
  });

  it('a saved session', async () => {
    const file = path.join(world.directory, 'state.json');
    await run('saved-session.ts', 'begin', file);
    expect(await run('saved-session.ts', 'resume', file)).toBe('so far: read the code\n\n');
  });
});
