/** What every driver promises, kept by computers with a root user inside. */

import { existsSync } from 'node:fs';
import { describe } from 'vitest';
import type { Driver } from '../../../src/resource/computer/driver.ts';
import { driverConformance } from '../../conformance/driver.ts';
import { makeEgress } from '../attacks.ts';
import { has_packages, installBaseImage } from './base-image.ts';
import { as_root, makeDriver, makeGround, removeGround } from '../grounds.ts';

const has_groups = existsSync('/sys/fs/cgroup/pids/tasks') || existsSync('/sys/fs/cgroup/cgroup.procs');

describe.runIf(as_root && has_groups && has_packages)('with a base image', () => {
  const ground = makeGround({ egress: makeEgress() });
  driverConformance({
    title: 'bwrap with a root user inside',
    prepare: () => installBaseImage(ground, 'base'),
    make(): Driver {
      const driver = makeDriver(ground);
      return { ...driver, wake: (request) => driver.wake({ ...request, image: 'base' }) };
    },
    remove: async () => removeGround(ground),
  });
});
