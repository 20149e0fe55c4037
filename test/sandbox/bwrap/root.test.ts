/** Computers with a root user inside: a base image below, what they change above. */

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
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Unsupported } from '../../../src/resource/computer/driver.ts';
import type { Computer, Driver, WakeRequest } from '../../../src/resource/computer/driver.ts';
import { identify } from '../../../src/sandbox/leftover.ts';
import { installImage, listImages } from '../../../src/sandbox/bwrap/images.ts';
import { bytesOf, freshId, runScript, until } from '../../conformance/computers.ts';
import { LIMITS } from '../../conformance/driver.ts';
import { makeEgress } from '../attacks.ts';
import { has_packages, installBaseImage } from './base-image.ts';
import { as_root, insideOf, makeDriver, makeGround, outerOf, removeGround, workspaceOf } from '../grounds.ts';

const has_groups = existsSync('/sys/fs/cgroup/pids/tasks') || existsSync('/sys/fs/cgroup/cgroup.procs');

/** A package with a file, a program run at its installation, and a user. */
const INSTALL = `set -e
mkdir -p /tmp/tiny/DEBIAN /tmp/tiny/usr/share/tiny
printf 'Package: tiny\\nVersion: 1\\nArchitecture: all\\nMaintainer: a <a@b.c>\\nDescription: tiny\\n' >/tmp/tiny/DEBIAN/control
printf '#!/bin/sh\\nid -u >/usr/share/tiny/configured\\n' >/tmp/tiny/DEBIAN/postinst
chmod 755 /tmp/tiny/DEBIAN/postinst; echo hello >/tmp/tiny/usr/share/tiny/hello
dpkg-deb --build /tmp/tiny /tmp/tiny.deb
apt-get install -y /tmp/tiny.deb
useradd --create-home bob; chown bob /home/bob
rm /etc/debian_version; rm -r /usr/share/base-passwd; mkdir /usr/share/base-passwd
echo own >/workspace/own; chown bob /workspace/own`;
const LOOK = `cat /usr/share/tiny/hello /usr/share/tiny/configured; dpkg-query -W tiny
stat -c '%U %n' /home/bob /workspace/own /; ls -A /usr/share/base-passwd; test -e /etc/debian_version || echo deleted`;
const SEEN = 'hello\n0\ntiny\t1\nbob /home/bob\nbob /workspace/own\nroot /\ndeleted\n';

describe.runIf(as_root && has_groups && has_packages)('a computer with a root user inside', () => {
  const ground = makeGround({ egress: makeEgress() });
  const folder = join(ground.options.computers_dir, ground.installation);
  let driver: Driver;
  beforeAll(async () => {
    await installBaseImage(ground, 'base');
    driver = makeDriver(ground);
  }, 120_000);
  afterAll(async () => {
    await driver.close();
    removeGround(ground);
  });

  const request = (id: string, more: Partial<WakeRequest> = {}): WakeRequest => ({
    ...{ id, reference: null, from_generation: 0, generation: 1, snapshot: null, image: 'base' },
    ...{ network: { mode: 'off' }, limits: LIMITS, ...more },
  });
  const wake = async (id: string, generation = 1, more: Partial<WakeRequest> = {}): Promise<Computer> => {
    const from_generation = generation - 1;
    return (await driver.wake(request(id, { from_generation, generation, ...more }))).computer;
  };

  test('apt-get and useradd work, and last over stop, snapshot and restore', async () => {
    const id = freshId();
    const computer = await wake(id);
    const installed = await runScript(computer, INSTALL, { timeout_ms: 120_000 });
    expect(installed, installed.stderr).toMatchObject({ exit_code: 0 });
    await computer.hibernate();
    expect((await runScript(await wake(id, 2), LOOK)).stdout).toBe(SEEN);
    const bytes = await bytesOf(await driver.snapshot(id, {}));
    await driver.destroy(id, null);
    expect(existsSync(join(folder, id))).toBe(false);
    const snapshot = async (): Promise<AsyncIterable<Uint8Array>> => chunksOf(bytes);
    const woken = await driver.wake(request(id, { from_generation: 2, generation: 3, snapshot }));
    expect(woken.files).toBe('restored');
    expect((await runScript(woken.computer, LOOK)).stdout).toBe(SEEN);
    await driver.destroy(id, null);
  }, 240_000);

  test('the home, its other name and the workspace are there', async () => {
    const computer = await wake(freshId());
    const { stdout } = await runScript(computer, 'id -u; pwd; cd; pwd; cd /home/ohm; pwd -P; touch here /x');
    expect(stdout).toBe('0\n/workspace\n/home/agent\n/home/agent\n');
  });

  test('root inside is no root: mounts, devices, namespaces, settings and the clock are refused', async () => {
    const computer = await wake(freshId());
    const script = `for each in 'mknod /n c 1 3' 'mknod /n b 8 0' 'unshare -U true' 'unshare -m true' 'chroot / true' \
      'hostname x' 'date -s 2000-01-01' "perl -e 'exit(syscall(165, \\"t\\", \\"/mnt\\", \\"tmpfs\\", 0, 0) != 0)'" \
      'sh -c "echo x >/proc/sys/kernel/core_pattern"' 'sh -c "echo 1 >/proc/sys/user/max_user_namespaces"' \
      'sh -c "echo h >/proc/sysrq-trigger"' 'sh -c "ulimit -n 100000"'; do
      eval "$each" >/dev/null 2>&1 && echo "done: $each"; done; cat /proc/sys/user/max_user_namespaces`;
    expect((await runScript(computer, script)).stdout).toBe('0\n');
  });

  test('what one changes no other sees, and no mount is left on the host', async () => {
    const [one, other] = [await wake(freshId()), await wake(freshId())];
    await runScript(one, 'rm -rf /usr/share/base-passwd; echo mine >/etc/mine');
    expect((await runScript(other, 'cat /etc/mine; ls /usr/share/base-passwd | wc -l')).stdout).toBe('2\n');
    expect(readFileSync('/proc/self/mountinfo', 'utf8')).not.toContain(ground.directory);
  });

  test('the death of the server ends its processes and leaves no mount; files stay', async () => {
    const id = freshId();
    const program = `
      import { bwrapDriver } from ${JSON.stringify(new URL('../../../src/sandbox/bwrap.ts', import.meta.url).href)};
      const quiet = { warn() {}, debug() {} };
      const options = { egress: null, fail() {}, log: quiet, now: () => performance.now() };
      const driver = bwrapDriver({ ...JSON.parse(process.argv[1]), ...options });
      const { computer } = await driver.wake(JSON.parse(process.argv[2]));
      computer.exec({ script: 'echo kept > /etc/kept; setsid sleep 600 & sleep 600', timeout_ms: 600000 });
      setInterval(() => {}, 1000);`;
    const { computers_dir, installation, uid_base } = ground.options;
    const argv = [JSON.stringify({ computers_dir, installation, uid_base }), JSON.stringify(request(id))];
    const server = spawn(process.execPath, ['--input-type=module', '-e', program, ...argv], {
      stdio: 'ignore',
    });
    const record = join(folder, id, 'computer.json');
    await until(async () => existsSync(record) && existsSync(`${insideOf(ground, id)}/etc/kept`));
    const { pid } = (
      JSON.parse(readFileSync(join(folder, id, 'computer.json'), 'utf8')) as { process: { pid: number } }
    ).process;
    server.kill('SIGKILL');
    await until(async () => identify(pid) === null);
    expect(readdirSync(join(folder, id, 'merged'))).toEqual([]);
    expect((await runScript(await wake(id, 2), 'cat /etc/kept')).stdout).toBe('kept\n');
    await driver.destroy(id, null);
  });

  test('what it writes is bounded, also in files of its root that have no name', async () => {
    const probed = await driver.probe();
    const held = probed.usable && probed.capabilities.disk === 'held';
    const hidden = `perl -e 'for my $n (1 .. 3) {
      open(my $f, ">", "/opt-$n") or die; unlink "/opt-$n"; push @kept, $f;
      for (1 .. 100) { syswrite($f, "x" x 1048576) or print STDERR "$!\n" and last } }`;
    const named = `for i in 1 2 3; do head -c 100M /dev/zero >/usr/fill$i; done`;
    for (const fill of held ? [`${hidden}'`, named] : [`${hidden} sleep 60'`, `${named}; sleep 60`]) {
      const id = freshId();
      const computer = await wake(id);
      const { outcome, stderr } = await runScript(computer, fill, { timeout_ms: 60_000 });
      expect(outcome).toBe(held ? 'exited' : 'lost');
      if (held) expect(stderr).toContain('No space left on device');
      if (held) expect((await runScript(computer, 'rm -f /usr/fill*; echo >/well')).exit_code).toBe(0);
      await driver.destroy(id, null);
    }
  }, 150_000);

  test('links where bubblewrap mounts lead nowhere', async () => {
    const id = freshId();
    const computer = await wake(id);
    const outside = join(ground.directory, 'outside');
    spawnSync('mkdir', ['-m', '777', outside]);
    const plant = `cd /; umask 0; rm -rf /home/ohm /etc/apt; ln -s /oldroot${outside} /etc/apt
      mv /run /run.old; ln -s /oldroot${outside} /run; rm -rf /dev /tmp /home/agent/*`;
    await runScript(computer, plant);
    const disk = join(dirname(workspaceOf(ground, id)));
    const plantable = existsSync(join(disk, 'upper')) ? disk : `${outerOf(ground, id)}${disk}`;
    symlinkSync(`/oldroot${outside}`, join(plantable, 'upper', 'proc'));
    symlinkSync(outside, join(plantable, 'upper', 'tmp'));
    await computer.hibernate();
    const again = await wake(id, 2, { network: { mode: 'open' } });
    expect((await runScript(again, 'test -d /proc/1 -a ! -L /proc -a ! -L /tmp && echo well')).stdout).toBe(
      'well\n',
    );
    expect(readdirSync(outside)).toEqual([]);
  });

  test('with a network apt knows the way out', async () => {
    const computer = await wake(freshId(), 1, { network: { mode: 'open' } });
    const { stdout } = await runScript(computer, 'env -u http_proxy apt-config dump Acquire::http::Proxy');
    expect(stdout).toBe('Acquire::http::Proxy "http://127.0.0.1:3128";\n');
  });

  test('images are told, an unknown one is refused by name, and none changes later', async () => {
    expect(await driver.probe()).toMatchObject({ usable: true, capabilities: { images: ['base'] } });
    const wanted = driver.wake(request(freshId(), { image: 'other' }));
    await expect(wanted).rejects.toThrow(new Unsupported('no base image "other": there is base'));
    const id = freshId();
    await (await wake(id)).hibernate();
    await expect(wake(id, 2, { image: null })).rejects.toThrow(Unsupported);
  });

  test('without control groups there are no images', async () => {
    const bare = makeDriver({ ...ground, options: { ...ground.options, cgroup_root: null } });
    await expect(bare.wake(request(freshId()))).rejects.toThrow('need writable control groups');
    await bare.close();
  });

  const POINTS = ['limits_set', 'spawned', 'recorded', 'place_made', 'root_prepared', 'restored'];
  test.each([...POINTS, 'files_removed', 'destroyed'])(
    'sandbox.%s: the same can be asked again',
    async (point) => {
      const id = freshId();
      let armed = true;
      const fail = (name: string): void => {
        if (name !== `sandbox.${point}` || !armed) return;
        armed = false;
        throw new Error(`crash at ${point}`);
      };
      const crashing = makeDriver({ ...ground, options: { ...ground.options, fail } });
      await (await wake(id)).hibernate();
      const bytes = await bytesOf(await driver.snapshot(id, {}));
      await driver.destroy(id, null);
      const snapshot = async (): Promise<AsyncIterable<Uint8Array>> => chunksOf(bytes);
      const wanted = request(id, { from_generation: 1, generation: 2, snapshot });
      await crashing.wake(wanted).catch(() => {});
      expect((await runScript((await crashing.wake(wanted)).computer, 'id -u')).stdout).toBe('0\n');
      await crashing.destroy(id, null).catch(() => {});
      await crashing.destroy(id, null);
      expect(existsSync(join(folder, id))).toBe(false);
      await crashing.close();
    },
  );

  describe('installing', () => {
    const install = (name: string, tar: string): Promise<boolean> => installImage(ground.options, name, tar);
    const listed = (): Promise<string[]> => listImages(ground.options.computers_dir, ground.options.uid_base);

    test('no other user of the host comes to the images', () => {
      expect(statSync(join(ground.options.computers_dir, '.images')).mode & 0o777).toBe(0o710);
    });

    test('what is there already is left alone', async () => {
      expect(await install('base', join(ground.directory, 'base.tar'))).toBe(false);
    });

    test.each([
      ['names that lead out', ['--transform', 's,^x$,../../x,', '-P', 'x'], /\.\./],
      ['what is no root file system', ['x'], /lacks \/bin\/sh/],
    ])('%s: refused, and nothing is left', async (_, options, reason) => {
      const place = join(ground.directory, freshId());
      mkdirSync(place);
      writeFileSync(join(place, 'x'), 'x');
      const tar = join(place, 'x.tar');
      spawnSync('tar', ['-C', place, '-cf', tar, ...options]);
      await expect(install('odd', tar)).rejects.toThrow(reason);
      expect(await listed()).toEqual(['base']);
      const images = join(ground.options.computers_dir, '.images');
      expect(readdirSync(images).filter((name) => name.startsWith('.part'))).toEqual([]);
    });

    test('what is no tar is refused', async () => {
      const file = join(ground.directory, 'no-tar');
      writeFileSync(file, 'x'.repeat(20_000));
      await expect(install('odd', file)).rejects.toThrow(/ended with 1/);
    });

    test('device nodes are left out and owners are shifted', async () => {
      const place = join(ground.directory, 'system');
      mkdirSync(place);
      spawnSync('tar', ['-C', place, '-xf', join(ground.directory, 'base.tar')]);
      mkdirSync(join(place, 'odd'));
      spawnSync('mknod', [join(place, 'odd', 'disk'), 'b', '8', '0']);
      spawnSync('chown', ['5:7', join(place, 'odd')]);
      const tar = join(ground.directory, 'system.tar');
      spawnSync('tar', ['-C', place, '-cf', tar, '.']);
      expect(await install('with-devices', tar)).toBe(true);
      const computer = await wake(freshId(), 1, { image: 'with-devices' });
      expect((await runScript(computer, 'stat -c "%u %g" /odd; ls /odd')).stdout).toBe('5 7\n');
    }, 120_000);
  });
});

async function* chunksOf(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes;
}
