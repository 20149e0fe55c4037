/**
 * What every computer driver promises, as tests over a driver that the caller makes.
 * Invariant: nothing here knows which driver it is, but for what its capabilities say.
 */

import { randomInt } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type {
  Computer,
  ComputerLimits,
  Driver,
  ExecSpec,
  WakeRequest,
} from '../../src/resource/computer/driver.ts';
import { freshId, runScript, until } from './computers.ts';
import { execsMore } from './driver-exec.ts';
import { filesConform } from './driver-files.ts';
import { portsConform } from './driver-ports.ts';
import { terminalsConform } from './driver-terminals.ts';

export type DriverSubject = {
  title: string;
  /** Runs before the first driver is made, in the process of the test file. */
  prepare: () => Promise<void>;
  /** A driver on the same ground each time, as a new process would make it. */
  make: () => Driver;
  /** Removes the ground. */
  remove: () => Promise<void>;
};

export const LIMITS: ComputerLimits = {
  memory_bytes: 536_870_912,
  processes_max: 128,
  cpu_percent: 200,
  disk_bytes: 268_435_456,
};

export function driverConformance(subject: DriverSubject): void {
  describe(subject.title, () => {
    let driver: Driver;
    beforeAll(async () => {
      await subject.prepare();
      driver = subject.make();
    });
    afterAll(async () => {
      await driver.close();
      await subject.remove();
    });

    const wakeNew = (more: Partial<WakeRequest> = {}): Promise<Awoken> => wakeWith(driver, more);

    test('probe says that it is usable, and how', async () => {
      expect(await driver.probe()).toMatchObject({
        usable: true,
        capabilities: { notes: expect.any(Array) },
      });
    });

    describe('exec', () => {
      let computer: Computer;
      beforeAll(async () => ({ computer } = await wakeNew()));
      const run = (script: string, more: Partial<ExecSpec> = {}): ReturnType<typeof runScript> =>
        runScript(computer, script, more);

      test('gives output on two streams and the exit code', async () => {
        const result = await run('echo out; echo err >&2; exit 7');
        expect(result).toEqual({ outcome: 'exited', exit_code: 7, stdout: 'out\n', stderr: 'err\n' });
      });

      test('runs bash', async () => {
        expect(
          (await run('set -o pipefail; a=(1 2 3); [[ ${#a[@]} == 3 ]] && echo "${BASH_VERSION:+bash}"'))
            .stdout,
        ).toBe('bash\n');
      });

      test('starts in the workspace, or where it is told', async () => {
        expect((await run('echo > in-workspace; ls /workspace')).stdout).toContain('in-workspace');
        expect((await run('test "$PWD" = "$HOME" && echo home', { cwd: '/home/agent' })).stdout).toBe(
          'home\n',
        );
        expect(await run('echo not reached', { cwd: '/workspace/missing' })).toMatchObject({
          exit_code: 1,
          stdout: '',
        });
        await run(`mkdir "/workspace/it's \\$odd"`);
        expect((await run('basename "$PWD"', { cwd: "/workspace/it's $odd" })).stdout).toBe("it's $odd\n");
        expect(() => computer.exec({ script: 'true', cwd: 'relative', timeout_ms: 1000 })).toThrow(
          RangeError,
        );
      });

      test('passes variables as they are, and leaves out names that a shell cannot have', async () => {
        const env = { PLAIN: 'x', ODD: `a'b"c$d\n\\e`, 'BAD-NAME': 'y', 'X; touch /workspace/injected': 'z' };
        expect(
          (await run('printf %s "$ODD"; test -e /workspace/injected && echo injected', { env })).stdout,
        ).toBe(env.ODD);
      });

      test("passes variables that a shell has for itself, and such as the driver's own scripts could have", async () => {
        const env = {
          UID: '5',
          SHELLOPTS: 'errexit',
          dir: '/x',
          name: 'y',
          each: 'z',
          LONG: 'long '.repeat(20_000),
        };
        const script = "printenv UID dir name each; printenv LONG | wc -c; false; echo 'not reached'";
        expect(await run(script, { env })).toMatchObject({ exit_code: 1, stdout: '5\n/x\ny\nz\n100001\n' });
      });

      test('feeds standard input, and ends it', async () => {
        const stdin = Buffer.alloc(3_000_000, 'line\n');
        expect((await run('wc -c', { stdin })).stdout.trim()).toBe('3000000');
        expect((await run('wc -c')).stdout.trim()).toBe('0');
      });

      test('takes a script of any size', async () => {
        const script = `${': padding\n'.repeat(300_000)}echo end`;
        expect((await run(script)).stdout).toBe('end\n');
      });

      test('gives all of a large output, in order', async () => {
        const { stdout } = await run('seq 1 500000');
        expect(stdout.length).toBe(3_388_895);
        expect(stdout.endsWith('499999\n500000\n')).toBe(true);
      });

      test('lets signals through to the script', async () => {
        expect((await run(`trap 'echo caught' INT; kill -INT $$; echo after`)).stdout).toBe(
          'caught\nafter\n',
        );
      });

      test('runs many at a time', async () => {
        const scripts = Array.from({ length: 24 }, (_, index) => run(`sleep 0.2; echo ${index}`));
        const results = await Promise.all(scripts);
        expect(results.map(({ stdout }) => stdout)).toEqual(results.map((_, index) => `${index}\n`));
      });

      test('ends on the exit of the script, though a background child holds the output', async () => {
        const started_ms = performance.now();
        expect((await run('sleep 30 & echo front')).stdout).toBe('front\n');
        expect(performance.now() - started_ms).toBeLessThan(25_000);
      });

      test('lets a background child live and write on', async () => {
        await run(
          '(for i in $(seq 1 8); do sleep 0.1; echo noise; done; echo survived > /workspace/survivor) &',
        );
        await until(async () => (await run('cat /workspace/survivor')).stdout === 'survived\n');
      });

      test('holds the writer back when nobody reads', async () => {
        const before = process.memoryUsage().rss;
        const { output, exit } = computer.exec({
          script: 'head -c 400000000 /dev/zero; echo done >&2',
          timeout_ms: 60_000,
        });
        await run('sleep 1');
        expect(process.memoryUsage().rss - before).toBeLessThan(100_000_000);
        let bytes = 0;
        for await (const { stream, data } of output) if (stream === 'stdout') bytes += data.length;
        expect(bytes).toBe(400_000_000);
        expect(await exit).toEqual({ outcome: 'exited', exit_code: 0 });
      });

      test('lets the script end when its reader goes away', async () => {
        const { output, exit } = computer.exec({ script: 'seq 1 3000000; exit 4', timeout_ms: 30_000 });
        for await (const chunk of output) if (chunk.data.length > 0) break;
        expect(await exit).toEqual({ outcome: 'exited', exit_code: 4 });
      });

      test('ends at the time limit with all of its group', async () => {
        const started_ms = performance.now();
        const nap = `61.${randomInt(1e9)}`;
        const script = `trap "" TERM INT HUP; echo begun; sleep ${nap} & sleep ${nap}; wait`;
        expect(await run(script, { timeout_ms: 400 })).toMatchObject({
          outcome: 'timeout',
          stdout: 'begun\n',
        });
        expect(performance.now() - started_ms).toBeLessThan(30_000);
        expect((await run(`pgrep -fx "sleep ${nap}" || echo none`)).stdout).toBe('none\n');
        expect(computer.alive()).toBe(true);
      });

      test('ends on an abort at any moment, and only the script', async () => {
        for (let delay_ms = 0; delay_ms < 20; delay_ms += 1) {
          const signal = AbortSignal.timeout(delay_ms);
          expect((await run('sleep 60', { signal })).outcome).toBe('aborted');
        }
        expect(computer.alive()).toBe(true);
      });

      test('ends on abort, also on one that came before', async () => {
        const abort = new AbortController();
        const running = run('sleep 60', { signal: abort.signal });
        await run('true');
        abort.abort();
        expect((await running).outcome).toBe('aborted');
        expect((await run('touch /workspace/ran', { signal: AbortSignal.abort() })).outcome).toBe('aborted');
        expect((await run('test -e /workspace/ran || echo not')).stdout).toBe('not\n');
      });
    });

    describe('exec, beyond a script and its output', () => execsMore(wakeNew));
    describe('connections', () => portsConform(wakeNew));
    describe('terminals', () => terminalsConform(wakeNew));

    describe('life and death', () => {
      test('hibernate ends everything and settles what runs', async () => {
        const { computer, id } = await wakeNew();
        const nap = `77.${randomInt(1e9)}`;
        await runScript(computer, `setsid sleep ${nap} & nohup sleep ${nap} & echo kept > /workspace/file`);
        const { exit } = computer.exec({ script: 'sleep 60', timeout_ms: 60_000 });
        await runScript(computer, 'true');
        await Promise.all([computer.hibernate(), computer.hibernate()]);
        expect(await exit).toEqual({ outcome: 'lost', exit_code: null });
        expect(computer.alive()).toBe(false);
        expect(await runScript(computer, 'true')).toMatchObject({ outcome: 'lost' });
        const again = await wakeNew({ id, from_generation: 1, generation: 2 });
        expect(again.files).toBe('kept');
        expect((await runScript(again.computer, `cat file; pgrep -fx "sleep ${nap}"`)).stdout).toBe('kept\n');
      });

      test('an exec that is being prepared when its computer is hibernated is lost', async () => {
        const { computer } = await wakeNew();
        const exits = Array.from(
          { length: 40 },
          () => computer.exec({ script: 'sleep 60', timeout_ms: 60_000 }).exit,
        );
        await Promise.race([computer.hibernate(), Promise.all(exits)]);
        expect(new Set((await Promise.all(exits)).map(({ outcome }) => outcome))).toEqual(new Set(['lost']));
      });

      test('a computer that kills itself is lost, and wakes again with its files', async () => {
        const { computer, id } = await wakeNew();
        await runScript(computer, 'echo kept > file');
        const { outcome } = await runScript(
          computer,
          'kill -9 $(ps -o ppid= -p $(ps -o ppid= -p $$)); sleep 60',
        );
        expect(outcome).toBe('lost');
        await until(async () => !computer.alive());
        const again = await wakeNew({ id, from_generation: 1, generation: 2 });
        expect((await runScript(again.computer, 'cat file')).stdout).toBe('kept\n');
      });

      test('files that its agent has for its own shells do not touch what wakes it', async () => {
        const { computer, id } = await wakeNew();
        await runScript(
          computer,
          'echo "echo spoilt; exit 3" | tee ~/.bashrc ~/.profile ~/.bash_profile >~/.bash_login',
        );
        await computer.hibernate();
        const again = await wakeNew({ id, from_generation: 1, generation: 2 });
        expect((await runScript(again.computer, 'echo fine')).stdout).toBe('fine\n');
      });

      test('a second wake of the same generation is the same computer', async () => {
        const { computer, id } = await wakeNew();
        const again = await wakeNew({ id });
        expect(again.computer).toBe(computer);
      });

      test('a wake of the next generation ends the former', async () => {
        const { computer, id } = await wakeNew();
        const again = await wakeNew({ id, from_generation: 1, generation: 2 });
        expect([computer.alive(), again.computer.alive(), again.computer.generation]).toEqual([
          false,
          true,
          2,
        ]);
      });

      test('a wake by another driver on this ground ends what the former left running', async () => {
        const { computer, id } = await wakeNew();
        await runScript(computer, 'echo kept > file');
        const other = subject.make();
        const again = await wakeWith(other, { id, from_generation: 1, generation: 2 });
        expect(again.files).toBe('kept');
        await until(async () => !computer.alive());
        expect((await runScript(again.computer, 'cat file')).stdout).toBe('kept\n');
        await other.close();
        expect(again.computer.alive()).toBe(false);
      });

      test('an id that could name another place is refused', async () => {
        for (const id of ['..', 'cmp_../../x', 'cmp_', '', '.uids', 'cmp_A/b']) {
          await expect(wakeNew({ id })).rejects.toThrow(RangeError);
          await expect(driver.destroy(id, null)).rejects.toThrow(RangeError);
        }
      });
    });

    describe('files', () => filesConform(wakeNew, () => driver));

    test('where the disk ceiling is held, a write beyond it fails and the computer lives', async ({
      skip,
    }) => {
      const probed = await driver.probe();
      if (!probed.usable || probed.capabilities.disk !== 'held') skip('disk use is not held here');
      const { computer } = await wakeNew();
      const fill = 'for i in 1 2 3; do head -c 100M /dev/zero >$i; done; rm 1 2 3; echo on >file; cat file';
      const { stdout, stderr } = await runScript(computer, fill);
      expect([stdout, stderr]).toEqual(['on\n', expect.stringContaining('No space left on device')]);
    });

    test('inventory names what has files here', async () => {
      const { id } = await wakeNew();
      expect(await driver.inventory()).toContain(id);
      await driver.destroy(id, null);
      expect(await driver.inventory()).not.toContain(id);
    });

    test('usage counts what it can', async () => {
      const { computer } = await wakeNew();
      await runScript(computer, 'sleep 60 & i=0; while [ $i -lt 200000 ]; do i=$((i + 1)); done');
      await until(async () => {
        await runScript(computer, 'true');
        return ((await computer.usage()).cpu_seconds ?? 1) > 0.01;
      });
      const usage = await computer.usage();
      expect(usage.memory_bytes ?? 1).toBeGreaterThan(0);
      expect(usage.processes ?? 2).toBeGreaterThanOrEqual(2);
      expect(usage.uptime_ms).toBeGreaterThan(0);
    });

    test('close ends every computer, and their files stay', async () => {
      const other = subject.make();
      const [one, two] = await Promise.all([wakeWith(other, {}), wakeWith(other, {})]);
      await runScript(one.computer, 'echo kept > file');
      await other.close();
      expect([one.computer.alive(), two.computer.alive()]).toEqual([false, false]);
      const again = await wakeNew({ id: one.id, from_generation: 1, generation: 2 });
      expect((await runScript(again.computer, 'cat file')).stdout).toBe('kept\n');
    });
  });
}

export type WakeNew = (more?: Partial<WakeRequest>) => Promise<Awoken>;
type Awoken = Awaited<ReturnType<Driver['wake']>> & { id: string };

async function wakeWith(driver: Driver, more: Partial<WakeRequest>): Promise<Awoken> {
  const id = more.id ?? freshId();
  const request = {
    id,
    reference: null,
    from_generation: 0,
    generation: 1,
    snapshot: null,
    limits: LIMITS,
    network: { mode: 'off' } as const,
    image: null,
    ...more,
  };
  return { ...(await driver.wake(request)), id };
}
