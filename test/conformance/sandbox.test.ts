/**
 * The unmodified `Sandbox` of `@opencomputer/sdk`, all of it, against a real server whose computers are real sandboxes: what works here
 * works as its users wrote it, and what does not is refused in a sentence.
 */
import { randomBytes } from 'node:crypto';
import {
  ExecTimeoutError,
  Sandbox,
  ShellBusyError,
  ShellClosedError,
  type SandboxOpts,
} from '@opencomputer/sdk';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { reply, text } from '../helpers/model/messages-api.ts';
import type { TestNode } from '../helpers/node.ts';
import { recordGlobalFetch } from '../helpers/records.ts';
import { eventually, makeWorld, type World } from '../helpers/world.ts';

let world: World;
let node: TestNode;
let to: { apiUrl: string; apiKey: string };
let sandbox: Sandbox;
const unrecord = recordGlobalFetch();

beforeAll(async () => {
  world = await makeWorld(() => reply(text('Done.')), { OVERWINTER_SANDBOX: 'bwrap' });
  node = await world.start();
  to = { apiUrl: node.url, apiKey: node.api_key };
  sandbox = await create();
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

const decode = (data: Uint8Array): string => Buffer.from(data).toString();

describe('a sandbox', () => {
  it('is made, found again, listed, and is one of the computers of /v1', async () => {
    expect([sandbox.status, sandbox.sandboxId]).toEqual([
      'running',
      expect.stringMatching(/^cmp_[0-9a-f]{24}$/),
    ]);
    const again = await Sandbox.connect(sandbox.sandboxId, to);
    expect([again.status, await again.isRunning()]).toEqual(['running', true]);
    const { json } = (await raw('GET', '/sandboxes')) as { json: { sandboxID: string; memoryMB: number }[] };
    expect(json).toMatchObject([{ sandboxID: sandbox.sandboxId, memoryMB: 512, timeout: 0 }]);
    const listed = await fetch(`${node.url}/v1/computers`, { headers: { 'x-api-key': node.api_key } });
    expect(await listed.json()).toMatchObject({ computers: [{ id: sandbox.sandboxId, status: 'running' }] });
  });

  it('has the variables that it was made with, in every command and over its sleep, and no other has', async () => {
    const secret = `sk-${randomBytes(16).toString('hex')}`;
    const own = await create({ envs: { TOKEN: secret }, metadata: { team: 'blue' } });
    expect((await own.exec.run('echo $TOKEN')).stdout).toBe(`${secret}\n`);
    await own.hibernate();
    expect((await own.exec.run('echo $TOKEN; TOKEN=x; echo $TOKEN')).stdout).toBe(`${secret}\nx\n`);
    expect((await own.exec.run('echo $TOKEN', { env: { TOKEN: 'mine' } })).stdout).toBe('mine\n');
    expect((await sandbox.exec.run('echo "[$TOKEN]"')).stdout).toBe('[]\n');
    const shown = JSON.stringify([
      await raw('GET', `/sandboxes/${own.sandboxId}`),
      await (
        await fetch(`${node.url}/v1/computers/${own.sandboxId}/events`, {
          headers: { 'x-api-key': node.api_key },
        })
      ).json(),
    ]);
    expect(shown).toContain('"team":"blue"');
    expect(shown + node.log()).not.toContain(secret);
    await own.kill();
  });

  it('is killed, and gone', async () => {
    const own = await create();
    await own.kill();
    expect([own.status, await own.isRunning()]).toEqual(['stopped', false]);
    await expect(own.exec.run('true')).rejects.toThrow(/409.*deleted/);
  });
});

describe('exec', () => {
  it('runs a command and says how it ended', async () => {
    const ran = await sandbox.exec.run('echo out; echo err >&2; exit 3', { cwd: '/tmp' });
    expect(ran).toEqual({ exitCode: 3, stdout: 'out\n', stderr: 'err\n' });
    expect((await sandbox.commands.run('pwd', { cwd: '/tmp' })).stdout).toBe('/tmp\n');
    expect((await sandbox.exec.run('sleep 30', { timeout: 1 })).exitCode).toBe(124);
    expect(
      (await raw('POST', `/sandboxes/${sandbox.sandboxId}/exec/run`, { cmd: 'echo hello' })).json,
    ).toEqual({
      ...{ exitCode: 0, stdout: 'hello\n', stderr: '', truncated: false },
    });
  });

  it('gives up waiting when told to, and the command goes on', async () => {
    const late = await sandbox.exec
      .run('sleep 1; echo late', { timeoutMs: 300 })
      .catch((error: unknown) => error as ExecTimeoutError);
    expect(late).toBeInstanceOf(ExecTimeoutError);
    const at = `/sandboxes/${sandbox.sandboxId}/exec/${(late as ExecTimeoutError).execId}/result`;
    const result = await eventually(async () => {
      const { json } = (await raw('GET', at)) as { json: { running: boolean; stdout: string } };
      return json.running ? undefined : json;
    });
    expect(result.stdout).toBe('late\n');
    expect((await raw('GET', `/sandboxes/${sandbox.sandboxId}/exec/cmd_0/result`)).status).toBe(404);
  });

  it('shows a command as it runs, and takes what is typed', async () => {
    const out: string[] = [];
    const err: string[] = [];
    const codes: number[] = [];
    const session = await sandbox.exec.start('sh', {
      args: ['-c', 'echo ready; read line; echo "got $line"; echo bad >&2; exit 5'],
      onStdout: (data) => out.push(decode(data)),
      onStderr: (data) => err.push(decode(data)),
      onExit: (code) => codes.push(code),
    });
    await eventually(() => out.join('').includes('ready'));
    expect(
      (await sandbox.exec.list()).find(({ sessionID }) => sessionID === session.sessionId),
    ).toMatchObject({
      ...{ sandboxID: sandbox.sandboxId, command: 'sh', running: true, attachedClients: 1 },
    });
    session.sendStdin('hello\n');
    expect(await session.done).toBe(5);
    expect([out.join(''), err.join(''), codes]).toEqual(['ready\ngot hello\n', 'bad\n', [5]]);
    expect(
      (await sandbox.exec.list()).find(({ sessionID }) => sessionID === session.sessionId),
    ).toMatchObject({
      ...{ running: false, exitCode: 5 },
    });
  });

  it('is looked at again: what was shown, a mark, and what follows', async () => {
    const session = await sandbox.exec.background('echo before; read line; echo after');
    const first: string[] = [];
    session.close();
    const seen: string[] = [];
    const again = await sandbox.exec.attach(session.sessionId, {
      onStdout: (data) => seen.push(decode(data)),
      onScrollbackEnd: () => seen.push('|'),
    });
    await eventually(() => seen.includes('|'));
    again.sendStdin('go\n');
    expect(await again.done).toBe(0);
    expect([seen.join(''), first]).toEqual([expect.stringMatching(/^(before\n\||\|before\n)after\n$/), []]);
    const late: string[] = [];
    const ended = await sandbox.exec.attach(session.sessionId, {
      onStdout: (data) => late.push(decode(data)),
    });
    expect([await ended.done, late.join('')]).toEqual([0, 'before\nafter\n']);
  });

  it('kills with the signal that is asked for', async () => {
    let said = '';
    const trapping = await sandbox.exec.start('bash', {
      args: ['-c', 'trap "echo caught; exit 7" TERM; echo ready; while :; do sleep 0.05; done'],
      onStdout: (data) => (said += Buffer.from(data).toString()),
    });
    await eventually(() => said.includes('ready'));
    await trapping.kill(15);
    expect(await trapping.done).toBe(7);
    const plain = await sandbox.exec.start('sleep', { args: ['100'] });
    await plain.kill();
    expect(await plain.done).toBe(137);
    await plain.kill();
  });

  it('ends a command some time after the last who looked has left', async () => {
    const session = await sandbox.exec.start('sleep', { args: ['100'], maxRunAfterDisconnect: 1 });
    session.close();
    await eventually(async () => {
      const all = await sandbox.exec.list();
      return all.find(({ sessionID }) => sessionID === session.sessionId)?.running === false;
    });
  });

  it('is closed without a key', async () => {
    const foreign = await Sandbox.connect(sandbox.sandboxId, to);
    Object.assign(foreign.exec, { apiKey: 'wrong' });
    await expect(foreign.exec.attach('cmd_0')).rejects.toThrow(/WebSocket/);
    await expect(Sandbox.connect(sandbox.sandboxId, { ...to, apiKey: 'wrong' })).rejects.toThrow(/401/);
  });
});

describe('a shell', () => {
  it('keeps its directory and variables from command to command, and is found again', async () => {
    const shell = await sandbox.exec.shell();
    await shell.run('cd /tmp; export WHO=me');
    const streamed: string[] = [];
    const ran = await shell.run('pwd; echo $WHO; echo no >&2; (exit 4)', {
      onStdout: (data) => streamed.push(decode(data)),
    });
    expect(ran).toEqual({ exitCode: 4, stdout: '/tmp\nme\n', stderr: 'no\n' });
    expect(streamed.join('')).toBe('/tmp\nme\n');
    const busy = shell.run('sleep 0.3');
    await expect(shell.run('true')).rejects.toThrow(ShellBusyError);
    await busy;
    const again = await sandbox.exec.reattachShell(shell.sessionId);
    await eventually(async () => (await again.run('echo $WHO')).stdout === 'me\n');
    await shell.close();
    await expect(shell.run('true')).rejects.toThrow(ShellClosedError);
  });
});

describe('files', () => {
  it('are written, read, listed, and removed', async () => {
    const bytes = randomBytes(300_000);
    await sandbox.files.makeDir('/home/agent/deep/er');
    await sandbox.files.write('/home/agent/deep/er/file', bytes);
    expect(Buffer.from(await sandbox.files.readBytes('/home/agent/deep/er/file')).equals(bytes)).toBe(true);
    await sandbox.files.write('/home/agent/deep/note', 'grüße');
    expect(await sandbox.files.read('/home/agent/deep/note')).toBe('grüße');
    await sandbox.files.write('/home/agent/deep/stream', new Blob(['streamed']).stream());
    expect(await sandbox.files.read('/home/agent/deep/stream')).toBe('streamed');
    expect(await sandbox.files.list('/home/agent/deep')).toEqual([
      { name: 'er', isDir: true, size: expect.any(Number) as number, path: '/home/agent/deep/er' },
      { name: 'note', isDir: false, size: 7, path: '/home/agent/deep/note' },
      { name: 'stream', isDir: false, size: 8, path: '/home/agent/deep/stream' },
    ]);
    for (const there of ['/home/agent/deep/note', '/home/agent/deep', 'deep/er', '/', '/dev/null'])
      expect(await sandbox.files.exists(there), there).toBe(true);
    await sandbox.files.remove('/home/agent/deep');
    for (const gone of ['/home/agent/deep/note', '/home/agent/deep'])
      expect(await sandbox.files.exists(gone), gone).toBe(false);
    await expect(sandbox.files.read('/nowhere')).rejects.toThrow(/404/);
  });

  it('are read and written with URLs that need no key, as long as they are good', async () => {
    await sandbox.files.write('/home/agent/shared', 'to all');
    const url = await sandbox.downloadUrl('/home/agent/shared');
    expect(await (await fetch(url)).text()).toBe('to all');
    const put = await sandbox.uploadUrl('/home/agent/given');
    expect((await fetch(put, { method: 'PUT', body: 'by all' })).status).toBe(204);
    expect(await sandbox.files.read('/home/agent/given')).toBe('by all');
    const wrong = [
      url.replace('shared', 'given'),
      url.replace(/expires=\d+/, 'expires=99999999999'),
      put.replace('/upload?', '/download?'),
      url.replace(/signature=.{20}/, 'signature=AAAAAAAAAAAAAAAAAAAA'),
      await sandbox.downloadUrl('/home/agent/shared', { expiresIn: 1 }),
    ];
    await eventually(async () => (await fetch(wrong.at(-1)!)).status === 403);
    for (const one of wrong) expect((await fetch(one)).status, one).toBe(403);
    expect((await fetch(url, { method: 'PUT', body: 'x' })).status).toBe(404);
  });
});

describe('a pty', () => {
  it('is a real terminal of the size that is asked for', async () => {
    const shown: string[] = [];
    const pty = await sandbox.pty.create({
      cols: 100,
      rows: 30,
      onOutput: (data) => shown.push(decode(data)),
    });
    const say = async (line: string, answer: string): Promise<void> => {
      await eventually(async () => {
        try {
          pty.send(line);
          return true;
        } catch {
          // The client gives it out before it is connected.
          await new Promise((resolve) => setTimeout(resolve, 20));
          return false;
        }
      });
      await eventually(() => shown.join('').includes(answer));
    };
    await say('stty size\n', '30 100');
    const at = `/sandboxes/${sandbox.sandboxId}/pty/${pty.sessionId}`;
    expect((await raw('POST', `${at}/resize`, { cols: 120, rows: 40 })).status).toBe(200);
    await say('stty size\n', '40 120');
    // What looks like a message of another protocol is typed too.
    await say('{"type":"close"}\n', 'close');
    pty.close();
    expect((await raw('DELETE', at)).status).toBe(204);
    expect((await raw('DELETE', at)).status).toBe(404);
  });
});

describe('what no computer here has', () => {
  it.each<[string, () => Promise<unknown>]>([
    ['scale', () => sandbox.scale({ memoryMB: 2048 })],
    ['setAutoscale', () => sandbox.setAutoscale({ enabled: true })],
    ['getAutoscale', () => sandbox.getAutoscale()],
    ['setScalingLock', () => sandbox.setScalingLock(true)],
    ['getScalingLock', () => sandbox.getScalingLock()],
    ['getAllowedHosts', () => sandbox.getAllowedHosts()],
    ['createCheckpointPatch', () => Sandbox.createCheckpointPatch('snp_0', { ...to, script: 'true' })],
    ['mounts', () => sandbox.mounts.list()],
    ['an image', () => create({ image: { toJSON: () => ({}) } as never })],
    ['a snapshot', () => create({ snapshot: 'base' })],
    ['a secret store', () => create({ secretStore: 'mine' })],
    ['webhooks', () => create({ webhooks: [{ url: 'https://example.com' }] })],
    ['burst', () => create({ burst: true })],
    ['a domain', () => sandbox.createPreviewURL({ port: 8000, domain: 'example.com' })],
  ])('%s is refused in a sentence', async (_, ask) => {
    await expect(ask()).rejects.toThrow(/422/);
  });

  it('and what it does not know at all is no route', async () => {
    expect(await raw('GET', '/nothing')).toMatchObject({ status: 404, json: { code: 'not_found' } });
    expect(await raw('POST', '/webhooks', {})).toMatchObject({
      status: 422,
      json: { code: 'not_supported' },
    });
  });
});
