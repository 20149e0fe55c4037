/** Starting and stopping, as an operator sees it: one sentence and exit code 2 for what is wrong, a clean end for what is not. */
import { execFile } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { promisify } from 'node:util';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { reply, text, toolUse } from './helpers/model/messages-api.ts';
import { PROCESS_SANDBOX, type TestNode } from './helpers/node.ts';
import { recordedFetch } from './helpers/records.ts';
import { eventually, gate, makeWorld, streamUntil, type World } from './helpers/world.ts';

const MAIN = new URL('../src/main.ts', import.meta.url).pathname;
const run = promisify(execFile);

/** Runs the program to its end; the environment is only what is given. */
async function runMain(environment: Record<string, string>, ...args: string[]) {
  const env = { PATH: process.env['PATH'], OVERWINTER_PORT: '0', ...environment };
  const ended = await run(process.execPath, [MAIN, ...args], { env, timeout: 20_000 }).catch(
    (error: unknown) => error,
  );
  const { code = 0, stdout, stderr } = ended as { code?: number; stdout: string; stderr: string };
  return { code, stdout, stderr };
}

let world: World;
const hold = gate();

beforeEach(async () => {
  world = await makeWorld((request) =>
    JSON.stringify(request.messages).includes('slow')
      ? { ...reply(toolUse('bash', { command: 'echo' })), gate: () => hold.opened }
      : reply(text('Done.')),
  );
});

afterEach(() => world.end());

describe('a start', () => {
  it('shows its settings for --help', async () => {
    const { code, stdout } = await runMain({}, '--help');
    expect(code).toBe(0);
    for (const name of [
      'OVERWINTER_PORT',
      '4680',
      'DATABASE_URL',
      'OVERWINTER_HIBERNATE_AFTER_MS',
      '30000 ms',
    ]) {
      expect(stdout).toContain(name);
    }
  });

  it.each([
    [{ OVERWINTER_PORT: 'eighty' }, 'OVERWINTER_PORT must be a whole number'],
    [{ OVERWINTER_PORT: '70000' }, 'OVERWINTER_PORT must be between'],
    [{ DATABASE_URL: 'mysql://x' }, 'DATABASE_URL must be a postgres:// URL'],
    [{ DATABASE_URL: 'postgres://127.0.0.1:1/x' }, 'OVERWINTER_MASTER_KEY is required'],
    [{ OVERWINTER_SANDBOX: 'process' }, 'OVERWINTER_ALLOW_UNSANDBOXED=1'],
    [{ OVERWINTER_API_KEY: 'secret-nonsense' }, 'OVERWINTER_API_KEY must look like'],
    [{ OVERWINTER_SANDBOX: 'firecracker' }, 'OVERWINTER_SANDBOX must be bwrap, docker or process'],
    [{ OVERWINTER_DATA_DIR: MAIN }, 'cannot be used'],
  ])('refuses %o in one sentence and exits 2', async (environment, sentence) => {
    const { code, stderr } = await runMain(environment);
    expect(code).toBe(2);
    expect(stderr).toContain(sentence);
    expect(stderr.trim().split('\n')).toHaveLength(1);
    expect(stderr).not.toContain('secret-nonsense');
  });

  it('refuses to run without a working sandbox program, naming what to install', async () => {
    const directory = path.join(world.directory, 'other');
    fs.cpSync(path.join(world.directory, 'database'), path.join(directory, 'database'), { recursive: true });
    // In a mount namespace of its own the program is not there.
    const hide = 'mount --bind /dev/null "$(command -v bwrap)" && exec "$@"';
    const env = { PATH: process.env['PATH'], OVERWINTER_PORT: '0', OVERWINTER_DATA_DIR: directory };
    const command = ['--mount', '--map-root-user', 'sh', '-c', hide, 'sh', process.execPath, MAIN];
    const ended = (await run('unshare', command, { env, timeout: 20_000 }).catch(
      (error: unknown) => error,
    )) as {
      code: number;
      stderr: string;
    };
    expect(ended.stderr).toContain('apt-get install bubblewrap');
    expect(ended.code).toBe(2);
  });

  it('is refused for a data directory that is in use', async () => {
    const node = await world.start();
    const { code, stderr } = await runMain({ OVERWINTER_DATA_DIR: world.directory });
    expect(code).toBe(2);
    expect(stderr).toMatch(/^Another Overwinter server is using .*\n$/);
    await node.kill();
    expect((await (await world.start()).client.agents.list()).data).toEqual([]);
  });

  it('keeps its key 0600, prints it, and finds everything again', async () => {
    const first = await world.start();
    const file = path.join(world.directory, 'api-key');
    expect(fs.statSync(file).mode & 0o777).toBe(0o600);
    expect(fs.readFileSync(file, 'utf8').trim()).toBe(first.api_key);
    const agent = await first.client.agents.create({
      name: 'a',
      prompt: 'p',
      model: 'anthropic/claude-test',
    });
    const session = await first.client.sessions.create({ agent: agent.id, input: 'go' });
    await streamUntil(session, 'turn.completed');
    expect(await first.stop()).toBe(0);
    const second = await world.start();
    expect(second.api_key).toBe(first.api_key);
    expect((await second.client.sessions.get(session.id)).status).toBe('idle');
  });
});

describe('a first key that is revoked', () => {
  it('does not keep the node from its start, is not shown as one that works, and makes room for another', async () => {
    const first = await world.start();
    const other = await replaceKey(first);
    await first.stop();
    const second = await world.start();
    const said = second.output() + second.log();
    expect(second.output()).toMatch(
      /API key {5}revoked or expired: .*remove the file or set OVERWINTER_API_KEY/,
    );
    expect(second.log()).toContain('the API key of this start is revoked or has expired');
    expect(said).not.toContain(first.api_key);
    expect([await statusFor(second.url, first.api_key), await statusFor(second.url, other)]).toEqual([
      401, 200,
    ]);
    await second.stop();
    const third = await world.start({ OVERWINTER_API_KEY: other });
    expect(third.output()).toContain('from OVERWINTER_API_KEY');
    await third.stop();
    fs.rmSync(path.join(world.directory, 'api-key'));
    const fourth = await world.start();
    expect([await statusFor(fourth.url, fourth.api_key), fourth.api_key === first.api_key]).toEqual([
      200,
      false,
    ]);
  });

  it('is not one whose id another key has: that start is refused', async () => {
    const first = await world.start();
    await first.stop();
    const taken = first.api_key.slice(0, 12) + 'A'.repeat(43);
    const directory = { OVERWINTER_DATA_DIR: world.directory, ...PROCESS_SANDBOX };
    const { code, stderr } = await runMain({ ...directory, OVERWINTER_API_KEY: taken });
    expect([code, stderr]).toEqual([
      2,
      'Another API key has the id of the key of this start; set a new OVERWINTER_API_KEY.\n',
    ]);
  });

  async function statusFor(url: string, key: string): Promise<number> {
    return (await ask(`${url}/v3/agents`, key, 'GET')).status;
  }

  /** Makes another admin key and revokes the node's own. */
  async function replaceKey({ url, api_key }: TestNode): Promise<string> {
    const keys = `${url}/v3/api-keys`;
    const { data } = (await (await ask(keys, api_key, 'GET')).json()) as { data: { id: string }[] };
    const made = await ask(keys, api_key, 'POST', { name: 'other', scopes: ['admin'] });
    const { key } = (await made.json()) as { key: string };
    expect((await ask(`${keys}/${data[0]!.id}`, api_key, 'DELETE')).status).toBe(204);
    return key;
  }
});

describe('a stop', () => {
  it('in the middle of a model call ends cleanly, and the turn goes on at the next start', async () => {
    const first = await world.start({ OVERWINTER_DRAIN_MS: '100' });
    const agent = await first.client.agents.create({
      name: 'a',
      prompt: 'p',
      model: 'anthropic/claude-test',
    });
    const session = await first.client.sessions.create({ agent: agent.id, input: 'slow' });
    await eventually(() => world.api.concurrent > 0);
    expect(await first.stop()).toBe(0);
    const requests = world.api.requests.length;
    const second = await world.start();
    await eventually(() => world.api.requests.length > requests);
    const again = await second.client.sessions.get(session.id);
    expect(again.status).toBe('running');
    expect((await again.turns()).data).toMatchObject([{ attempt: 2 }]);
  });

  it('loses no command that has ended', async () => {
    const first = await world.start();
    const make = await ask(`${first.url}/v1/computers`, first.api_key, 'POST', {});
    const at = `/v1/computers/${((await make.json()) as { id: string }).id}`;
    await ask(`${first.url}${at}/exec`, first.api_key, 'POST', { command: 'exit 3' });
    expect(await first.stop()).toBe(0);
    const second = await world.start();
    const { commands } = (await (await ask(`${second.url}${at}/commands`, second.api_key, 'GET')).json()) as {
      commands: object[];
    };
    expect(commands).toMatchObject([{ status: 'failed', exit_code: 3 }]);
  });
});

async function ask(url: string, key: string, method: string, body?: object): Promise<Response> {
  const headers = { authorization: `Bearer ${key}`, 'content-type': 'application/json' };
  return await recordedFetch(url, { method, headers, ...(body ? { body: JSON.stringify(body) } : {}) });
}
