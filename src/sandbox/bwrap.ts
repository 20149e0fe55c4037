/**
 * The driver that keeps computers in bubblewrap sandboxes on this machine.
 * Invariant: for one computer one thing happens at a time, and no wake begins on files while an older process of that
 * computer lives.
 */

import { chmod, mkdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { ComputerLost, Unsupported } from '../resource/computer/driver.ts';
import type { Capabilities, Driver, Egress, WakeRequest, Woken, Fail } from '../resource/computer/driver.ts';
import { archive, unarchive } from './bwrap/archive.ts';
import type { Confined } from './bwrap/archive.ts';
import { awaken } from './bwrap/awake.ts';
import type { Awake, Ground, Log } from './bwrap/awake.ts';
import { BLOCK_UIDS } from './bwrap/block.ts';
import { openCgroups } from './bwrap/cgroup.ts';
import { repairDisk, untilDetached } from './bwrap/disk.ts';
import { openDisks } from './bwrap/disk-templates.ts';
import { imageDirectory, listImages } from './bwrap/images.ts';
import type { Identity } from './bwrap/launch.ts';
import { endProcess } from './leftover.ts';
import { findPlace, listPlaces, makePlace, placeOf, readRecord, removePlace, sweepPlaces } from './place.ts';
import type { Place } from './place.ts';
import type { Disk } from './bwrap/mounts.ts';
import { bwrapVersion, tryComputer } from './bwrap/probe.ts';
import { prepareRoot } from './bwrap/root.ts';
import type { Root } from './bwrap/root.ts';
import { oneAtATime } from '../resource/serial.ts';
import { uidSlots } from './bwrap/uids.ts';
import type { UidSlots } from './bwrap/uids.ts';
import { freshen, writeFixtures } from './bwrap/view.ts';
import { PERL } from './channel/relay.ts';

export type BwrapOptions = {
  /** As root it must be reachable by other uids: no parent of mode 0700. */
  computers_dir: string;
  /** One folder below `computers_dir`; this driver touches nothing of another. */
  installation: string;
  /** Host uids from base + 65536 up are the computers', when the server is root. */
  uid_base: number;
  fail: Fail;
  log: Log;
  /** The way out of computers; null = none has one. */
  egress: Egress | null;
  /** Monotonic, in milliseconds. */
  now: () => number;
  /** Where control groups are mounted; null bounds by resource limits even where groups could be written. */
  cgroup_root?: string | null;
  /** `counted`: new computers have no disk of their own even where they could. */
  disk?: 'counted';
};

const CGROUP_ROOT = '/sys/fs/cgroup';

/** What one driver keeps. */
type Keeper = {
  options: BwrapOptions;
  installation_dir: string;
  slots: UidSlots | null;
  live: Map<string, Awake>;
  /** Copies that are being made behind the wakes. */
  stocking: Set<Promise<void>>;
  ground: () => Promise<Ground>;
};

/** @throws RangeError for an installation that could name anything but one folder. */
export function bwrapDriver(options: BwrapOptions): Driver {
  const keeper = keeperOf(options);
  const serial = oneAtATime();
  let closed = false;
  const driver: Driver = {
    name: 'bwrap',
    async probe() {
      const trial = await tryComputer(driver, options.computers_dir);
      return trial.usable ? { usable: true, capabilities: await capabilities(keeper) } : trial;
    },
    async wake(request) {
      if (closed) throw new Error('the driver is closed');
      return await serial(request.id, () => wake(keeper, request));
    },
    snapshot: (id) => serial(id, () => snapshot(keeper, id)),
    destroy: (id) => serial(id, () => destroy(keeper, id)),
    quieten: (id) => serial(id, async () => quieten(keeper, await findPlace(keeper.installation_dir, id))),
    inventory: () => listPlaces(keeper.installation_dir),
    async close() {
      closed = true;
      await serial.idle();
      await Promise.all([...keeper.live.values()].map(({ computer }) => computer.hibernate()));
      await Promise.all(keeper.stocking);
    },
  };
  return driver;
}

function keeperOf(options: BwrapOptions): Keeper {
  const { computers_dir, installation, uid_base } = options;
  if (!/^[A-Za-z0-9_-]{1,64}$/.test(installation)) throw new RangeError('not an installation id');
  const as_root = process.getuid?.() === 0;
  let ground: Promise<Ground> | undefined;
  const keeper: Keeper = {
    options,
    installation_dir: join(computers_dir, installation),
    slots: as_root ? uidSlots(join(computers_dir, '.uids'), uid_base) : null,
    live: new Map(),
    stocking: new Set(),
    ground() {
      ground ??= prepare(keeper);
      ground.catch(() => (ground = undefined));
      return ground;
    },
  };
  return keeper;
}

/** Makes the folders, and finishes what a former process of this installation left undone. */
async function prepare(keeper: Keeper): Promise<Ground> {
  const { options, installation_dir, slots } = keeper;
  const { computers_dir, installation, cgroup_root = CGROUP_ROOT, fail, log, now, egress } = options;
  if (slots !== null) await expectMapped(options.uid_base);
  const version = await bwrapVersion();
  const fixtures_dir = join(installation_dir, '.view');
  for (const directory of [computers_dir, installation_dir, fixtures_dir]) {
    await mkdir(directory, { recursive: true });
    await chmod(directory, slots === null ? 0o700 : 0o711);
  }
  const fixtures = await writeFixtures(fixtures_dir, version);
  await sweepPlaces(installation_dir);
  await sweepSlots(keeper);
  const cgroups = cgroup_root === null ? null : await openCgroups(cgroup_root, installation);
  const { disks, reason } = await disksOf(keeper);
  await fail('sandbox.prepared');
  return { fixtures, cgroups, disks, counted_because: reason, egress, fail, log, now };
}

async function disksOf({ slots, options, installation_dir }: Keeper): ReturnType<typeof openDisks> {
  if (slots === null) return { disks: null, reason: 'that needs a server that runs as root' };
  if (options.disk === 'counted') return { disks: null, reason: 'so it was asked for' };
  return await openDisks(join(installation_dir, '.disks'), options.fail);
}

/** A server that is root of a user namespace may lack the uids that it would give to computers. */
async function expectMapped(uid_base: number): Promise<void> {
  const wanted = uid_base + BLOCK_UIDS;
  const lines = (await readFile('/proc/self/uid_map', 'utf8')).trim().split('\n');
  const mapped = lines.some((line) => {
    const [from = 0, , count = 0] = line.trim().split(/\s+/).map(Number);
    return wanted >= from && wanted < from + count;
  });
  if (!mapped)
    throw new Error(`uid ${wanted} does not exist here: set OVERWINTER_UID_BASE or run as a plain user`);
}

async function sweepSlots({ slots, installation_dir, options }: Keeper): Promise<void> {
  if (slots === null) return;
  const prefix = `${options.installation}/`;
  const own = (await slots.owners()).filter((owner) => owner.startsWith(prefix));
  for (const owner of own) {
    const place = placeOf(installation_dir, owner.slice(prefix.length));
    if (!(await exists(place.directory))) await slots.release(owner);
  }
}

async function wake(keeper: Keeper, request: WakeRequest): Promise<Woken> {
  const { options, installation_dir, live } = keeper;
  const began_ms = options.now();
  const ground = await keeper.ground();
  const [found] = await Promise.all([
    findPlace(installation_dir, request.id),
    expectSupported(keeper, ground, request),
    freshen(ground.fixtures),
  ]);
  const reference = { installation: options.installation };
  const awake = live.get(request.id);
  if (awake?.computer.alive() === true && awake.computer.generation === request.generation) {
    return { computer: awake.computer, reference, files: 'kept' };
  }
  // The directory comes before the slot: a slot without a directory is taken for free at the next start. And before any process.
  const is_new = (await mkdir(found.directory, { recursive: true, mode: 0o700 })) !== undefined;
  if (!is_new || awake) await quieten(keeper, found);
  const identity = await identityOf(keeper, found, request.image);
  const { place, files, disk } = await provide({ keeper, ground, place: found, identity, request });
  const root = await rootOf(keeper, place, request.image);
  await ground.fail('sandbox.root_prepared');
  const { generation, limits, network } = request;
  const woken = await awaken(ground, { place, identity, generation, limits, network, root, disk });
  if (files !== 'kept' && disk !== null) stockDisk(keeper, ground, limits.disk_bytes);
  live.set(request.id, woken);
  const forget = (): unknown => live.get(request.id) === woken && live.delete(request.id);
  woken.ended.then(forget, forget);
  options.log.debug({ computer: request.id, files, wake_ms: options.now() - began_ms }, 'computer awake');
  return { computer: woken.computer, reference, files };
}

/** Behind the wake, which it would slow. */
function stockDisk({ options, stocking }: Keeper, { disks }: Ground, bytes: number): void {
  if (disks === null) return;
  const failed = (error: unknown): void => options.log.debug({ error }, 'no disk lies ready');
  const stocked = disks.stock(bytes).catch(failed);
  stocking.add(stocked);
  void stocked.then(() => stocking.delete(stocked));
}

async function expectSupported(keeper: Keeper, ground: Ground, request: WakeRequest): Promise<void> {
  const { network, image } = request;
  const { egress } = keeper.options;
  if (image !== null) await expectImage(keeper, ground, image);
  if (network.mode === 'off') return;
  if (egress === null) throw new Unsupported('this server has no way out for computers: only network "off"');
  if (image === null && !(await exists(PERL)))
    throw new Unsupported(`a computer with a network needs ${PERL}: install perl-base`);
}

async function expectImage(keeper: Keeper, { cgroups }: Ground, image: string): Promise<void> {
  const { images, note } = await imagesOf(keeper, cgroups !== null);
  if (images.includes(image)) return;
  const there = images.length === 0 ? (note ?? 'none is installed') : `there is ${images.join(', ')}`;
  throw new Unsupported(`no base image ${JSON.stringify(image)}: ${there}`);
}

/** Processes of computers that share their uids are counted by nothing but control groups. */
async function imagesOf(
  { slots, options }: Keeper,
  has_groups: boolean,
): Promise<{ images: string[]; note: string | null }> {
  if (slots === null) return { images: [], note: 'Base images need a server that runs as root.' };
  if (!has_groups) return { images: [], note: 'Base images need writable control groups.' };
  return { images: await listImages(options.computers_dir, options.uid_base), note: null };
}

async function rootOf({ options }: Keeper, place: Place, image: string | null): Promise<Root | null> {
  if (image === null) return null;
  return await prepareRoot(place, imageDirectory(options.computers_dir, image));
}

/** Ends what runs for this computer, be it of this process or left by a former one. */
async function quieten({ live, options, ground }: Keeper, place: Place): Promise<void> {
  await live.get(place.id)?.computer.hibernate();
  const { cgroups } = await ground();
  await cgroups?.thaw(`${place.id}.`);
  const record = await readRecord(place);
  if (record !== null && record.process !== null) await endProcess(record.process);
  await cgroups?.remove(`${place.id}.`);
  await options.fail('sandbox.leftover_ended');
}

type Provision = {
  keeper: Keeper;
  ground: Ground;
  place: Place;
  identity: Identity;
  request: WakeRequest;
};

type Provided = { place: Place; disk: Disk | null; files: Woken['files'] };

/** Puts the wanted files in place. A directory counts only with its record, which the launch writes last. */
async function provide(provision: Provision): Promise<Provided> {
  const { keeper, ground, place, identity, request } = provision;
  const { from_generation, snapshot: open, limits } = request;
  const record = await readRecord(place);
  const found = record?.generation ?? 0;
  if (record !== null && (record.image ?? null) !== request.image)
    throw new Unsupported(`the computer was made from ${record.image ?? 'no image'}`);
  if (found > 0 && found >= from_generation && (await isUsable(provision))) {
    await makePlace(place, identity);
    return { place, files: 'kept', disk: diskOf(place, identity) };
  }
  // Before anything is removed: it may be missing.
  const content = open && (await open());
  await removePlace(keeper.installation_dir, place);
  const made = await makeAnew(provision);
  const disk = diskOf(made, identity);
  const fresh = disk && { ...disk, fresh: true };
  if (content === null) return { place: made, files: 'empty', disk: fresh };
  const { fixtures } = ground;
  await unarchive({ place: made, identity, fixtures, disk: fresh }, content, limits.disk_bytes);
  await ground.fail('sandbox.restored');
  return { place: made, files: 'restored', disk };
}

/** Whether its files can be kept; not those on a disk that no repair helps, where a snapshot can take their place. */
async function isUsable({ keeper, ground, place, request }: Provision): Promise<boolean> {
  const fault = place.disk && (await repairDisk(place.disk.file, ground.fail));
  if (fault === null) return true;
  if (request.snapshot === null) throw new ComputerLost(fault);
  keeper.options.log.warn(
    { computer: place.id, fault },
    'a disk is lost: its computer has its last snapshot',
  );
  return false;
}

async function makeAnew({ keeper, ground, place: { id }, identity, request }: Provision): Promise<Place> {
  const place = placeOf(keeper.installation_dir, id, ground.disks !== null);
  await makePlace(place, identity);
  if (place.disk !== null) await ground.disks?.make(place.disk.file, request.limits.disk_bytes);
  await ground.fail('sandbox.place_made');
  return place;
}

function diskOf({ id, disk }: Place, identity: Identity): Disk | null {
  if (disk === null || identity.kind === 'user') return null;
  return { image: disk.file, directory: disk.directory, id, uid: identity.uid, fresh: false };
}

async function snapshot(keeper: Keeper, id: string): Promise<AsyncIterable<Uint8Array> | null> {
  const { fixtures, fail } = await keeper.ground();
  const place = await findPlace(keeper.installation_dir, id);
  const awake = keeper.live.get(id);
  if (awake?.computer.alive() !== true) await quieten(keeper, place);
  const record = await readRecord(place);
  if (record === null) return null;
  const identity = await identityOf(keeper, place, record.image ?? null);
  const confined = { place, identity, fixtures, disk: diskOf(place, identity) };
  const leftOut = (): void =>
    keeper.options.log.warn({ computer: id }, 'files whose path is too long are not in the snapshot');
  if (awake?.computer.alive() === true) return archiveAwake(awake, confined, leftOut);
  const fault = place.disk && (await repairDisk(place.disk.file, fail));
  if (fault !== null) throw new ComputerLost(fault);
  return archive(confined, { awake: false, leftOut });
}

/** The computer stands still from the first chunk that is asked for to the last. */
async function* archiveAwake(
  awake: Awake,
  confined: Confined,
  leftOut: () => void,
): AsyncGenerator<Uint8Array, void> {
  const letGo = await awake.hold();
  try {
    yield* archive(confined, { awake: true, leftOut });
  } finally {
    await letGo();
  }
}

async function destroy(keeper: Keeper, id: string): Promise<void> {
  const place = await findPlace(keeper.installation_dir, id);
  await quieten(keeper, place);
  if (place.disk !== null) await untilDetached(place.disk.file);
  await removePlace(keeper.installation_dir, place);
  await keeper.options.fail('sandbox.files_removed');
  await keeper.slots?.release(`${keeper.options.installation}/${id}`);
  await keeper.options.fail('sandbox.destroyed');
}

async function identityOf(
  { slots, options }: Keeper,
  { id }: Place,
  image: string | null,
): Promise<Identity> {
  if (slots === null) return { kind: 'user' };
  if (image !== null) return { kind: 'root', uid: options.uid_base, block: true };
  return { kind: 'root', uid: await slots.claim(`${options.installation}/${id}`) };
}

async function capabilities(keeper: Keeper): Promise<Capabilities> {
  const { cgroups, disks, counted_because, fixtures } = await keeper.ground();
  const as_root = keeper.slots !== null;
  const perl = await exists(PERL);
  const notes = [
    'The kernel is shared with the host.',
    'What an exec started is known by an inherited limit and dies with its time limit; a program that lowers that limit itself escapes it until the computer sleeps.',
  ];
  const { images, note } = await imagesOf(keeper, cgroups !== null);
  if (note !== null) notes.push(note);
  if (counted_because !== null)
    notes.push(`Disk use is counted every second, not held by a disk of its own: ${counted_because}.`);
  if (!perl) notes.push(`Without ${PERL} computers have no network and no connections to their ports.`);
  if (cgroups === null) {
    notes.push(
      'No writable control groups: memory is bounded per process; memfd, System V shared memory, socket buffers and CPU time are not bounded.',
    );
  }
  if (!as_root) notes.push("All computers run as the server's user, each in namespaces of its own.");
  if (fixtures.version[0] === 0 && fixtures.version[1] < 7) {
    notes.push('This bubblewrap cannot bound /tmp; 0.7 or later can.');
  }
  return {
    isolation: 'namespaces',
    limits: cgroups?.version ?? 'rlimit',
    disk: disks === null ? 'counted' : 'held',
    identity: as_root ? 'root' : 'user',
    egress: keeper.options.egress !== null && perl,
    terminals: await exists('/usr/bin/script'),
    images,
    notes,
  };
}

async function exists(path: string): Promise<boolean> {
  return await stat(path).then(
    () => true,
    () => false,
  );
}
