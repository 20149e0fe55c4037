/** The launcher: what a program gets, how its end is told, and what becomes of both when one of them dies. */
import { readFileSync, rmSync, mkdtempSync, writeFileSync, statSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { once } from 'node:events';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { DriverBusy } from '../../src/resource/computer/driver.ts';
import { makePipes, start, type Program } from '../../src/sandbox/launcher.ts';
import { collect, run } from '../../src/sandbox/run.ts';
import { until } from '../conformance/computers.ts';

const directory = mkdtempSync(join(tmpdir(), 'ow-launcher-'));
afterAll(() => rmSync(directory, { recursive: true }));

const QUIET = ['ignore', 'ignore', 'ignore'] as const;

describe('a program', () => {
  it('gets the descriptors that were named for it and no other', async () => {
    const file = join(directory, 'given');
    writeFileSync(file, 'given');
    const script = 'cat <&4; for each in {0..200}; do [ -e /proc/$$/fd/$each ] && printf " $each"; done';
    const program = await start(['bash', '-c', script], ['ignore', 'pipe', 'ignore', 'ignore', { file }]);
    const said = collect(program, 1);
    await program.closed;
    expect(said()).toBe('given 0 1 2 3 4');
  });

  it('gets a fixed environment', async () => {
    const lines = (await run(['env'], { timeout_ms: 10_000 })).trim().split('\n');
    expect(lines.map((line) => line.replace(/=.*/, '')).toSorted((a, b) => a.localeCompare(b))).toEqual([
      'LC_ALL',
      'PATH',
    ]);
  });

  it('takes arguments of any text, in any directory', async () => {
    const wanted = ['', 'two words', 'ü\n"\'$(x)`\\', '-e'];
    const script = 'printf "%s|" "$PWD" "$@"';
    expect(await run(['bash', '-c', script, 'bash', ...wanted], { cwd: directory, timeout_ms: 10_000 })).toBe(
      `${directory}|${wanted.join('|')}|`,
    );
  });

  it('reads to the end of what it is given, and is read to the end', async () => {
    const program = await start(['tr', 'a', 'b'], ['pipe', 'pipe', 'ignore']);
    let length = 0;
    program.pipes[1]?.on('data', (data: Buffer) => (length += data.toString().replaceAll('b', '').length));
    let bytes = 0;
    program.pipes[1]?.on('data', (data: Buffer) => (bytes += data.length));
    program.pipes[0]?.end(Buffer.alloc(5_000_000, 'a'));
    expect(await program.closed).toEqual({ code: 0, signal: null });
    expect([bytes, length]).toEqual([5_000_000, 0]);
  });

  it('joins the control groups before it begins', async () => {
    const group = join(directory, 'cgroup.procs');
    writeFileSync(group, '');
    const program = await start(['true'], [...QUIET], { join: [group] });
    await program.closed;
    // The kernel takes it for who writes it.
    expect(readFileSync(group, 'utf8')).toBe('0');
  });

  it.each([
    ['no-such-program', {}, 'cannot start no-such-program: No such file'],
    ['true', { cwd: '/no/such/directory' }, 'cannot enter /no/such/directory: No such file'],
    ['true', { join: ['/no/such/group'] }, 'cannot join /no/such/group: No such file'],
  ])('%s %j ends with 127 and says why', async (name, options, why) => {
    const program = await start([name], ['ignore', 'ignore', 'pipe'], options);
    const said = collect(program, 2);
    expect(await program.closed).toEqual({ code: 127, signal: null });
    expect(said()).toContain(why);
  });

  it('is refused where a file that it should get is not there', async () => {
    await expect(start(['true'], [...QUIET, { file: '/no/such/file' }])).rejects.toThrow('/no/such/file');
  });

  it('is told apart by how it ended', async () => {
    const ended = await Promise.all(
      ['exit 7', 'kill -TERM $$', 'exit 0'].map(
        async (script) => await (await start(['sh', '-c', script], [...QUIET])).exited,
      ),
    );
    expect(ended).toEqual([
      { code: 7, signal: null },
      { code: null, signal: 15 },
      { code: 0, signal: null },
    ]);
  });

  it('has its own output among two hundred', async () => {
    const wanted = Array.from({ length: 200 }, (_, index) => `${index}\n`);
    expect(
      await Promise.all(wanted.map((_, index) => run(['echo', String(index)], { timeout_ms: 30_000 }))),
    ).toEqual(wanted);
  });
});

describe('named pipes', () => {
  it('are for their group, and never replace what is there', async () => {
    const paths = ['a', 'b'].map((name) => join(directory, name));
    await makePipes(paths);
    for (const path of paths)
      expect([statSync(path).isFIFO(), statSync(path).mode & 0o777]).toEqual([true, 0o660]);
    await expect(makePipes(paths)).rejects.toThrow('File exists');
  });
});

describe('the launcher', () => {
  it('leads a session of its own, and is made again when it was killed', async () => {
    const program = await start(['sleep', '600'], [...QUIET]);
    const launcher = parentOf(program);
    expect(sessionOf(launcher)).toBe(launcher);
    process.kill(launcher, 'SIGKILL');
    expect(await program.exited).toEqual({ code: null, signal: null });
    process.kill(program.pid, 'SIGKILL');
    await until(
      async () => (await run(['echo', 'again'], { timeout_ms: 10_000 }).catch(() => '')) === 'again\n',
    );
  });
});

describe('a launcher that does not answer', () => {
  let held: Program;
  let launcher: number;
  beforeAll(async () => {
    held = await start(['sleep', '600'], [...QUIET]);
    launcher = parentOf(held);
  });
  afterEach(() => process.kill(launcher, 'SIGCONT'));
  afterAll(() => held.kill());

  it('is not waited for without end, and what it begins late is killed', async () => {
    process.kill(launcher, 'SIGSTOP');
    const late = start(['sleep', '98761'], ['pipe', 'pipe', 'ignore'], { answer_ms_max: 100 });
    await expect(late).rejects.toThrow(DriverBusy);
    await expect(makePipes([join(directory, 'late')], 100)).rejects.toThrow(DriverBusy);
    process.kill(launcher, 'SIGCONT');
    // What was asked for before it is done by then.
    expect(await run(['echo', 'again'], { timeout_ms: 10_000 })).toBe('again\n');
    const found = ['pgrep', '-xf', 'sleep 98761'];
    await until(async () => (await run(found, { timeout_ms: 10_000, codes: [0, 1] })) === '');
  });

  it('has only so many requests waiting for it', async () => {
    process.kill(launcher, 'SIGSTOP');
    const asked = Promise.allSettled(Array.from({ length: 1100 }, () => makePipes([])));
    await expect(makePipes([])).rejects.toThrow('too many requests');
    process.kill(launcher, 'SIGCONT');
    expect((await asked).filter(({ status }) => status === 'fulfilled')).toHaveLength(1024);
    await makePipes([]);
  });

  it('has a door that those who say nothing do not fill', async () => {
    const door = `\0${readFileSync(`/proc/${launcher}/cmdline`, 'utf8')
      .split('\0')
      .find((each) => each.startsWith('overwinter-'))}`;
    const silent: Socket[] = [];
    let closed = 0;
    // One by one: the kernel lets only so many wait for a door to open.
    while (silent.length < 8200) {
      const one = connect(door).on('close', () => (closed += 1));
      await once(one, 'connect');
      silent.push(one);
      await new Promise((resolve) => setImmediate(resolve));
    }
    await until(async () => closed >= silent.length - 8192);
    expect(closed).toBe(silent.length - 8192);
    expect(await run(['echo', 'heard'], { timeout_ms: 10_000 })).toBe('heard\n');
    for (const socket of silent) socket.destroy();
  });
});

function parentOf({ pid }: Program): number {
  return Number(statOf(pid)[1]);
}

function sessionOf(pid: number): number {
  return Number(statOf(pid)[3]);
}

/** From the state on. */
function statOf(pid: number): string[] {
  const text = readFileSync(`/proc/${pid}/stat`, 'utf8');
  return text.slice(text.lastIndexOf(')') + 2).split(' ');
}
