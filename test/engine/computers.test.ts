/** A session's computer over its life, in the real sandbox: attached on need, asleep when idle, woken with its files, lost and restored. */
import fs from 'node:fs';
import path from 'node:path';
import type { Event, Session } from '@opencomputer/sdk';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { reply, text, toolUse, type Script } from '../helpers/model/messages-api.ts';
import type { TestNode } from '../helpers/node.ts';
import { eventually, makeWorld, streamUntil, type World } from '../helpers/world.ts';

const SETTINGS = {
  OVERWINTER_SANDBOX: 'bwrap',
  OVERWINTER_HIBERNATE_AFTER_MS: '1',
  OVERWINTER_POLL_MS: '100',
};
const CANARY = 'canary-of-the-runtime';

let world: World;
let node: TestNode;
let session: Session;
let commands: string[];

/** Each message of the user is a command; the model runs it and repeats what it printed. */
const script: Script = (request) => {
  const last = request.messages.at(-1)!.content as { type: string; text?: string; content?: string }[];
  const result = last.find((block) => block.type === 'tool_result');
  if (result) return reply(text(String(result.content)));
  return reply(toolUse('bash', { command: commands.shift() ?? last.at(-1)!.text! }));
};

beforeEach(async () => {
  commands = [];
  world = await makeWorld(script, {
    ...SETTINGS,
    OVERWINTER_MASTER_KEY: Buffer.from(CANARY.padEnd(32, '.')).toString('base64'),
  });
  node = await world.start({ ANTHROPIC_API_KEY: `sk-${CANARY}` });
});

afterEach(() => world.end());

async function begin(command: string): Promise<string> {
  const agent = await node.client.agents.create({ name: 'a', prompt: 'p', model: 'anthropic/claude-test' });
  session = await node.client.sessions.create({ agent: agent.id, input: command });
  return await answerAfter(0);
}

async function ask(command: string): Promise<string> {
  const { seq } = await session.steer(command);
  return await answerAfter(seq);
}

async function answerAfter(after: number): Promise<string> {
  const events = await streamUntil(session, 'turn.completed', { after });
  expect(events.at(-1)!.body).toMatchObject({ yieldReason: 'completed' });
  const { result } = await session.result();
  return (result!.body as { text: string }).text;
}

async function log(): Promise<Event[]> {
  const query = { level: 'runtime', limit: 500 } as unknown as Parameters<Session['listEvents']>[0];
  return (await session.listEvents(query)).data;
}

async function asleep(): Promise<void> {
  await eventually(async () => {
    const computer = (await log()).filter((event) => event.type.startsWith('computer.'));
    return computer.at(-1)?.type === 'computer.hibernated';
  });
}

/** The directory of the one computer there is. */
function computerDirectory(): string {
  const found = fs.globSync(path.join(world.directory, 'computers', '*', 'cmp_*'));
  expect(found).toHaveLength(1);
  return found[0]!;
}

describe("a session's computer", () => {
  it('keeps files, directory and exported variables over sleep, but no process', async () => {
    await begin(
      'mkdir -p deep && cd deep && echo kept > file && export COLOUR=blue && (sleep 600 & ) && echo ok',
    );
    expect(await ask('pwd; cat file; echo $COLOUR; pgrep -c sleep')).toContain(
      '/workspace/deep\nkept\nblue\n',
    );
    await asleep();
    const answer = await ask('pwd; cat file; echo $COLOUR; pgrep -c sleep || true');
    expect(answer).toBe('/workspace/deep\nkept\nblue\n0\n');
    const types = (await log()).map((event) => event.type).filter((type) => type.startsWith('computer.'));
    expect(types.slice(0, 3)).toEqual(['computer.attached', 'computer.hibernated', 'computer.woken']);
  });

  it('loses nothing when its directory is deleted while the session is idle', async () => {
    await begin('echo precious > /workspace/file; echo home > ~/other; chmod 700 /workspace/file; echo ok');
    await asleep();
    fs.rmSync(computerDirectory(), { recursive: true });
    expect(await ask('cat /workspace/file ~/other; stat -c %a /workspace/file')).toBe(
      'precious\nhome\n700\n',
    );
  });

  it('tells the model what is missing when it is lost while awake', async () => {
    await node.kill();
    node = await world.start({ OVERWINTER_HIBERNATE_AFTER_MS: '600000' });
    await begin('echo unsaved > /workspace/file; echo ok');
    await node.kill();
    fs.rmSync(computerDirectory(), { recursive: true });
    node = await world.start({ OVERWINTER_HIBERNATE_AFTER_MS: '600000' });
    session = await node.client.sessions.get(session.id);
    expect(await ask('ls /workspace | wc -l')).toBe('0\n');
    expect((await log()).some((event) => event.type === 'computer.lost')).toBe(true);
    const last = world.api.requests.at(-1)!.body.messages.at(-1)!.content;
    expect(JSON.stringify(last)).toContain('Your computer was lost');
  });

  it('can be used, saved and woken after the agent took the mode of its own directories away', async () => {
    await begin('echo kept > /workspace/file; chmod 000 /workspace /home/agent; echo ok');
    await asleep();
    expect(await ask('cat /workspace/file')).toBe('kept\n');
  });

  it('shows nothing of the runtime inside: no key, no variable, no file, no process', async () => {
    const seen = await begin(
      'env; cat /proc/*/environ /proc/*/cmdline 2>/dev/null | tr "\\0" "\\n"; ls -la / /tmp /home; cat /etc/passwd; ps -ef 2>/dev/null',
    );
    for (const secret of [CANARY, node.api_key, world.directory, 'ANTHROPIC', 'OVERWINTER_MASTER']) {
      expect(seen).not.toContain(secret);
    }
    expect(seen).toContain('HOME=/home/agent');
  });

  it('has a cap on what the model sees of output, with the full text behind content_ref', async () => {
    await node.kill();
    node = await world.start({ OVERWINTER_OUTPUT_BYTES: '10000' });
    const answer = await begin('seq 1 100000');
    expect(answer.length).toBeLessThan(11_000);
    expect(answer).toMatch(/^1\n2\n[^]*left out[^]*100000\n$/);
    const exec = (await log()).find((event) => event.type === 'exec.completed')!;
    const full = await session.eventContent(exec.id);
    expect(full).toBe(Array.from({ length: 100_000 }, (_, index) => `${index + 1}\n`).join(''));
  });

  it('stops a command at its time limit, children included', async () => {
    await node.kill();
    node = await world.start({
      OVERWINTER_COMMAND_TIMEOUT_MS: '500',
      OVERWINTER_HIBERNATE_AFTER_MS: '600000',
    });
    expect(await begin('echo begun; sleep 50 | cat')).toContain('stopped after 0.5 s');
    expect(await ask('pgrep -c sleep || true')).toBe('0\n');
  });

  it('is restored for the next turn by a node that takes over, from the files in place', async () => {
    await begin('echo one > /workspace/file; echo ok');
    await node.kill();
    node = await world.start();
    session = await node.client.sessions.get(session.id);
    expect(await ask('cat /workspace/file')).toBe('one\n');
  });
});
