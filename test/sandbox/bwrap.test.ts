/** What is particular to the bwrap driver: death of the server, crashes between steps, hostile archives and reports. */

import { spawn, spawnSync } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { zstdCompressSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Driver, WakeRequest } from '../../src/resource/computer/driver.ts';
import { ComputerLost } from '../../src/resource/computer/driver.ts';
import { openChannel } from '../../src/sandbox/channel/channel.ts';
import { start } from '../../src/sandbox/launcher.ts';
import { identify } from '../../src/sandbox/leftover.ts';
import { tryComputer } from '../../src/sandbox/bwrap/probe.ts';
import { bytesOf, freshId, runScript, until } from '../conformance/computers.ts';
import { LIMITS } from '../conformance/driver.ts';
import { insideOf, makeDriver, makeGround, removeGround } from './grounds.ts';

const ground = makeGround();
const folder = join(ground.options.computers_dir, ground.installation);
let driver: Driver;
beforeAll(() => {
  driver = makeDriver(ground);
});
afterAll(async () => {
  await driver.close();
  removeGround(ground);
});

function request(id: string, more: Partial<WakeRequest> = {}): WakeRequest {
  return {
    id,
    reference: null,
    from_generation: 0,
    generation: 1,
    snapshot: null,
    network: { mode: 'off' } as const,
    image: null,
    limits: LIMITS,
    ...more,
  };
}

function pidOf(id: string): number {
  const record = JSON.parse(readFileSync(join(folder, id, 'computer.json'), 'utf8')) as {
    process: { pid: number };
  };
  return record.process.pid;
}

describe('the death of the server', () => {
  test('ends its computers, and the next wake has the files', async () => {
    const id = freshId();
    const program = `
      import { bwrapDriver } from ${JSON.stringify(new URL('../../src/sandbox/bwrap.ts', import.meta.url).href)};
      const options = JSON.parse(process.argv[1]);
      const quiet = { warn() {}, debug() {} };
      const driver = bwrapDriver({ ...options, fail() {}, log: quiet, now: () => performance.now() });
      const { computer } = await driver.wake(JSON.parse(process.argv[2]));
      computer.exec({ script: 'echo kept > file; setsid sleep 600 & sleep 600', timeout_ms: 600000 });
      setInterval(() => {}, 1000);`;
    const { computers_dir, installation, uid_base } = ground.options;
    const argv = [JSON.stringify({ computers_dir, installation, uid_base }), JSON.stringify(request(id))];
    const server = spawn(process.execPath, ['--input-type=module', '-e', program, ...argv], {
      stdio: 'ignore',
    });
    await until(async () => seen(`${id}/computer.json`, () => `${insideOf(ground, id)}/workspace/file`));
    const pid = pidOf(id);
    expect(identify(pid)).not.toBeNull();
    server.kill('SIGKILL');
    await until(async () => identify(pid) === null);
    const again = await driver.wake(request(id, { from_generation: 1, generation: 2 }));
    expect((await runScript(again.computer, 'cat file')).stdout).toBe('kept\n');
  });
});

describe('a crash after any effect', () => {
  const points = [
    'limits_set',
    'spawned',
    'recorded',
    'place_made',
    'restored',
    'files_removed',
    'destroyed',
  ];
  test.each(points)('sandbox.%s: the same can be asked again', async (point) => {
    const id = freshId();
    const crashing = makeDriver({
      ...ground,
      options: { ...ground.options, fail: failingOnce(`sandbox.${point}`) },
    });
    const snapshot = async (): Promise<AsyncIterable<Uint8Array>> =>
      chunksOf(archiveOf((directory) => plant(directory)));
    const wanted = request(id, { from_generation: 3, generation: 4, snapshot });
    await crashing.wake(wanted).catch(() => {});
    const { computer } = await crashing.wake(wanted);
    expect((await runScript(computer, 'cat planted')).stdout).toBe('planted\n');
    await crashing.destroy(id, null).catch(() => {});
    await crashing.destroy(id, null);
    expect(existsSync(join(folder, id))).toBe(false);
    await crashing.close();
  });
});

describe('an archive that an agent made', () => {
  test('cannot write outside', async () => {
    const outside = join(ground.directory, 'outside');
    mkdirSync(outside, { mode: 0o777 });
    const bytes = archiveOf((directory) => {
      symlinkSync(outside, join(directory, 'workspace', 'way'));
    });
    const evil = archiveOf((directory) => {
      mkdirSync(join(directory, 'workspace', 'way'));
      writeFileSync(join(directory, 'workspace', 'way', 'evil'), 'evil');
    });
    for (const content of [bytes, evil]) {
      const id = freshId();
      const snapshot = async (): Promise<AsyncIterable<Uint8Array>> => chunksOf(content);
      const woken = await driver.wake(request(id, { from_generation: 1, generation: 2, snapshot }));
      await runScript(woken.computer, 'echo evil > way/evil');
    }
    expect(readdirSync(outside)).toEqual([]);
  });

  test('that is larger than the disk is refused', async () => {
    const bytes = archiveOf((directory) => {
      const head = spawnSync('head', ['-c', '700M', '/dev/zero'], { maxBuffer: 2 ** 30 });
      writeFileSync(join(directory, 'workspace', 'large'), head.stdout);
    });
    expect(bytes.length).toBeLessThan(1_000_000);
    const snapshot = async (): Promise<AsyncIterable<Uint8Array>> => chunksOf(bytes);
    const wanted = request(freshId(), { from_generation: 1, generation: 2, snapshot });
    await expect(driver.wake(wanted)).rejects.toThrow(/more than/);
  });
});

describe('paths that are too long to be unpacked', () => {
  const DEEP = `perl -e 'for (1 .. 600) { mkdir("d" x 10) && chdir("d" x 10) or die } open(my $f, ">", "end")'`;

  test('are not in the snapshot, the rest is, and the log says so', async () => {
    const [id, copy] = [freshId(), freshId()];
    const { computer } = await driver.wake(request(id));
    expect((await runScript(computer, `echo kept > file; ${DEEP}`)).exit_code).toBe(0);
    const bytes = await bytesOf(await driver.snapshot(id, {}));
    expect(ground.logged.filter((line) => /path is too long/.test(line))).toHaveLength(1);
    const snapshot = async (): Promise<AsyncIterable<Uint8Array>> => chunksOf(bytes);
    const woken = await driver.wake(request(copy, { from_generation: 1, generation: 2, snapshot }));
    const depth = 'cat file; find . -type d | wc -l';
    expect((await runScript(woken.computer, depth)).stdout).toMatch(/^kept\n3\d\d\n$/);
    await driver.destroy(id, null);
    await driver.destroy(copy, null);
    expect(existsSync(join(folder, id))).toBe(false);
  });

  test('are left out of a snapshot of an earlier version too', async () => {
    const bytes = archiveOf((directory) => {
      plant(directory);
      spawnSync('sh', ['-c', DEEP], { cwd: join(directory, 'workspace') });
    });
    const snapshot = async (): Promise<AsyncIterable<Uint8Array>> => chunksOf(bytes);
    const wanted = request(freshId(), { from_generation: 1, generation: 2, snapshot });
    const { computer } = await driver.wake(wanted);
    expect((await runScript(computer, 'cat planted')).stdout).toBe('planted\n');
    await driver.destroy(wanted.id, null);
  });
});

describe('reports', () => {
  test.each(['yes exited 1 0', 'yes junk', 'head -c 1000000 /dev/zero; sleep 60'])(
    'a computer that floods them with `%s` is ended',
    async (flood) => {
      const program = await start(['setsid', 'sh', '-c', flood], ['pipe', 'pipe', 'ignore']);
      let killed = false;
      const channel = openChannel({
        program,
        directory: { outside: '/nonexistent', inside: '/nonexistent' },
        kill: () => {
          if (!killed) process.kill(-program.pid, 'SIGKILL');
          killed = true;
        },
        held: () => false,
        memory_kills: () => null,
        translate: (text) => text,
        fail: () => {},
      });
      await expect(channel.ready).rejects.toThrow(ComputerLost);
      expect(killed).toBe(true);
    },
  );
});

describe('places', () => {
  test('only the computer and the server can reach its files', async () => {
    const id = freshId();
    await driver.wake(request(id));
    expect(statSync(join(folder, id)).mode & 0o007).toBe(0);
    const { mode, uid } = statSync(`${insideOf(ground, id)}/workspace`);
    expect(mode & 0o077).toBe(0);
    if (process.getuid?.() === 0) expect(uid).toBeGreaterThan(1_700_000_000);
    await driver.destroy(id, null);
  });

  test('another installation and an odd name are refused', () => {
    for (const installation of ['', '..', 'a/b', '.uids']) {
      expect(() => makeDriver({ ...ground, options: { ...ground.options, installation } })).toThrow(
        RangeError,
      );
    }
  });
});

describe('probe', () => {
  const failing = (message: string): Driver => ({
    ...driver,
    wake: async () => {
      throw new Error(message);
    },
    destroy: async () => {},
  });

  test.each([
    ['bwrap ended with 127: cannot start bwrap: No such file or directory', 'apt-get install bubblewrap'],
    ['bwrap: No permissions to create new namespace', 'ser namespaces are'],
    ['bwrap: setting up uid map: Permission denied', 'ser namespaces are'],
    ["EACCES: permission denied, mkdir '/var/lib/x'", 'OVERWINTER_COMPUTERS_DIR'],
    ['something else', 'something else'],
  ])('%s becomes one sentence with the remedy', async (message, remedy) => {
    const tried = await tryComputer(failing(message), '/var/lib/x');
    expect(tried).toMatchObject({ usable: false, reason: expect.stringContaining(remedy) });
  });

  test('leaves nothing', async () => {
    expect(await driver.probe()).toMatchObject({ usable: true });
    expect(readdirSync(folder).filter((name) => name.startsWith('probe'))).toEqual([]);
  });
});

/** What cannot be named before the first exists. */
function seen(first: string, then: () => string): boolean {
  return existsSync(join(folder, first)) && existsSync(then());
}

function failingOnce(point: string): (name: string) => void {
  let armed = true;
  return (name) => {
    if (name !== point || !armed) return;
    armed = false;
    throw new Error(`crash at ${point}`);
  };
}

function plant(directory: string): void {
  writeFileSync(join(directory, 'workspace', 'planted'), 'planted\n');
}

/** A snapshot with what `fill` puts into `workspace/` and `home/`. */
function archiveOf(fill: (directory: string) => void): Buffer {
  const directory = join(ground.directory, `archive-${freshId()}`);
  for (const name of ['workspace', 'home']) mkdirSync(join(directory, name), { recursive: true });
  fill(directory);
  const { stdout } = spawnSync('tar', ['-C', directory, '-cf', '-', 'workspace', 'home'], {
    maxBuffer: 2 ** 30,
  });
  return zstdCompressSync(stdout);
}

async function* chunksOf(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes;
}
