/** Disks that are held to their size: they fill, last, are repaired and go, and leave nothing on the host. */

import { spawnSync } from 'node:child_process';
import {
  copyFileSync,
  existsSync,
  readFileSync,
  readdirSync,
  renameSync,
  statSync,
  truncateSync,
} from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Unsupported } from '../../../src/resource/computer/driver.ts';
import type { Capabilities, Computer, Driver, WakeRequest } from '../../../src/resource/computer/driver.ts';
import { bytesOf, freshId, runScript, until } from '../../conformance/computers.ts';
import { LIMITS } from '../../conformance/driver.ts';
import { as_root, makeDriver, makeGround, removeGround } from '../grounds.ts';

describe.runIf(as_root)('a computer with a disk of its own', () => {
  const ground = makeGround();
  const folder = join(ground.options.computers_dir, ground.installation);
  let driver: Driver;
  let capabilities: Capabilities;
  beforeAll(async () => {
    driver = makeDriver(ground);
    const probed = await driver.probe();
    if (!probed.usable) throw new Error(probed.reason);
    ({ capabilities } = probed);
    if (capabilities.disk !== 'held') console.log(`not held here: ${capabilities.notes.join(' ')}`);
  });
  afterAll(async () => {
    await driver.close();
    removeGround(ground);
    expect(attachments(ground.directory)).toEqual([]);
  });

  const requestOf = (id: string, generation: number, more: Partial<WakeRequest> = {}): WakeRequest => ({
    ...{ id, reference: null, from_generation: generation - 1, generation, snapshot: null },
    ...{ network: { mode: 'off' }, image: null, limits: LIMITS, ...more },
  });
  const wake = async (id: string, generation = 1, more: Partial<WakeRequest> = {}): Promise<Computer> =>
    (await driver.wake(requestOf(id, generation, more))).computer;
  const held = (): boolean => capabilities.disk === 'held';
  const fileOf = (id: string): string => join(folder, id, 'disk.img');

  test('the driver says whether it is held, and if not why', () => {
    const notes = capabilities.notes.filter((note) => /counted/.test(note));
    expect(notes).toHaveLength(held() ? 0 : 1);
  });

  test('one that is full leaves its neighbour what it has', async ({ skip }) => {
    if (!held()) skip(capabilities.notes.join(' '));
    const [full, other] = [freshId(), freshId()];
    const [computer, neighbour] = [await wake(full), await wake(other)];
    const filled = await runScript(computer, 'head -c 1G /dev/zero >large; df --output=avail . | tail -n 1');
    expect(filled.stderr).toMatch(/No space left|File size limit|File too large/);
    const many = 'head -c 200M /dev/zero >more; df --output=avail . | tail -n 1';
    expect((await runScript(computer, many)).stdout.trim()).toBe('0');
    expect((await runScript(neighbour, 'head -c 100M /dev/urandom >mine && stat -c %s mine')).stdout).toBe(
      '104857600\n',
    );
    expect(statSync(fileOf(full)).blocks * 512).toBeLessThan(LIMITS.disk_bytes * 1.05);
    expect(computer.alive()).toBe(true);
    await driver.destroy(full, null);
    await driver.destroy(other, null);
  });

  test('it has the room that was asked for', async ({ skip }) => {
    if (!held()) skip(capabilities.notes.join(' '));
    for (const disk_bytes of [2 ** 29, 5 * 2 ** 30, 50 * 2 ** 30]) {
      const id = freshId();
      const computer = await wake(id, 1, { limits: { ...LIMITS, disk_bytes } });
      const { stdout } = await runScript(computer, 'df --output=avail --block-size=1 . | tail -n 1');
      expect(Number(stdout) / disk_bytes).toBeGreaterThan(0.99);
      expect(Number(stdout) / disk_bytes).toBeLessThan(1.01);
      expect((await computer.usage()).disk_bytes).toBeLessThan(1_000_000);
      await driver.destroy(id, null);
    }
  });

  test('of a size that is asked for twice the next lies ready, and goes at the next start with what a kill left', async ({
    skip,
  }) => {
    if (!held()) skip(capabilities.notes.join(' '));
    const limits = { ...LIMITS, disk_bytes: 3 * 2 ** 28 };
    const spare = join(folder, '.disks', `${limits.disk_bytes}.img.spare`);
    const ids = [freshId(), freshId(), freshId(), freshId()];
    await wake(ids[0]!, 1, { limits });
    await wake(ids[1]!, 1, { limits });
    await until(async () => existsSync(spare));
    const { ino } = statSync(spare);
    const computer = await wake(ids[2]!, 1, { limits });
    expect(statSync(fileOf(ids[2]!)).ino).toBe(ino);
    expect((await runScript(computer, 'echo mine >mine && ls')).stdout).toBe('mine\n');
    await until(async () => existsSync(spare));
    const part = join(folder, '.disks', '.content-left');
    copyFileSync(spare, part);
    const next = makeDriver(ground);
    await next.wake(requestOf(ids[3]!, 1, { limits }));
    expect([existsSync(spare), existsSync(part)]).toEqual([false, false]);
    await next.destroy(ids[3]!, null);
    await next.close();
    for (const id of ids.slice(0, 3)) await driver.destroy(id, null);
  });

  test('twenty times stopped and started at once, it keeps its files, and its file one device', async () => {
    const id = freshId();
    for (let generation = 1; generation <= 20; generation += 1) {
      const computer = await wake(id, generation);
      expect(attachments(`${id}/`).length).toBeLessThanOrEqual(1);
      const script = `echo ${generation} >>lines; wc -l <lines`;
      expect((await runScript(computer, script)).stdout).toBe(`${generation}\n`);
      await computer.hibernate();
    }
    await expectUndamaged(id);
    await driver.destroy(id, null);
  }, 60_000);

  test('it is stopped, started and removed while it is read', async () => {
    const id = freshId();
    const computer = await wake(id);
    await runScript(computer, 'head -c 50M /dev/urandom >large; echo kept >file');
    const content = (await driver.snapshot(id, {})) as AsyncIterable<Uint8Array>;
    const chunks = content[Symbol.asyncIterator]();
    await chunks.next();
    await computer.hibernate();
    const again = await wake(id, 2);
    expect((await runScript(again, 'cat file; echo more >>file')).stdout).toBe('kept\n');
    expect(attachments(`${id}/`).length).toBeLessThanOrEqual(1);
    for (let next = await chunks.next(); next.done !== true;) next = await chunks.next();
    await again.hibernate();
    expect((await runScript(await wake(id, 3), 'cat file')).stdout).toBe('kept\nmore\n');
    await driver.destroy(id, null);
  });

  test('snapshots, awake and asleep, are restored to a disk of their own', async () => {
    const id = freshId();
    const computer = await wake(id);
    await runScript(computer, 'mkdir a; echo one >a/file; ln a/file hard; truncate -s 100M sparse');
    const awake = await bytesOf(await driver.snapshot(id, {}));
    await computer.hibernate();
    const asleep = await bytesOf(await driver.snapshot(id, {}));
    for (const bytes of [awake, asleep]) {
      const copy = freshId();
      const woken = await wake(copy, 2, { snapshot: async () => chunksOf(bytes) });
      expect((await runScript(woken, 'cat a/file; stat -c %h hard; stat -c %s sparse')).stdout).toBe(
        'one\n2\n104857600\n',
      );
      expect(existsSync(fileOf(copy))).toBe(held());
      await driver.destroy(copy, null);
    }
    await driver.destroy(id, null);
  });

  test('files that do not fit are refused, and nothing is left after the removal', async () => {
    const id = freshId();
    const large = await wake(id, 1, { limits: { ...LIMITS, disk_bytes: 2 ** 29 } });
    await runScript(large, 'for i in 1 2 3; do head -c 100M /dev/urandom >$i; done');
    const bytes = await bytesOf(await driver.snapshot(id, {}));
    const copy = freshId();
    const wanted = requestOf(copy, 2, { snapshot: async () => chunksOf(bytes) });
    if (held()) await expect(driver.wake(wanted)).rejects.toThrow(Unsupported);
    if (held()) await expect(driver.wake(wanted)).rejects.toThrow(/more than the computer's disk of 256 MiB/);
    for (const each of [id, copy]) await driver.destroy(each, null);
    expect(existsSync(join(folder, copy))).toBe(false);
  });

  test('removed, it leaves no mount, no device and no byte', async () => {
    const id = freshId();
    await runScript(await wake(id), 'sleep 60 & echo kept >file');
    expect(readFileSync('/proc/mounts', 'utf8')).not.toContain(id);
    expect(attachments(`${id}/`)).toHaveLength(held() ? 1 : 0);
    await driver.destroy(id, null);
    expect(attachments(id)).toEqual([]);
    expect(readdirSync(folder).filter((name) => name.includes(id))).toEqual([]);
  });

  test('after a crash of the host it is repaired before it is used', async ({ skip }) => {
    if (!held()) skip(capabilities.notes.join(' '));
    const id = freshId();
    const computer = await wake(id);
    await runScript(computer, 'echo kept >file; sync');
    copyFileSync(fileOf(id), join(ground.directory, 'crashed'));
    await computer.hibernate();
    await until(async () => attachments(`${id}/`).length === 0);
    renameSync(join(ground.directory, 'crashed'), fileOf(id));
    expect(stateOf(fileOf(id))).toBe(0);
    expect((await runScript(await wake(id, 2), 'cat file; echo more >>file')).stdout).toBe('kept\n');
    await driver.destroy(id, null);
  });

  test('where no repair helps, the snapshot takes its place, and without one it is left as it is', async ({
    skip,
  }) => {
    if (!held()) skip(capabilities.notes.join(' '));
    const id = freshId();
    const computer = await wake(id);
    await runScript(computer, 'echo saved >file');
    const bytes = await bytesOf(await driver.snapshot(id, {}));
    await runScript(computer, 'echo later >file');
    await computer.hibernate();
    await until(async () => attachments(`${id}/`).length === 0);
    const { size } = statSync(fileOf(id));
    truncateSync(fileOf(id), 0);
    truncateSync(fileOf(id), size);
    const ruin = readFileSync(fileOf(id)).subarray(0, 4096);
    const { message } = (await wake(id, 2).catch((error: unknown) => error)) as Error;
    expect(message).toMatch(/^the computer's disk cannot be repaired: e2fsck ended with 8/);
    expect(message).not.toContain(folder);
    await expect(driver.snapshot(id, {})).rejects.toThrow('cannot be repaired');
    expect(readFileSync(fileOf(id)).subarray(0, 4096)).toEqual(ruin);
    const missing = { snapshot: () => Promise.reject(new Error('the snapshot is missing')) };
    await expect(wake(id, 2, missing)).rejects.toThrow('is missing');
    expect(statSync(fileOf(id)).size).toBe(size);
    const wanted = requestOf(id, 2, { snapshot: async () => chunksOf(bytes) });
    const woken = await driver.wake(wanted);
    expect(woken.files).toBe('restored');
    expect((await runScript(woken.computer, 'cat file')).stdout).toBe('saved\n');
    expect(ground.logged.filter((line) => line.includes('a disk is lost') && line.includes(id))).toHaveLength(
      2,
    );
    await driver.destroy(id, null);
  });

  test('a repair that could not be made costs no files, although there is a snapshot', async ({ skip }) => {
    if (!held()) skip(capabilities.notes.join(' '));
    const id = freshId();
    const computer = await wake(id);
    await runScript(computer, 'echo saved >file');
    const bytes = await bytesOf(await driver.snapshot(id, {}));
    await runScript(computer, 'echo later >file');
    await computer.hibernate();
    await until(async () => attachments(`${id}/`).length === 0);
    const debugfs = (request: string): unknown => spawnSync('debugfs', ['-w', '-R', request, fileOf(id)]);
    debugfs('ssv state 0');
    expect(stateOf(fileOf(id))).toBe(0);
    copyFileSync(fileOf(id), join(ground.directory, 'unclean'));
    // Of a later make, as e2fsck of an earlier one sees it.
    debugfs('feature FEATURE_I31');
    const snapshot = async (): Promise<AsyncIterable<Uint8Array>> => chunksOf(bytes);
    await expect(wake(id, 2, { snapshot })).rejects.toThrow('cannot be repaired');
    renameSync(join(ground.directory, 'unclean'), fileOf(id));
    const again = await wake(id, 3, { from_generation: 1, snapshot });
    expect((await runScript(again, 'cat file')).stdout).toBe('later\n');
    await driver.destroy(id, null);
  });

  test('directories that their agent closed are open again at the next start', async () => {
    const id = freshId();
    await runScript(await wake(id), 'chmod 000 /workspace /home/agent');
    const again = await wake(id, 2);
    expect((await runScript(again, 'echo well | tee file ~/file')).stdout).toBe('well\n');
    await driver.destroy(id, null);
  });

  test("another computer's disk is not taken for its own", async ({ skip }) => {
    if (!held()) skip(capabilities.notes.join(' '));
    const [id, other] = [freshId(), freshId()];
    for (const each of [id, other]) await (await wake(each)).hibernate();
    await until(async () => attachments(`${other}/`).length === 0);
    renameSync(fileOf(other), fileOf(id));
    await expect(wake(id, 2)).rejects.toThrow(/another's disk/);
    await driver.destroy(id, null);
    await driver.destroy(other, null);
  });

  test('what was freed goes back to the host at the next start', async ({ skip }) => {
    if (!held()) skip(capabilities.notes.join(' '));
    const id = freshId();
    const limits = { ...LIMITS, disk_bytes: 2 ** 30 };
    const computer = await wake(id, 1, { limits });
    await runScript(computer, 'for i in 1 2 3 4; do head -c 100M /dev/zero >$i; done; sync; rm *; sync');
    expect(statSync(fileOf(id)).blocks * 512).toBeGreaterThan(400_000_000);
    await computer.hibernate();
    await wake(id, 2, { limits });
    await until(async () => statSync(fileOf(id)).blocks * 512 < 50_000_000);
    await driver.destroy(id, null);
  });

  test('a place that was made without one stays counted', async () => {
    const counting = makeDriver({ ...ground, options: { ...ground.options, disk: 'counted' } });
    const id = freshId();
    const probed = await counting.probe();
    expect(probed).toMatchObject({ capabilities: { disk: 'counted' } });
    const { computer } = await counting.wake(requestOf(id, 1));
    await runScript(computer, 'echo kept >file');
    await counting.close();
    const again = await wake(id, 2);
    expect((await runScript(again, 'cat file')).stdout).toBe('kept\n');
    expect(existsSync(fileOf(id))).toBe(false);
    const fill = 'for i in 1 2 3; do head -c 100M /dev/zero >$i; done; sleep 60';
    expect((await runScript(again, fill)).outcome).toBe('lost');
    await driver.destroy(id, null);
  }, 30_000);

  test.each(['disk_formatted', 'disk_copied', 'disk_made', 'disk_repaired'])(
    'after a crash at sandbox.%s the same can be asked again',
    async (point) => {
      const id = freshId();
      let armed = true;
      const fail = (name: string): void => {
        if (name !== `sandbox.${point}` || !armed) return;
        armed = false;
        throw new Error('crash');
      };
      const crashing = makeDriver({ ...ground, options: { ...ground.options, fail } });
      const limits = { ...LIMITS, disk_bytes: 2 ** 27 + ground.logged.length * 4096 };
      const wanted = requestOf(id, 1, { limits });
      await crashing.wake(wanted).catch(() => {});
      const { computer } = await crashing.wake(wanted);
      await runScript(computer, 'echo kept >file; sync');
      if (held()) copyFileSync(fileOf(id), `${fileOf(id)}.crashed`);
      await computer.hibernate();
      await until(async () => attachments(`${id}/`).length === 0);
      if (held()) renameSync(`${fileOf(id)}.crashed`, fileOf(id));
      await crashing.wake(requestOf(id, 2, { limits })).catch(() => {});
      const woken = await crashing.wake(requestOf(id, 3, { limits, from_generation: 1 }));
      expect((await runScript(woken.computer, 'cat file')).stdout).toBe('kept\n');
      expect(armed).toBe(!held());
      await crashing.destroy(id, null);
      await crashing.close();
    },
  );

  async function expectUndamaged(id: string): Promise<void> {
    if (!held()) return;
    await until(async () => attachments(`${id}/`).length === 0);
    const { status, stdout } = spawnSync('e2fsck', ['-f', '-n', fileOf(id)], { encoding: 'utf8' });
    expect(status, stdout).toBe(0);
  }
});

/** The files that loop devices hold whose path has this. */
function attachments(part: string): string[] {
  const devices = readdirSync('/sys/block').filter((name) => name.startsWith('loop'));
  return devices.flatMap((name) => {
    const path = `/sys/block/${name}/loop/backing_file`;
    const file = existsSync(path) ? readFileSync(path, 'utf8').trim() : '';
    return file.includes(part) ? [file] : [];
  });
}

/** As the superblock has it; 1 = whole. */
function stateOf(file: string): number {
  return readFileSync(file).readUInt16LE(1082);
}

async function* chunksOf(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes;
}
