/**
 * The container engine of this machine, for tests of the docker driver: which image there is, and what a test left.
 * Invariant: each ground is an installation of its own, and its removal takes all of that installation and nothing else.
 */

import { randomBytes } from 'node:crypto';
import { rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import Docker from 'dockerode';
import type { Driver } from '../../src/resource/computer/driver.ts';
import { dockerDriver } from '../../src/sandbox/docker/driver.ts';
import type { DockerOptions } from '../../src/sandbox/docker/driver.ts';

/** Debian with bash, coreutils, util-linux, procps and perl. */
const IMAGE = process.env['OVERWINTER_DOCKER_IMAGE'] ?? 'overwinter-base:bookworm';
const SOCKET_PATH = process.env['OVERWINTER_DOCKER_SOCKET'] ?? '/var/run/docker.sock';

export const docker = new Docker({ socketPath: SOCKET_PATH });

/** Why there can be no tests here, or null. Says so. */
export const docker_missing = await missing();

export type DockerGround = {
  directory: string;
  options: DockerOptions;
  logged: string[];
  /** A driver on the same ground each time, as a new process would make it. */
  make: (more?: Partial<DockerOptions>) => Driver;
  /** What the daemon has of this installation. */
  left: () => Promise<string[]>;
  remove: () => Promise<void>;
};

export function dockerGround(given: Partial<DockerOptions> = {}): DockerGround {
  const installation = `test-${randomBytes(6).toString('hex')}`;
  const directory = join(tmpdir(), `ow-docker-${installation}`);
  const logged: string[] = [];
  const log = (fields: Record<string, unknown>, message: string): void => {
    logged.push(`${message} ${JSON.stringify(fields)}`);
  };
  const options: DockerOptions = {
    ...{ socket_path: SOCKET_PATH, image: IMAGE, images: [], runtime: 'runc', installation },
    ...{ fail: () => {}, log: { warn: log, debug: log }, now: () => performance.now() },
    ...{ egress: null, egress_dir: join(directory, 'egress') },
    ...given,
  };
  const filters = { label: [`overwinter.installation=${installation}`] };
  const containers = (): Promise<Docker.ContainerInfo[]> => docker.listContainers({ all: true, filters });
  const images = (): Promise<Docker.ImageInfo[]> => docker.listImages({ all: true, filters });
  return {
    ...{ directory, options, logged },
    make: (more = {}) => dockerDriver({ ...options, ...more }),
    left: async () => [...(await containers()), ...(await images())].map(({ Id }) => Id),
    async remove() {
      for (const { Id } of await containers()) await docker.getContainer(Id).remove({ force: true, v: true });
      for (const { Id } of await images()) await docker.getImage(Id).remove();
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

async function missing(): Promise<string | null> {
  const found = await docker
    .getImage(IMAGE)
    .inspect()
    .then(
      () => null,
      (error: Error) => error.message.trim(),
    );
  if (found !== null)
    console.log(`The docker driver is not tested: no image ${IMAGE} at ${SOCKET_PATH} (${found}).`);
  return found;
}
