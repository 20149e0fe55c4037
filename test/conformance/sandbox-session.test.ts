/**
 * The computer of an agent's session, as one of its owner's sandboxes: seen in both lists, looked into while the agent works, put to
 * sleep and deleted under it, and visited. Whatever is done to it, the session goes on.
 */
import http from 'node:http';
import { Sandbox } from '@opencomputer/sdk';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { reply, text, toolUse } from '../helpers/model/messages-api.ts';
import type { TestNode } from '../helpers/node.ts';
import { recordGlobalFetch } from '../helpers/records.ts';
import { eventually, makeWorld, type World } from '../helpers/world.ts';

type Row = Record<string, string | number | null>;

let world: World;
let node: TestNode;
const unrecord = recordGlobalFetch();

/** Each message of the user is a command; the next answer ends the turn. */
beforeAll(async () => {
  world = await makeWorld(
    ({ messages }) => {
      const last = messages.at(-1)!.content;
      const said = typeof last === 'string' ? last : last.find(({ type }) => type === 'text')?.text;
      const command = typeof said === 'string' ? /run: (.*)/.exec(said)?.[1] : undefined;
      return command === undefined ? reply(text('Done.')) : reply(toolUse('bash', { command }));
    },
    { OVERWINTER_SANDBOX: 'bwrap', OVERWINTER_HIBERNATE_AFTER_MS: '2000' },
  );
  node = await world.start();
}, 60_000);
afterAll(async () => {
  unrecord();
  await world.end();
});

type Working = {
  id: string;
  sandbox: Sandbox;
  say: (line: string) => Promise<void>;
  rest: () => Promise<void>;
};

/** A session whose agent has run the command, or runs it. */
async function begin(command: string): Promise<Working> {
  const agent = await node.client.agents.create({
    prompt: 'Help.',
    model: 'anthropic/claude-test',
    name: `a${Math.random()}`,
  });
  const session = await node.client.sessions.create({ agent: agent.id, input: `run: ${command}` });
  const hands = await eventually(async () => {
    const listed = (await api('GET', '/sandboxes')) as Row[];
    return listed.find(({ agentSessionID }) => agentSessionID === session.id)?.['sandboxID'];
  });
  return {
    id: session.id,
    sandbox: await Sandbox.connect(String(hands), { apiUrl: node.url, apiKey: node.api_key }),
    say: async (line) => void (await session.steer(`run: ${line}`)),
    rest: async () => {
      await eventually(async () => (await node.client.sessions.get(session.id)).status === 'idle', 30_000);
    },
  };
}

async function api(method: string, path: string, body?: object): Promise<unknown> {
  const response = await fetch(`${node.url}/api${path}`, {
    method,
    headers: { 'x-api-key': node.api_key, 'content-type': 'application/json' },
    ...(body && { body: JSON.stringify(body) }),
  });
  return await response.json();
}

async function computers<T>(path: string): Promise<T> {
  const response = await fetch(`${node.url}/v1/computers${path}`, { headers: { 'x-api-key': node.api_key } });
  return (await response.json()) as T;
}

describe("a session's computer", () => {
  it('is in both lists, and one can look into it while the agent works', { timeout: 60_000 }, async () => {
    const { id, sandbox, rest } = await begin('echo one > note; sleep 3; echo two >> note');
    const { computers: listed } = await computers<{ computers: Row[] }>('');
    expect(listed.find((each) => each['id'] === sandbox.sandboxId)).toMatchObject({ session_id: id });
    await eventually(() => sandbox.files.exists('/workspace/note'));
    expect(await sandbox.files.read('/workspace/note')).toBe('one\n');
    const shown: string[] = [];
    const pty = await sandbox.pty.create({ onOutput: (data) => shown.push(Buffer.from(data).toString()) });
    // Its prompt says that it is connected.
    await eventually(() => shown.length > 0);
    await eventually(() => {
      pty.send('cat /workspace/note; pgrep -c sleep\n');
      return shown.join('').includes('one');
    });
    pty.close();
    await rest();
    await sandbox.exec.run('true');
    const { commands } = await computers<{ commands: Row[] }>(`/${sandbox.sandboxId}/commands`);
    expect(commands.map(({ source, status }) => [source, status])).toEqual([
      ['api', 'completed'],
      ['agent', 'completed'],
    ]);
  });

  it(
    'may be put to sleep under a turn: the model is told, and goes on with its files',
    { timeout: 60_000 },
    async () => {
      const { sandbox, say, rest } = await begin('echo kept > note; sleep 60');
      await eventually(() => sandbox.files.exists('/workspace/note'));
      await sandbox.hibernate();
      await rest();
      expect(JSON.stringify(world.api.requests.at(-1)!.body)).toContain('processes of your computer ended');
      await say('cat note > copy');
      await rest();
      expect(await sandbox.files.read('/workspace/copy')).toBe('kept\n');
    },
  );

  it('goes to sleep again after a visit, with what was changed', { timeout: 60_000 }, async () => {
    const { sandbox, say, rest } = await begin('echo first > note');
    await rest();
    await eventually(async () => !(await sandbox.isRunning()));
    await sandbox.files.write('/workspace/note', 'changed\n');
    expect(await sandbox.isRunning()).toBe(true);
    await eventually(async () => !(await sandbox.isRunning()));
    await say('cat note > copy');
    await rest();
    expect(await sandbox.files.read('/workspace/copy')).toBe('changed\n');
  });

  it('is replaced when it was deleted, and goes back to a checkpoint', { timeout: 60_000 }, async () => {
    const { sandbox, say, rest } = await begin('echo first > note');
    await rest();
    const { id } = await sandbox.createCheckpoint('first');
    await say('echo second > note');
    await rest();
    await sandbox.restoreCheckpoint(id);
    await say('cat note > copy');
    await rest();
    expect(await sandbox.files.read('/workspace/copy')).toBe('first\n');
    await sandbox.kill();
    await say('ls > listed');
    await rest();
    const [newest] = (await api('GET', '/sandboxes')) as Row[];
    expect(newest!['sandboxID']).not.toBe(sandbox.sandboxId);
    const next = await Sandbox.connect(String(newest!['sandboxID']), {
      apiUrl: node.url,
      apiKey: node.api_key,
    });
    expect(await next.files.exists('/workspace/note')).toBe(false);
  });

  it(
    'gives its user a link to what the agent serves, and a visit wakes it',
    { timeout: 60_000 },
    async () => {
      const { sandbox, rest } = await begin(
        'echo served > index.html; nohup python3 -m http.server 8321 >/dev/null 2>&1 &',
      );
      await rest();
      const startCommand = 'cd /workspace && exec python3 -m http.server 8321';
      const { hostname } = (await api('POST', `/sandboxes/${sandbox.sandboxId}/preview`, {
        ...{ port: 8321, startCommand },
      })) as { hostname: string };
      expect(await visit(hostname)).toBe('served\n');
      await eventually(async () => !(await sandbox.isRunning()));
      expect(await visit(hostname)).toBe('served\n');
      const { commands } = await computers<{ commands: Row[] }>(`/${sandbox.sandboxId}/commands`);
      expect(commands.map(({ source }) => source)).toContain('visit');
    },
  );
});

async function visit(host: string): Promise<string> {
  const { port } = new URL(node.url);
  return await new Promise((resolve, reject) => {
    const request = http.get({ host: '127.0.0.1', port, path: '/', headers: { host } }, (response) => {
      let body = '';
      response.on('data', (chunk: Buffer) => (body += chunk.toString()));
      response.on('end', () => resolve(body));
    });
    request.once('error', reject);
  });
}
