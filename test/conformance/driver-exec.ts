/** What every driver promises of an exec beyond a script and its output: streams in, and the end of all it started. */

import { randomInt } from 'node:crypto';
import { beforeAll, expect, test } from 'vitest';
import type { Computer, ExecSpec } from '../../src/resource/computer/driver.ts';
import { runScript, until } from './computers.ts';
import type { WakeNew } from './driver.ts';

const CHUNK = Buffer.alloc(65_536, 'line\n');

export function execsMore(wakeNew: WakeNew): void {
  let computer: Computer;
  beforeAll(async () => ({ computer } = await wakeNew()));
  const run = (script: string, more: Partial<ExecSpec> = {}): ReturnType<typeof runScript> =>
    runScript(computer, script, more);

  test('a stream feeds standard input, and its end ends it', async () => {
    async function* words(): AsyncGenerator<Uint8Array> {
      yield Buffer.from('one ');
      yield Buffer.from('');
      yield Buffer.from('two');
    }
    expect((await run('cat; echo " end"', { stdin: words() })).stdout).toBe('one two end\n');
    async function* nothing(): AsyncGenerator<Uint8Array> {}
    expect((await run('wc -c', { stdin: nothing() })).stdout.trim()).toBe('0');
  });

  test('a gigabyte flows in without being held', { timeout: 120_000 }, async () => {
    const before = process.memoryUsage().rss;
    let rss_max = 0;
    async function* gigabyte(): AsyncGenerator<Uint8Array> {
      for (let sent = 0; sent < 16_384; sent += 1) {
        if (sent % 1024 === 0) rss_max = Math.max(rss_max, process.memoryUsage().rss);
        yield CHUNK;
      }
    }
    expect((await run('wc -c', { stdin: gigabyte(), timeout_ms: 100_000 })).stdout.trim()).toBe('1073741824');
    expect(rss_max - before).toBeLessThan(150_000_000);
  });

  test('a stream is read no faster than the script does, and closed when it ends', async () => {
    let taken = 0;
    const closed = Promise.withResolvers<void>();
    async function* endless(): AsyncGenerator<Uint8Array> {
      try {
        for (;;) {
          taken += 1;
          yield CHUNK;
        }
      } finally {
        closed.resolve();
      }
    }
    const result = await run('head -c 5; exec <&-; sleep 0.3; exit 3', { stdin: endless() });
    expect(result).toMatchObject({ outcome: 'exited', exit_code: 3, stdout: 'line\n' });
    await closed.promise;
    expect(taken).toBeLessThan(32);
  });

  test('a script that never reads its stream ends by itself', async () => {
    const waiting = new ReadableStream<Uint8Array>();
    expect(await run('echo done', { stdin: waiting })).toMatchObject({ outcome: 'exited', stdout: 'done\n' });
  });

  test('a stream that fails ends the exec', async () => {
    async function* broken(): AsyncGenerator<Uint8Array> {
      yield Buffer.from('half');
      throw new Error('the client went away');
    }
    expect(await run('cat; sleep 60', { stdin: broken() })).toMatchObject({ outcome: 'aborted' });
  });

  test('its time limit ends also what left its group, session and environment', async () => {
    const nap = `63.${randomInt(1e9)}`;
    const keeper = `64.${randomInt(1e9)}`;
    await run(`setsid sleep ${keeper} >/dev/null 2>&1 &`);
    const script = `setsid sleep ${nap} & env -i setsid -f sleep ${nap}; (setsid sh -c 'sleep ${nap} & sleep ${nap}' &); echo begun; sleep 60`;
    expect(await run(script, { timeout_ms: 1500 })).toMatchObject({ outcome: 'timeout', stdout: 'begun\n' });
    expect((await run(`pgrep -fx "sleep ${nap}" || echo none`)).stdout).toBe('none\n');
    expect((await run(`pgrep -fx "sleep ${keeper}" >/dev/null && echo kept`)).stdout).toBe('kept\n');
  });

  test('has the programs that clients count on, and places to install more', async () => {
    const programs = 'sh base64 tar mkdir cat test mktemp setsid ps readlink find';
    expect(
      (await run(`for each in ${programs}; do command -v $each >/dev/null || echo no $each; done`)).stdout,
    ).toBe('');
    expect((await run('test -w "$HOME" && cd && pwd')).exit_code).toBe(0);
  });

  test('many time limits do not cost the computer its life', async () => {
    const runs = Array.from({ length: 12 }, () => run('setsid sleep 60 & sleep 60', { timeout_ms: 300 }));
    expect(new Set((await Promise.all(runs)).map(({ outcome }) => outcome))).toEqual(new Set(['timeout']));
    await until(async () => (await run('echo well')).stdout === 'well\n');
  });
}
