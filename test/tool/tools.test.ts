/** The model-facing tools against a real computer, as the model calls them. */
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { directoryBlobs } from '../../src/blob/directory.ts';
import type { Computer, WakeRequest } from '../../src/resource/computer/driver.ts';
import type { ToolContext, ToolOutcome } from '../../src/resource/tool.ts';
import { processDriver } from '../../src/sandbox/process.ts';
import { bash } from '../../src/tool/bash.ts';
import { edit } from '../../src/tool/edit.ts';
import { capture } from '../../src/tool/output.ts';

const fail = (): Promise<void> => Promise.resolve();
const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'overwinter-tools-'));
const driver = processDriver({
  computers_dir: path.join(directory, 'computers'),
  installation: 'test',
  fail,
});
const blobs = directoryBlobs(path.join(directory, 'blobs'), { fail });
let computer: Computer;

beforeAll(async () => {
  computer = (await driver.wake(request(1))).computer;
});

/** As the engine does: a computer whose processes were ended is woken by the next call. */
async function attach(): Promise<Computer> {
  if (computer.alive()) return computer;
  computer = (await driver.wake(request(computer.generation + 1))).computer;
  return computer;
}

function request(generation: number): WakeRequest {
  return {
    ...{
      id: 'cmp_1',
      reference: null,
      from_generation: Math.min(generation - 1, 1),
      generation,
      snapshot: null,
    },
    limits: { memory_bytes: 2 ** 30, processes_max: 64, cpu_percent: 100, disk_bytes: 2 ** 30 },
    ...{ network: { mode: 'off' }, image: null },
  };
}

afterAll(async () => {
  await driver.close();
  fs.rmSync(directory, { recursive: true });
});

function context(limits: Partial<ToolContext['limits']> = {}): ToolContext {
  return {
    call_id: 'toolu_1',
    computer: attach,
    blobs,
    blob_prefix: 'output/',
    signal: new AbortController().signal,
    limits: { command_timeout_ms: 10_000, output_bytes_max: 1000, ...limits },
  };
}

const run = (command: string): Promise<ToolOutcome> => bash.run({ command }, context());
const change = (input: object): Promise<ToolOutcome> => edit.run(input, context());

describe('bash', () => {
  it('carries the directory and exported variables over calls, and forgets them on restart', async () => {
    await run('mkdir -p sub && cd sub && export NAME=value; other=lost');
    expect(await run('basename "$PWD"; echo "$NAME:$other"')).toMatchObject({
      outcome: 'ok',
      content: 'sub\nvalue:\n',
    });
    await run('sleep 600 & echo $! > pid');
    await bash.run({ restart: true }, context());
    expect(
      (await run('echo "[$NAME]"; ps -o stat= -p $(cat sub/pid) | grep -v Z || echo gone')).content,
    ).toMatch(/^\[\]\n[^]*gone\n$/);
  });

  it('reports exit code, both streams, and what exec.completed tells', async () => {
    const outcome = await run('echo out; echo err >&2; exit 3');
    expect(outcome).toMatchObject({ outcome: 'error', exec: { exit_code: 3, summary: 'out\n', bytes: 8 } });
    expect(outcome.content).toMatch(/out\n[^]*\[exit code 3\]/);
    expect(outcome.content).toContain('err\n');
  });

  it('survives a script of a megabyte and a syntax error', async () => {
    const long = `: '${'x'.repeat(1_000_000)}'\necho done`;
    expect((await run(long)).content).toBe('done\n');
    expect(await run('if then')).toMatchObject({ outcome: 'error' });
    expect((await run('echo still here')).content).toBe('still here\n');
  });

  it.each([{}, { command: '' }, { command: 7 }, null, 'ls'])(
    'answers %o with an error for the model',
    async (input) => {
      expect(await bash.run(input, context())).toMatchObject({ outcome: 'error' });
    },
  );
});

describe('the edit tool', () => {
  const file = '/workspace/notes/a file.txt';

  it('creates, views, replaces and inserts', async () => {
    expect(await change({ command: 'create', path: file, file_text: 'one\ntwo\n' })).toMatchObject({
      outcome: 'ok',
    });
    await change({ command: 'str_replace', path: file, old_str: 'two', new_str: '2 $& `x`' });
    await change({ command: 'insert', path: file, insert_line: 1, insert_text: 'between\n' });
    expect((await change({ command: 'view', path: file })).content).toBe(
      '     1\tone\n     2\tbetween\n     3\t2 $& `x`\n     4\t',
    );
    const part = await change({ command: 'view', path: file, view_range: [2, 3] });
    expect(part.content).toBe('     2\tbetween\n     3\t2 $& `x`');
    expect((await change({ command: 'view', path: '/workspace/notes' })).content).toContain('a file.txt');
  });

  it.each([
    [{ command: 'view', path: '/workspace/none' }, 'does not exist'],
    [{ command: 'view', path: 'relative' }, 'absolute'],
    [{ command: 'str_replace', path: file, old_str: 'absent', new_str: '' }, 'does not occur'],
    [{ command: 'insert', path: file, insert_line: 99, insert_text: 'x' }, 'beyond the end'],
    [{ command: 'create', path: '/workspace/notes', file_text: 'x' }, 'is a directory'],
    [{ command: 'undo_edit', path: file }, 'Invalid'],
    [null, 'Invalid'],
  ])('refuses %o', async (input, message) => {
    const outcome = await edit.run(input, context());
    expect(outcome.outcome).toBe('error');
    expect(outcome.content).toContain(message);
  });

  it('refuses a replacement that is not unique, and leaves the file alone', async () => {
    await change({ command: 'create', path: file, file_text: 'a\na\n' });
    expect(await change({ command: 'str_replace', path: file, old_str: 'a', new_str: 'b' })).toMatchObject({
      outcome: 'error',
    });
    expect((await change({ command: 'view', path: file })).content).toBe('     1\ta\n     2\ta\n     3\t');
  });

  it('keeps the mode of what it changes', async () => {
    await change({ command: 'create', path: '/workspace/run.sh', file_text: 'echo one\n' });
    await run('chmod 750 /workspace/run.sh');
    await change({ command: 'str_replace', path: '/workspace/run.sh', old_str: 'one', new_str: 'two' });
    expect((await run('stat -c %a /workspace/run.sh; sh /workspace/run.sh')).content).toBe('750\ntwo\n');
  });
});

describe('captured output', () => {
  async function* chunks(...parts: string[]) {
    for (const part of parts) yield { stream: 'stdout' as const, data: Buffer.from(part) };
  }

  it('is whole up to the cap, and head and tail beyond it, however it is cut into chunks', async () => {
    const text = Array.from({ length: 500 }, (_, index) => String(index).padStart(4, '0')).join('');
    expect(await capture(chunks(text.slice(0, 100)), 100, blobs, 'small')).toMatchObject({
      bytes: 100,
      text: text.slice(0, 100),
    });
    for (const size of [1, 7, 99, 100, 101, 2000]) {
      const parts = text.match(new RegExp(`.{1,${size}}`, 'g'))!;
      const captured = await capture(chunks(...parts), 100, blobs, `big-${size}`);
      expect(captured.text).toBe(
        `${text.slice(0, 50)}\n[… 1900 of 2000 bytes left out …]\n${text.slice(-50)}`,
      );
      expect(captured).toMatchObject({
        bytes: 2000,
        summary: text.slice(0, 400),
        content_ref: `big-${size}`,
      });
      const stored = await Array.fromAsync((await blobs.get(`big-${size}`))!);
      expect(Buffer.concat(stored).toString()).toBe(text);
    }
  });
});
