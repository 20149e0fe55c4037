/**
 * A driver without isolation, for tests of the engine: plain processes in a directory.
 * Invariant: everything it starts carries a mark in its environment, by which a later life finds and ends it.
 *
 * `/workspace` and `/home/agent` do not exist: they are replaced where they stand as whole path prefixes in a script,
 * its directory and its variables. Paths that a script puts together, standard input and output are not replaced.
 * Nothing is bounded: not memory, processes, CPU or disk.
 */

import { readFile, readdir } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { join } from 'node:path';
import type { Readable, Writable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { constants, createZstdCompress, createZstdDecompress } from 'node:zlib';
import type { Computer, Driver, WakeRequest, Woken, Fail } from '../resource/computer/driver.ts';
import { openChannel } from './channel/channel.ts';
import { loopCommand } from './channel/loop.ts';
import { writeRelay } from './channel/relay.ts';
import { uptimeOf, usageOf } from './members.ts';
import {
  listPlaces,
  makeControl,
  makePlace,
  placeOf,
  readRecord,
  removePlace,
  writeRecord,
} from './place.ts';
import type { Place } from './place.ts';
import { start } from './launcher.ts';
import { collect, succeeded, unlessReaderClosed } from './run.ts';
import { oneAtATime } from '../resource/serial.ts';

export type ProcessOptions = {
  computers_dir: string;
  /** One folder below `computers_dir`. */
  installation: string;
  fail: Fail;
};

type Keeper = { options: ProcessOptions; installation_dir: string; live: Map<string, Awake> };
type Awake = { computer: Computer; ended: Promise<void> };

/** Where they begin a path, not within another. */
const WORKSPACE_PATH = /(?<![\w./-])\/workspace(?![\w.-])/g;
const HOME_PATH = /(?<![\w./-])\/home\/agent(?![\w.-])/g;

const IDENTITY = { kind: 'user' } as const;
const ARCHIVE_MS_MAX = 600_000;
/** tar's exit code when files of an awake computer changed while it read. */
const CHANGED_CODE = 1;
const END_MS_MAX = 10_000;
const POLL_MS = 5;

export function processDriver(options: ProcessOptions): Driver {
  const installation_dir = join(options.computers_dir, options.installation);
  const keeper: Keeper = { options, installation_dir, live: new Map() };
  const serial = oneAtATime();
  return {
    name: 'process',
    probe: async () => ({
      usable: true,
      capabilities: {
        isolation: 'none',
        limits: 'none',
        disk: 'none',
        identity: 'none',
        ...{ egress: false, terminals: true, images: [] },
        notes: ['No isolation: scripts run as the server and see all that it sees. For tests only.'],
      },
    }),
    wake: (request) => serial(request.id, () => wake(keeper, request)),
    snapshot: (id) => serial(id, () => snapshot(keeper, id)),
    destroy: (id) => serial(id, () => destroy(keeper, id)),
    quieten: (id) => serial(id, () => quieten(keeper, placeOf(installation_dir, id))),
    inventory: () => listPlaces(installation_dir),
    async close() {
      await serial.idle();
      await Promise.all([...keeper.live.values()].map(({ computer }) => computer.hibernate()));
    },
  };
}

async function wake(keeper: Keeper, request: WakeRequest): Promise<Woken> {
  const { installation_dir, live } = keeper;
  const { id, generation } = request;
  const place = placeOf(installation_dir, id);
  const reference = { installation: keeper.options.installation };
  const awake = live.get(id);
  if (awake?.computer.alive() === true && awake.computer.generation === generation) {
    return { computer: awake.computer, reference, files: 'kept' };
  }
  await quieten(keeper, place);
  const files = await provide(keeper, place, request);
  const woken = await awaken(keeper, place, generation);
  live.set(id, woken);
  void woken.ended.then(() => live.get(id) === woken && live.delete(id));
  return { computer: woken.computer, reference, files };
}

async function quieten({ live }: Keeper, place: Place): Promise<void> {
  await live.get(place.id)?.computer.hibernate();
  await endMarked(mark(place.directory));
}

async function provide(keeper: Keeper, place: Place, request: WakeRequest): Promise<Woken['files']> {
  const { from_generation, snapshot: open } = request;
  const found = (await readRecord(place))?.generation ?? 0;
  if (found > 0 && found >= from_generation) return 'kept';
  await removePlace(keeper.installation_dir, place);
  await makePlace(place, IDENTITY);
  if (open === null) return 'empty';
  const program = await start(
    ['tar', '--extract', '--file=-', '--no-same-owner'],
    ['pipe', 'ignore', 'pipe'],
    { cwd: place.directory },
  );
  const ended = succeeded(program, collect(program, 2), ARCHIVE_MS_MAX);
  ended.catch(() => {});
  await pipeline(await open(), createZstdDecompress(), program.pipes[0] as Writable).catch(
    unlessReaderClosed,
  );
  await ended;
  await keeper.options.fail('sandbox.restored');
  return 'restored';
}

async function awaken(keeper: Keeper, place: Place, generation: number): Promise<Awake> {
  const control = await makeControl(place, IDENTITY);
  await writeRecord(place, { generation, process: null });
  await keeper.options.fail('sandbox.recorded');
  await writeRelay(control);
  const loop = loopCommand({ directory: control, processes_max: null, before: null });
  const command = ['env', ...environment(place, control), ...loop];
  const program = await start(command, ['pipe', 'pipe', 'ignore']);
  let ending = false;
  const kill = (): void => {
    ending = true;
    program.kill();
  };
  const channel = openChannel({
    ...{ program, kill },
    held: () => false,
    memory_kills: () => null,
    directory: { outside: control, inside: control },
    translate: (text) => translated(text, place),
    fail: keeper.options.fail,
  });
  const ended = program.exited.then(() => endMarked(mark(control))).then(() => channel.close());
  await channel.ready;
  const hibernate = async (): Promise<void> => {
    kill();
    await ended;
    await keeper.options.fail('sandbox.hibernated');
  };
  const alive = (): boolean => !ending && program.end() === null;
  const computer: Computer = {
    ...{ generation, alive, hibernate },
    ...{ exec: channel.exec, pty: channel.pty, connect: channel.connect },
    async usage() {
      const used = await usageOf((await marked(mark(control))).map(String));
      return { ...used, disk_bytes: null, uptime_ms: await uptimeOf(program.pid) };
    },
  };
  return { ended, computer };
}

function environment(place: Place, control: string): string[] {
  return [`HOME=${place.home}`, 'USER=agent', 'SHELL=/bin/bash', 'LANG=C.UTF-8', 'TERM=dumb', mark(control)];
}

/** An awakening's control directory lies in the computer's: the mark of the one begins with that of the other. */
function mark(directory: string): string {
  return `OVERWINTER_COMPUTER=${directory}/`;
}

function translated(text: string, { workspace, home }: Place): string {
  return text.replaceAll(WORKSPACE_PATH, () => workspace).replaceAll(HOME_PATH, () => home);
}

async function snapshot(keeper: Keeper, id: string): Promise<AsyncIterable<Uint8Array> | null> {
  const place = placeOf(keeper.installation_dir, id);
  return (await readRecord(place)) === null ? null : archive(place);
}

async function* archive({ directory }: Place): AsyncGenerator<Uint8Array, void> {
  const program = await start(
    ['tar', '--create', '--file=-', 'workspace', 'home'],
    ['ignore', 'pipe', 'pipe'],
    {
      cwd: directory,
    },
  );
  const ended = succeeded(program, collect(program, 2), ARCHIVE_MS_MAX, [0, CHANGED_CODE]);
  ended.catch(() => {});
  const compress = createZstdCompress({ params: { [constants.ZSTD_c_compressionLevel]: 3 } });
  const copied = pipeline(program.pipes[1] as Readable, compress);
  copied.catch(() => {});
  for await (const chunk of compress) yield chunk as Uint8Array;
  await Promise.all([copied, ended]);
}

async function destroy(keeper: Keeper, id: string): Promise<void> {
  const place = placeOf(keeper.installation_dir, id);
  await quieten(keeper, place);
  await removePlace(keeper.installation_dir, place);
  await keeper.options.fail('sandbox.destroyed');
}

/** Kills until none is left: one that is just being made inherits the mark and is found in the next round. */
async function endMarked(wanted: string): Promise<void> {
  for (let waited_ms = 0; ; waited_ms += POLL_MS) {
    const found = await marked(wanted);
    if (found.length === 0) return;
    if (waited_ms > END_MS_MAX) throw new Error(`processes with ${wanted} do not die`);
    for (const pid of found) killQuietly(pid);
    await delay(POLL_MS);
  }
}

async function marked(wanted: string): Promise<number[]> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name)).map(Number);
  const hits = await Promise.all(
    pids.map(async (pid) => {
      const environ = await readFile(`/proc/${pid}/environ`, 'utf8').catch(() => '');
      return environ.split('\0').some((each) => each.startsWith(wanted));
    }),
  );
  return pids.filter((_, index) => hits[index]);
}

function killQuietly(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // It ended by itself.
  }
}
