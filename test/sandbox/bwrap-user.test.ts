import { driverConformance } from '../conformance/driver.ts';
import { becomeUser, makeDriver, makeGround, removeGround } from './grounds.ts';

const ground = makeGround();
driverConformance({
  title: 'bwrap, the server as a plain user',
  prepare: async () => becomeUser(ground),
  make: () => makeDriver(ground),
  remove: async () => removeGround(ground),
});
