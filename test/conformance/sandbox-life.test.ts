/**
 * The life of sandboxes as the unmodified `Sandbox` of `@opencomputer/sdk` leads it: sleep, checkpoints, and visits, in real sandboxes.
 */
import http from 'node:http';
import { Sandbox, type SandboxOpts } from '@opencomputer/sdk';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { reply, text } from '../helpers/model/messages-api.ts';
import type { TestNode } from '../helpers/node.ts';
import { recordGlobalFetch } from '../helpers/records.ts';
import { eventually, makeWorld, type World } from '../helpers/world.ts';

let world: World;
let node: TestNode;
let to: { apiUrl: string; apiKey: string };
const unrecord = recordGlobalFetch();

beforeAll(async () => {
  world = await makeWorld(() => reply(text('Done.')), { OVERWINTER_SANDBOX: 'bwrap' });
  node = await world.start();
  to = { apiUrl: node.url, apiKey: node.api_key };
}, 60_000);
afterAll(async () => {
  unrecord();
  await world.end();
});

async function create(options: SandboxOpts = {}): Promise<Sandbox> {
  return await Sandbox.create({ ...to, memoryMB: 512, ...options });
}

/** What the clients do not show. */
async function raw(method: string, path: string, body?: object): Promise<Record<string, unknown>> {
  const response = await fetch(`${node.url}/api${path}`, {
    method,
    headers: { 'x-api-key': node.api_key, 'content-type': 'application/json' },
    ...(body && { body: JSON.stringify(body) }),
  });
  const said = await response.text();
  return { status: response.status, ...(said === '' ? {} : { json: JSON.parse(said) as object }) };
}

describe('sleep', () => {
  it('keeps the files, and whatever is asked wakes it', async () => {
    const own = await create();
    await own.files.write('/home/agent/kept', 'yes');
    await expect(own.files.remove('/home/agent')).rejects.toThrow(/409/);
    await own.hibernate();
    expect([own.status, await own.isRunning()]).toEqual(['hibernated', false]);
    await own.wake();
    expect(own.status).toBe('running');
    for (const read of [
      () => own.files.read('/home/agent/kept'),
      async () => (await own.exec.run('cat kept')).stdout,
    ]) {
      await own.hibernate();
      expect(await read()).toBe('yes');
    }
    await own.exec.run('nohup sleep 1000 >/dev/null 2>&1 &');
    await own.reboot();
    await own.powerCycle();
    expect((await own.exec.run('pgrep -x sleep; cat kept')).stdout).toBe('yes');
    await own.kill();
  });

  it('comes by itself when nobody uses it, and not under a command', async () => {
    const own = await create({ timeout: 1 });
    const busy = own.exec.run('sleep 3; echo awake');
    expect((await busy).stdout).toBe('awake\n');
    await eventually(async () => !(await own.isRunning()));
    expect(own.status).toBe('hibernated');
    await own.wake();
    await own.setTimeout(1);
    await eventually(async () => !(await own.isRunning()));
    await own.wake({ timeout: 0 });
    // One that was woken later, with the time that this one had, sleeps before it is looked at.
    const witness = await create({ timeout: 1 });
    await eventually(async () => !(await witness.isRunning()));
    await witness.kill();
    expect(await own.isRunning()).toBe(true);
    await own.kill();
  });
});

describe('checkpoints', () => {
  it('are made, listed, gone back to, made into another sandbox, and deleted', async () => {
    const own = await create();
    await own.files.write('/home/agent/state', 'one');
    const first = await own.createCheckpoint('first', { kind: 'disk_only' });
    expect(first).toMatchObject({ name: 'first', status: 'ready', sandboxId: own.sandboxId });
    await own.files.write('/home/agent/state', 'two');
    await own.files.write('/home/agent/more', 'x');
    await own.restoreCheckpoint(first.id);
    expect(await own.files.read('/home/agent/state')).toBe('one');
    expect(await own.files.exists('/home/agent/more')).toBe(false);
    await own.hibernate();
    expect(await own.files.read('/home/agent/state')).toBe('one');
    const copy = await Sandbox.createFromCheckpoint(first.id, { ...to, timeout: 600, envs: { A: 'b' } });
    expect([await copy.files.read('/home/agent/state'), (await copy.exec.run('echo $A')).stdout]).toEqual([
      'one',
      'b\n',
    ]);
    await own.createCheckpoint('second', { retentionPolicy: { mode: 'delete_oldest', maxCount: 1 } });
    expect((await own.listCheckpoints()).map(({ name }) => name)).toEqual(['second']);
    await own.deleteCheckpoint((await own.listCheckpoints())[0]!.id);
    expect(await own.listCheckpoints()).toEqual([]);
    await expect(own.restoreCheckpoint(first.id)).rejects.toThrow(/404/);
    await expect(own.createCheckpoint('x', { kind: 'full' })).rejects.toThrow(/422.*not_supported/);
    await copy.kill();
    await own.kill();
  });
});

describe('a preview URL', () => {
  /** By the host that the client puts together. */
  async function visit(
    host: string,
    headers: Record<string, string> = {},
  ): Promise<{ status: number; body: string }> {
    const { port } = new URL(node.url);
    return await new Promise((resolve, reject) => {
      const request = http.get(
        { host: '127.0.0.1', port, path: '/', headers: { host, ...headers } },
        (response) => {
          let body = '';
          response.on('data', (chunk: Buffer) => (body += chunk.toString()));
          response.on('end', () => resolve({ status: response.statusCode!, body }));
        },
      );
      request.once('error', reject);
    });
  }

  it(
    'leads to a server inside, and a visit wakes the sandbox and the server',
    { timeout: 60_000 },
    async () => {
      const own = await create();
      await own.files.write('/home/agent/www/index.html', 'hello from inside');
      const { port, hostname } = await own.createPreviewURL({ port: 8123 });
      expect([port, hostname]).toEqual([8123, own.getPreviewDomain(8123)]);
      expect((await visit(own.getPreviewDomain(8124))).status).toBe(404);
      expect((await visit(hostname)).status).toBe(502);
      const startCommand = 'cd ~/www && exec python3 -m http.server 8123';
      await raw('POST', `/sandboxes/${own.sandboxId}/preview`, { port: 8123, startCommand });
      expect(await visit(hostname)).toEqual({ status: 200, body: 'hello from inside' });
      await own.hibernate();
      expect(await visit(hostname)).toEqual({ status: 200, body: 'hello from inside' });
      expect(await own.isRunning()).toBe(true);
      const token = await own.rotatePreviewAuthToken();
      expect((await visit(hostname)).status).toBe(401);
      expect((await visit(hostname, { authorization: `Bearer ${token}` })).status).toBe(200);
      expect((await visit(hostname, { 'x-oc-preview-token': token })).status).toBe(200);
      expect((await own.listPreviewURLs()).map((each) => each.port)).toEqual([8123]);
      await own.deletePreviewURL(8123);
      await own.deletePreviewURL(8123);
      expect((await visit(hostname)).status).toBe(404);
      await own.kill();
    },
  );

  it('asks for a token from the start where the sandbox was made so', async () => {
    const own = await create({ previewAuth: { token: 'auto' } });
    expect(own.previewAuthToken.length).toBeGreaterThan(40);
    await own.createPreviewURL({ port: 8123 });
    expect((await visit(own.getPreviewDomain(8123))).status).toBe(401);
    await own.kill();
    await expect(create({ previewAuth: { token: 'short' } })).rejects.toThrow(/400.*previewAuth\.token/);
  });
});
