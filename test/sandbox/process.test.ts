import { join } from 'node:path';
import { processDriver } from '../../src/sandbox/process.ts';
import { driverConformance } from '../conformance/driver.ts';
import { makeGround, removeGround } from './grounds.ts';

const ground = makeGround();
driverConformance({
  title: 'processes without isolation',
  prepare: async () => {},
  make: () =>
    processDriver({
      computers_dir: join(ground.directory, 'processes'),
      installation: 'test',
      fail: () => {},
    }),
  remove: async () => removeGround(ground),
});
