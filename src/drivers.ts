/** The drivers that this server runs, by its configuration: each is tried before anything is promised of it. */
import path from 'node:path';
import type { Config } from './config.ts';
import type { Logger } from './engine/runtime.ts';
import { createEgress } from './net/egress.ts';
import type { Capabilities, Driver, DriverName, Egress } from './resource/computer/driver.ts';
import { bwrapDriver } from './sandbox/bwrap.ts';
import { processDriver } from './sandbox/process.ts';

export type Drivers = {
  /** For computers that ask for none: the first that is named. */
  standard: Driver;
  all: ReadonlyMap<DriverName, Driver>;
  /** Of the standard one. */
  capabilities: Capabilities;
  /** The base images of each. */
  images: ReadonlyMap<DriverName, readonly string[]>;
};

export type DriverParts = {
  installation: string;
  fail: (failpoint: string) => Promise<void>;
  log: Logger;
};

/** Or the one sentence that says what to install or set, of the first that cannot be used. */
export async function openDrivers(config: Config, parts: DriverParts): Promise<Drivers | { reason: string }> {
  const egress = createEgress({ allowed: config.OVERWINTER_EGRESS_ALLOW ?? [], log: parts.log });
  const all = new Map<DriverName, Driver>();
  const images = new Map<DriverName, readonly string[]>();
  let capabilities: Capabilities | undefined;
  for (const name of config.OVERWINTER_SANDBOX) {
    const driver = await makeDriver(name, config, { ...parts, egress });
    const probe = await driver.probe();
    if (!probe.usable) return { reason: probe.reason };
    capabilities ??= probe.capabilities;
    all.set(name, driver);
    images.set(name, probe.capabilities.images);
  }
  const [standard] = all.values();
  if (!standard || !capabilities) throw new Error('no driver is configured');
  return { standard, all, capabilities, images };
}

async function makeDriver(
  name: DriverName,
  config: Config,
  { installation, fail, log, egress }: DriverParts & { egress: Egress },
): Promise<Driver> {
  const root = process.getuid?.() === 0;
  const usual = root ? '/var/lib/overwinter/computers' : path.join(config.OVERWINTER_DATA_DIR, 'computers');
  const computers_dir = config.OVERWINTER_COMPUTERS_DIR ?? usual;
  const options = { computers_dir, installation, fail, log, now: () => performance.now() };
  switch (name) {
    case 'bwrap':
      return bwrapDriver({ ...options, uid_base: config.OVERWINTER_UID_BASE, egress });
    case 'process':
      return processDriver(options);
    case 'docker': {
      // Its client takes as long to load as all the rest.
      const { dockerDriver } = await import('./sandbox/docker/driver.ts');
      return dockerDriver({
        ...{
          socket_path: config.OVERWINTER_DOCKER_SOCKET,
          image: config.OVERWINTER_DOCKER_IMAGE,
          images: [],
        },
        runtime: config.OVERWINTER_DOCKER_RUNTIME,
        ...{ installation, fail, log, now: options.now, egress },
        egress_dir: path.join(computers_dir, '.egress'),
      });
    }
    default:
      return name satisfies never;
  }
}
