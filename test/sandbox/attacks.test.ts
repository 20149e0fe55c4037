import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Computer } from '../../src/resource/computer/driver.ts';
import { processDriver } from '../../src/sandbox/process.ts';
import { freshId, runScript } from '../conformance/computers.ts';
import { ATTACKS, attack, attacksFail, layOutPrey, makeEgress } from './attacks.ts';
import type { Prey } from './attacks.ts';
import { as_root, makeDriver, makeGround, removeGround, workspaceOf } from './grounds.ts';

test('there are enough attacks', () => {
  expect(ATTACKS.length).toBeGreaterThanOrEqual(100);
});

describe.runIf(as_root)('as root', () => {
  const ground = makeGround({ egress: makeEgress() });
  attacksFail({
    title: 'no attack gets out of a computer with a uid of its own',
    prepare: async () => {},
    make: () => makeDriver(ground),
    directory: ground.directory,
    workspaceOf: (id) => workspaceOf(ground, id),
    remove: () => removeGround(ground),
  });
});

describe.runIf(as_root)(
  'without isolation the harmless attacks succeed, so the others would be noticed',
  () => {
    const ground = makeGround();
    const driver = processDriver({ computers_dir: ground.directory, installation: 'test', fail: () => {} });
    let computer: Computer;
    let prey: Prey;

    beforeAll(async () => {
      const other = freshId();
      const wake = (id: string): ReturnType<typeof driver.wake> =>
        driver.wake({
          id,
          reference: null,
          from_generation: 0,
          generation: 1,
          snapshot: null,
          network: { mode: 'off' } as const,
          image: null,
          limits: LIMITS,
        });
      prey = await layOutPrey(ground.directory, join(ground.directory, 'test', other, 'workspace'));
      const victim = await wake(other);
      await runScript(
        victim.computer,
        `echo ${prey.canary} > secret; (exec -a victim-of-another sleep 600) &`,
      );
      ({ computer } = await wake(freshId()));
    });
    afterAll(async () => {
      await prey.remove();
      await driver.close();
      removeGround(ground);
    });

    test.each(ATTACKS.filter(({ harmless }) => harmless))('$name', async (each) => {
      const { stdout, stderr } = await attack(computer, each, prey);
      expect(stdout + stderr).toMatch(new RegExp(`^ESCAPED: |${prey.canary}`, 'm'));
    });
  },
);

const LIMITS = { memory_bytes: 2 ** 29, processes_max: 128, cpu_percent: 100, disk_bytes: 2 ** 28 };
