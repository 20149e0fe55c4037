/**
 * The driver that keeps computers as containers of a daemon with Docker's API, on this machine.
 * Invariant: for one computer one thing happens at a time, and no wake begins on files while an older process of that
 * computer lives.
 *
 * A computer's main process lives on the server's connection to it, so a server's death is a hibernate of its own
 * computers, and of no other server's; what a wake finds running of its own computer, it ends. The generation is the end
 * of the container's name.
 */

import { mkdtemp, mkdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { Unsupported } from '../../resource/computer/driver.ts';
import type {
  Capabilities,
  Driver,
  Egress,
  WakeRequest,
  Woken,
  Fail,
} from '../../resource/computer/driver.ts';
import { OUTWARD_ENVIRONMENT, serveOutward } from '../channel/outward.ts';
import type { Outward } from '../channel/outward.ts';
import { listenCommand, writeRelay } from '../channel/relay.ts';
import { placeOf } from '../place.ts';
import { oneAtATime } from '../../resource/serial.ts';
import { archive, unarchive } from './archive.ts';
import { awaken } from './awake.ts';
import type { Awake, Log } from './awake.ts';
import { COMPUTER_LABEL, creation, INSTALLATION_LABEL } from './container.ts';
import { containersOf, endContainer, nameOf, openDaemon, removeContainer, removeImages } from './daemon.ts';
import type { Container, Daemon, Kept } from './daemon.ts';
import { tryComputer } from './probe.ts';
import { CONTROL_DIR, EGRESS_DIR, mainProgram } from './scripts.ts';

export type DockerOptions = {
  socket_path: string;
  /** What computers are made from, when they name no other. */
  image: string;
  /** Further images that computers may name. */
  images: readonly string[];
  /** As the daemon knows it: `runc`, or `runsc` for gVisor. */
  runtime: string;
  /** This driver touches nothing of another's. */
  installation: string;
  fail: Fail;
  log: Log;
  /** Monotonic, in milliseconds. */
  now: () => number;
  /** The way out of computers; null = none has one. */
  egress: Egress | null;
  /** Holds the sockets of the egress proxy, a directory for each computer. Where it is must be the same for the daemon. */
  egress_dir: string;
};

/** What one driver keeps. */
type Keeper = {
  options: DockerOptions;
  daemon: Daemon;
  live: Map<string, Awake>;
  /** The text of the relay. */
  relay: () => Promise<string>;
};

/** The major version of Docker whose default filter of system calls has neither io_uring nor vsock. */
const FILTERS_IO_URING_SINCE = 25;

type Reference = { installation: string };

/** @throws RangeError for an installation that could name anything but itself. */
export function dockerDriver(options: DockerOptions): Driver {
  if (!/^[A-Za-z0-9_-]{1,64}$/.test(options.installation)) throw new RangeError('not an installation id');
  const relay = once(() => relayText(options.egress_dir));
  const keeper: Keeper = { options, daemon: openDaemon(options.socket_path), live: new Map(), relay };
  const serial = oneAtATime();
  let closed = false;
  const driver: Driver = {
    name: 'docker',
    async probe() {
      const trial = await tryComputer(driver, options);
      return trial.usable ? { usable: true, capabilities: await capabilities(keeper) } : trial;
    },
    async wake(request) {
      if (closed) throw new Error('the driver is closed');
      return await serial(request.id, () => wake(keeper, request));
    },
    snapshot: (id) => serial(id, () => snapshot(keeper, id)),
    destroy: (id) => serial(id, () => destroy(keeper, id)),
    quieten: (id) => serial(id, async () => void (await quieten(keeper, id))),
    async inventory() {
      const kept = await containersOf(keeper.daemon, options.installation, null);
      return [...new Set(kept.map(({ computer }) => computer))];
    },
    async close() {
      closed = true;
      await serial.idle();
      await Promise.all([...keeper.live.values()].map(({ computer }) => computer.hibernate()));
    },
  };
  return driver;
}

function once<Value>(make: () => Promise<Value>): () => Promise<Value> {
  let made: Promise<Value> | undefined;
  return () => {
    made ??= make();
    made.catch(() => (made = undefined));
    return made;
  };
}

async function relayText(egress_dir: string): Promise<string> {
  await mkdir(egress_dir, { recursive: true, mode: 0o700 });
  const directory = await mkdtemp(join(egress_dir, '.relay-'));
  try {
    await writeRelay(directory);
    return await readFile(join(directory, 'relay.pl'), 'utf8');
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

async function wake(keeper: Keeper, request: WakeRequest): Promise<Woken> {
  const { options, live } = keeper;
  const { id, generation, network, limits } = request;
  const began_ms = options.now();
  const egress_dir = egressDirOf(options, id);
  expectSupported(options, request);
  const reference: Reference = { installation: options.installation };
  const awake = live.get(id);
  if (awake?.computer.alive() === true && awake.computer.generation === generation) {
    return { computer: awake.computer, reference, files: 'kept' };
  }
  const kept = await quieten(keeper, id);
  const { container, files } = await provide(keeper, request, kept);
  const relay = await keeper.relay();
  const outward = network.mode === 'off' ? null : await openOutward(options, egress_dir, request);
  const { fail, log, now } = options;
  const way_out = outward === null ? null : listenCommand(CONTROL_DIR, `${EGRESS_DIR}/egress`);
  const woken = await awaken({
    ...{ id, container, generation, outward, fail, log, now },
    program: mainProgram(relay, way_out),
    disk_bytes: limits.disk_bytes,
  });
  live.set(id, woken);
  const forget = (): unknown => live.get(id) === woken && live.delete(id);
  woken.ended.then(forget, forget);
  log.debug({ computer: id, files, wake_ms: now() - began_ms }, 'computer awake');
  return { computer: woken.computer, reference, files };
}

/** @throws RangeError when `id` could name anything but one directory. */
function egressDirOf({ egress_dir, installation }: DockerOptions, id: string): string {
  return placeOf(join(egress_dir, installation), id).directory;
}

function expectSupported(
  { egress, image: own, images }: DockerOptions,
  { network, image }: WakeRequest,
): void {
  if (image !== null && image !== own && !images.includes(image))
    throw new Unsupported(`this server has no base image ${JSON.stringify(image)}`);
  if (network.mode !== 'off' && egress === null)
    throw new Unsupported('this server has no way out for computers: only network "off"');
}

/** The directory is bound into the container when that is made, so it must stay where it is. */
async function openOutward(
  { egress, fail }: DockerOptions,
  directory: string,
  { network: policy, id }: WakeRequest,
): Promise<Outward> {
  await mkdir(directory, { recursive: true, mode: 0o755 });
  await rm(join(directory, 'egress'), { force: true });
  const identity = { kind: 'root', uid: 0 } as const;
  const outward = await serveOutward(egress as Egress, directory, { policy, computer: id, identity });
  await fail('sandbox.egress_served');
  return outward;
}

/** Ends what runs for this computer, be it of this process or left by a former one. */
async function quieten({ live, options, daemon }: Keeper, id: string): Promise<Kept[]> {
  await live.get(id)?.computer.hibernate();
  const kept = await containersOf(daemon, options.installation, id);
  for (const { container, resting } of kept) if (!resting) await endContainer(container);
  await options.fail('sandbox.leftover_ended');
  return kept;
}

type Provided = { container: Container; files: Woken['files'] };

/** The newest container that is not stale, under its new name; or a new one. */
async function provide(keeper: Keeper, request: WakeRequest, kept: Kept[]): Promise<Provided> {
  const { options, daemon } = keeper;
  const { id, from_generation, generation } = request;
  const [newest, ...older] = kept;
  const usable = newest !== undefined && newest.generation > 0 && newest.generation >= from_generation;
  const stale = usable ? older : kept;
  for (const { container } of stale) await removeContainer(container);
  await removeImages(daemon, options.installation, id);
  if (!usable) return await make(keeper, request);
  const { container } = newest;
  const name = nameOf(options.installation, id, generation);
  if (newest.generation !== generation) await container.rename({ name });
  await options.fail('sandbox.recorded');
  return { container, files: 'kept' };
}

async function make(keeper: Keeper, request: WakeRequest): Promise<Provided> {
  const { options, daemon } = keeper;
  const { id, generation, limits, snapshot: open, network } = request;
  const base = await daemon.getImage(request.image ?? options.image).inspect();
  const labels = { [INSTALLATION_LABEL]: options.installation, [COMPUTER_LABEL]: id };
  const restoring = { labels, disk_bytes: limits.disk_bytes, base_bytes: base.Size };
  const image = open === null ? base.Id : await unarchive(daemon, await open(), restoring);
  if (open !== null) await options.fail('sandbox.restored');
  const egress_dir = network.mode === 'off' ? null : egressDirOf(options, id);
  if (egress_dir !== null) await mkdir(egress_dir, { recursive: true, mode: 0o755 });
  const making = {
    ...{ name: nameOf(options.installation, id, generation), labels, image, limits, egress_dir },
    image_environment: base.Config.Env ?? [],
    environment: egress_dir === null ? {} : OUTWARD_ENVIRONMENT,
    runtime: options.runtime,
  };
  const container = await daemon.createContainer(creation(making));
  await options.fail('sandbox.place_made');
  return { container, files: open === null ? 'empty' : 'restored' };
}

async function snapshot(keeper: Keeper, id: string): Promise<AsyncIterable<Uint8Array> | null> {
  egressDirOf(keeper.options, id);
  const awake = keeper.live.get(id);
  if (awake?.computer.alive() !== true) await quieten(keeper, id);
  const [newest] = await containersOf(keeper.daemon, keeper.options.installation, id);
  if (newest === undefined) return null;
  return awake?.computer.alive() === true ? archiveAwake(awake, newest.container) : archive(newest.container);
}

/** The computer stands still from the first chunk that is asked for to the last. */
async function* archiveAwake(awake: Awake, container: Container): AsyncGenerator<Uint8Array, void> {
  const letGo = await awake.hold();
  try {
    yield* archive(container);
  } finally {
    await letGo();
  }
}

async function destroy(keeper: Keeper, id: string): Promise<void> {
  const { options, daemon } = keeper;
  const directory = egressDirOf(options, id);
  const kept = await quieten(keeper, id);
  for (const { container } of kept) await removeContainer(container);
  await options.fail('sandbox.files_removed');
  await removeImages(daemon, options.installation, id);
  await rm(directory, { recursive: true, force: true });
  await options.fail('sandbox.destroyed');
}

async function capabilities({ daemon, options }: Keeper): Promise<Capabilities> {
  const info = (await daemon.info()) as { CgroupVersion?: string; Driver?: string; ServerVersion?: string };
  return {
    isolation: 'namespaces',
    limits: info.CgroupVersion === '2' ? 'cgroup-v2' : 'cgroup-v1',
    disk: 'counted',
    identity: 'root',
    egress: options.egress !== null,
    terminals: true,
    images: [options.image, ...options.images],
    notes: notesOf(options, info),
  };
}

function notesOf({ runtime }: DockerOptions, info: { Driver?: string; ServerVersion?: string }): string[] {
  const gvisor = runtime.startsWith('runsc');
  const notes = [
    gvisor ? 'The kernel that computers see is gVisor.' : 'The kernel is shared with the host.',
    'Agents are root of their container, without the capabilities that reach the host.',
    `Disk use is counted every few seconds by the engine (storage ${info.Driver ?? 'unknown'}), not held by a quota.`,
    'A snapshot holds the whole root file system, the base image included, but no volume that the image declares.',
  ];
  if (!gvisor && Number.parseInt(info.ServerVersion ?? '', 10) < FILTERS_IO_URING_SINCE) {
    notes.push(
      `This engine's filter lets io_uring and vsock through; Docker ${FILTERS_IO_URING_SINCE} or later does not.`,
    );
  }
  return notes;
}
