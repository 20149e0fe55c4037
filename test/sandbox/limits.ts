/** What bounds a computer, as tests over both ways to bound it. */

import { statSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Capabilities, Computer, ComputerLimits, Driver } from '../../src/resource/computer/driver.ts';
import { freshId, runScript, until } from '../conformance/computers.ts';
import { insideOf, makeDriver, removeGround } from './grounds.ts';
import type { Ground } from './grounds.ts';

const LIMITS: ComputerLimits = {
  memory_bytes: 536_870_912,
  processes_max: 64,
  cpu_percent: 50,
  disk_bytes: 209_715_200,
};

/** In a directory that the server's user may not enter either. */
const CLOSED = `mkdir closed; cd closed; chmod 300 .
for i in 1 2 3; do head -c 100M /dev/zero > $i; done; chmod 000 .`;

const MANY = 'for i in 1 2 3; do head -c 100M /dev/zero > $i; done';

/** In files that no name leads to. */
const UNLINKED = `perl -e 'for my $n (1 .. 3) {
  open(my $file, ">", "f") or die; unlink "f"; push @kept, $file;
  for (1 .. 100) { syswrite($file, "x" x 1048576) or print STDERR "$!\n" and last }
} sleep 60'`;

export function limitsHold(title: string, ground: Ground, prepare: () => void, cgroups: boolean): void {
  describe(title, () => {
    let driver: Driver;
    let disk: Capabilities['disk'] = 'none';
    beforeAll(async () => {
      prepare();
      driver = makeDriver(ground);
      const probed = await driver.probe();
      if (probed.usable) ({ disk } = probed.capabilities);
    });
    afterAll(async () => {
      await driver.close();
      removeGround(ground);
    });

    const wake = async (id = freshId(), generation = 1): Promise<Computer> => {
      const from_generation = generation - 1;
      const request = {
        id,
        reference: null,
        from_generation,
        generation,
        snapshot: null,
        network: { mode: 'off' } as const,
        image: null,
        limits: LIMITS,
      };
      return (await driver.wake(request)).computer;
    };

    test('the driver says how it bounds', async () => {
      const probed = await driver.probe();
      expect(probed).toMatchObject({ usable: true });
      if (probed.usable) expect(probed.capabilities.limits === 'rlimit').toBe(!cgroups);
    });

    test('an allocation of 4 GB fails, and the computer goes on', async () => {
      const computer = await wake();
      const result = await runScript(
        computer,
        `perl -e 'my $x = "x" x 4294967296; print "held\n"' || echo refused`,
      );
      expect(result.stdout).toBe('refused\n');
      expect((await runScript(computer, 'echo well')).stdout).toBe('well\n');
    });

    test.runIf(cgroups)('what the kernel killed for want of memory is told, and only then', async () => {
      const computer = await wake();
      const greedy = `perl -e 'my $x = "x" x 1073741824; sleep 1'`;
      const [whole, child] = [await runScript(computer, `exec ${greedy}`), await runScript(computer, greedy)];
      expect([whole.out_of_memory, child.out_of_memory]).toEqual([true, true]);
      expect(whole).toMatchObject({ outcome: 'exited', exit_code: 137 });
      expect((await runScript(computer, 'echo well')).out_of_memory).toBeUndefined();
    });

    test('usage is counted', async () => {
      const computer = await wake();
      const held = `perl -e '$| = 1; my $x = "x" x 50000000; my $n = 0; $n += $_ for 1 .. 3000000; open my $f, ">", "held"; sleep 60' &`;
      await runScript(computer, `head -c 3000000 /dev/zero > file; ${held}`);
      await until(async () => (await runScript(computer, 'test -e held')).exit_code === 0);
      const usage = await computer.usage();
      expect(usage.cpu_seconds).toBeGreaterThan(0.02);
      expect(usage.memory_bytes).toBeGreaterThan(50_000_000);
      expect(usage.memory_bytes).toBeLessThan(400_000_000);
      expect(usage.processes).toBeGreaterThanOrEqual(3);
      await until(async () => ((await computer.usage()).disk_bytes ?? 0) >= 3_000_000);
      await computer.hibernate();
    });

    test.runIf(cgroups)('a computer stands still while a snapshot of it is read, and goes on', async () => {
      const id = freshId();
      const computer = await wake(id);
      await runScript(
        computer,
        'head -c 40000000 /dev/urandom > large; (while :; do date +%N > now; done) 2>/dev/null & while [ ! -s now ]; do sleep 0.02; done',
      );
      const content = await driver.snapshot(id, {});
      const chunks = (content as AsyncIterable<Uint8Array>)[Symbol.asyncIterator]();
      await chunks.next();
      const now = `${insideOf(ground, id)}/workspace/now`;
      const before = statSync(now, { bigint: true }).mtimeNs;
      const short = runScript(computer, 'sleep 60', { timeout_ms: 100 });
      for (let next = await chunks.next(); next.done !== true; next = await chunks.next()) {
        expect(statSync(now, { bigint: true }).mtimeNs === before).toBe(true);
      }
      expect((await short).outcome).toBe('timeout');
      expect((await runScript(computer, 'pgrep -f "while :" >/dev/null; echo on')).stdout).toBe('on\n');
      await driver.destroy(id, null);
    });

    test('processes are bounded, and a wake cures a fork bomb', async () => {
      const id = freshId();
      const computer = await wake(id);
      const { stdout } = await runScript(
        computer,
        'for i in $(seq 200); do sleep 60 & done 2>/dev/null; jobs -p | wc -l',
        {
          timeout_ms: 3000,
        },
      );
      expect(Number(stdout)).toBeLessThanOrEqual(64);
      const again = await wake(id, 2);
      expect((await runScript(again, 'echo well')).stdout).toBe('well\n');
    });

    test('one file may not pass the disk limit', async () => {
      const result = await runScript(await wake(), 'truncate -s 300M large || echo refused');
      expect(result.stdout).toContain('refused');
    });

    test('a write beyond its disk limit fails, wherever the bytes are, and the computer lives', async ({
      skip,
    }) => {
      if (disk !== 'held') skip('disk use is counted here');
      for (const fill of [MANY, CLOSED, UNLINKED]) {
        const computer = await wake();
        const { stderr, outcome } = await runScript(computer, fill.replace('sleep 60', ''));
        expect([outcome, stderr]).toEqual(['exited', expect.stringContaining('No space left on device')]);
        const { disk_bytes } = await computer.usage();
        expect(disk_bytes).toBeLessThan(LIMITS.disk_bytes * 1.01);
        expect((await runScript(computer, `rm -rf /workspace/*; echo well | tee again`)).stdout).toBe(
          'well\n',
        );
        await computer.hibernate();
      }
      expect(ground.logged.filter((line) => line.startsWith('disk limit exceeded'))).toEqual([]);
    });

    test('a computer over its disk limit is ended, wherever the bytes are', async ({ skip }) => {
      if (disk !== 'counted') skip('each computer has a disk of its own here');
      const fills = [MANY, CLOSED, UNLINKED];
      const computers = await Promise.all(fills.map(() => wake()));
      const results = computers.map((computer, index) => runScript(computer, `${fills[index]}; sleep 60`));
      expect((await Promise.all(results)).map(({ outcome }) => outcome)).toEqual(['lost', 'lost', 'lost']);
      expect(ground.logged.filter((line) => line.startsWith('disk limit exceeded'))).toHaveLength(3);
    });

    test('/tmp and shared memory are bounded', async () => {
      const result = await runScript(
        await wake(),
        'for d in /tmp /dev/shm; do head -c 150M /dev/zero > $d/fill || echo refused; rm $d/fill; done; touch /x /dev/x /run/x || echo none',
      );
      expect(result.stdout).toBe('refused\nrefused\nnone\n');
    });

    test('no core is written and few files can be open', async () => {
      expect((await runScript(await wake(), 'ulimit -c; ulimit -n')).stdout).toBe('0\n4096\n');
    });

    test.runIf(cgroups)('CPU time is bounded for the computer as a whole', async () => {
      const computer = await wake();
      const script = 'for i in 1 2; do timeout 1 sh -c "while :; do :; done" & done; wait; times | tail -n 1';
      const { stdout } = await runScript(computer, script);
      const [, minutes = 0, seconds = 0] = /^(\d+)m([\d.]+)s/.exec(stdout)?.map(Number) ?? [];
      expect(minutes * 60 + seconds).toBeLessThan(1);
    });

    test('nothing of a computer is left on the host', async () => {
      const id = freshId();
      const computer = await wake(id);
      await runScript(computer, 'sleep 60 &');
      await driver.destroy(id, null);
      await until(async () => !computer.alive());
    });
  });
}
