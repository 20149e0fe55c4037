import { describe } from 'vitest';
import { driverConformance } from '../conformance/driver.ts';
import { as_root, makeDriver, makeGround, removeGround } from './grounds.ts';

describe.runIf(as_root)('the server as root', () => {
  const ground = makeGround();
  driverConformance({
    title: 'bwrap, each computer with a uid of its own',
    prepare: async () => {},
    make: () => makeDriver(ground),
    remove: async () => removeGround(ground),
  });
});
