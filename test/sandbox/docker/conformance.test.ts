import { describe } from 'vitest';
import { driverConformance } from '../../conformance/driver.ts';
import { docker_missing, dockerGround } from '../../helpers/docker.ts';

/** Needs a container engine and a base image; says so where there is none. */
describe.runIf(docker_missing === null)('containers of the machine', () => {
  const ground = dockerGround();
  driverConformance({
    title: 'docker',
    prepare: async () => {},
    make: ground.make,
    remove: ground.remove,
  });
});
