/** What the docker driver promises beyond the contract of all drivers. Needs a container engine and a base image. */

import { spawn } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { once } from 'node:events';
import { createServer } from 'node:http';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { Unsupported } from '../../../src/resource/computer/driver.ts';
import type { Computer, Driver, Egress, WakeRequest, Woken } from '../../../src/resource/computer/driver.ts';
import { bytesOf, freshId, runScript, until } from '../../conformance/computers.ts';
import { LIMITS } from '../../conformance/driver.ts';
import { docker, docker_missing, dockerGround } from '../../helpers/docker.ts';

function requestOf(id: string, more: Partial<WakeRequest> = {}): WakeRequest {
  return {
    ...{ id, reference: null, from_generation: 0, generation: 1, snapshot: null, limits: LIMITS },
    ...{ network: { mode: 'off' }, image: null },
    ...more,
  };
}

describe.runIf(docker_missing === null)('a container', () => {
  const ground = dockerGround();
  let driver: Driver;
  let computer: Computer;
  beforeAll(async () => {
    driver = ground.make();
    ({ computer } = await driver.wake(requestOf(freshId())));
  });
  afterAll(async () => {
    await driver.close();
    await ground.remove();
    expect(await ground.left()).toEqual([]);
  });
  const say = async (script: string): Promise<string> => (await runScript(computer, script)).stdout.trim();

  test('has root inside, and nothing that reaches the host', async () => {
    expect(await say('id -u; echo $HOME; readlink /home/ohm')).toBe('0\n/home/agent\nagent');
    expect(
      await say('useradd -m someone && su someone -c "id -un" && chown someone /workspace && echo owned'),
    ).toBe('someone\nowned');
    const refused = [
      'mount -t tmpfs x /mnt',
      'mknod /tmp/disk b 8 0',
      'unshare -U true',
      'ip link add x type dummy',
      'echo x >/proc/sys/kernel/core_pattern',
      'chroot / true',
    ];
    for (const each of refused) expect(await say(`${each} 2>/dev/null && echo done`)).toBe('');
    expect(await say("grep -E '^(NoNewPrivs|CapEff)' /proc/self/status")).toBe(
      'CapEff:\t00000000800004fb\nNoNewPrivs:\t1',
    );
    expect(await say('cat /proc/cmdline /proc/kallsyms /proc/slabinfo /proc/timer_list | wc -c')).toBe('0');
    expect(await say('ls /sys/class/net; grep -c : /proc/net/dev')).toBe('lo\n1');
  });

  test('lets a background child write on without end after its exec', async () => {
    await say(
      '(head -c 30000000 /dev/zero; echo through >flood) & (head -c 30000000 /dev/zero >&2; echo through >errors) &',
    );
    await until(async () => (await say('cat flood errors')) === 'through\nthrough', 40_000);
  });

  test('keeps no trace of an exec, and tells no script its mark', async () => {
    expect(
      await say("cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr -d '\\0' | grep -c $'\\x1e'"),
    ).toBe('0');
    expect(await say('ls /run/computer/*.killed /run/computer/*.sh | wc -l')).toBe('1');
    expect(await say("printf '\\x1e0123456789abcdef'; printf '\\x1e'")).toBe('\x1e0123456789abcdef\x1e');
  });

  test('names its main process so that no search for other programs meets it', async () => {
    expect(await say("pkill -f 'relay|server|perl|node|cat|bash' ; sleep 0.1; echo lives")).not.toContain(
      'lost',
    );
    expect(computer.alive()).toBe(true);
    expect(await say('echo well')).toBe('well');
  });

  test('says so when memory ran out', async () => {
    const hungry = `perl -e '$_ = "x" x 900_000_000; print length'`;
    const result = await runScript(computer, `${hungry}; echo code $?`);
    expect(result).toMatchObject({ outcome: 'exited', out_of_memory: true });
    expect(await say('echo well')).toBe('well');
  });

  test('is refused what this server does not have', async () => {
    const network = { mode: 'open' } as const;
    await expect(driver.wake(requestOf(freshId(), { network }))).rejects.toThrow(Unsupported);
    await expect(driver.wake(requestOf(freshId(), { image: 'scratch' }))).rejects.toThrow(Unsupported);
    expect(() => ground.make({ installation: '../x' })).toThrow(RangeError);
  });

  test('restored has what was installed and not what was deleted', async () => {
    const [id, copy] = [freshId(), freshId()];
    const { computer: first, reference } = await driver.wake(requestOf(id));
    await runScript(first, 'echo ours >/usr/local/bin/ours; rm /etc/debian_version; echo changed >/etc/motd');
    await first.hibernate();
    const bytes = await bytesOf(await driver.snapshot(id, reference));
    await driver.destroy(id, reference);
    async function* content(): AsyncGenerator<Uint8Array> {
      yield bytes;
    }
    const snapshot = async (): Promise<AsyncIterable<Uint8Array>> => content();
    const woken = await driver.wake(requestOf(copy, { from_generation: 1, generation: 2, snapshot }));
    expect(woken.files).toBe('restored');
    const { stdout } = await runScript(
      woken.computer,
      'cat /usr/local/bin/ours /etc/motd; ls /etc/debian_version',
    );
    expect(stdout).toBe('ours\nchanged\n');
    await driver.destroy(copy, null);
    const filters = { label: [`overwinter.computer=${copy}`] };
    expect(await docker.listImages({ all: true, filters })).toEqual([]);
  });

  test('over its disk limit is ended', async () => {
    const limits = { ...LIMITS, disk_bytes: 1_000_000 };
    const { computer: full } = await driver.wake(requestOf(freshId(), { limits }));
    await runScript(full, 'head -c 9000000 /dev/zero >/workspace/large');
    await until(async () => !full.alive(), 50_000);
  });
});

describe.runIf(docker_missing === null)('a server that dies', () => {
  const ground = dockerGround();
  afterAll(async () => {
    await ground.remove();
    expect(await ground.left()).toEqual([]);
  });

  test('takes its computers with it, and no other of its installation', { timeout: 120_000 }, async () => {
    const [mine, theirs] = [freshId(), freshId()];
    const driver = ground.make();
    const { computer } = await driver.wake(requestOf(mine));
    const other = otherServer(theirs);
    await once(other.stdout, 'data');
    const running = async (): Promise<string[]> => {
      const filters = { label: [`overwinter.installation=${ground.options.installation}`] };
      return (await docker.listContainers({ filters })).map(({ Names }) => String(Names[0])).sort();
    };
    expect((await running()).length).toBe(2);
    other.kill('SIGKILL');
    await until(async () => (await running()).length === 1, 30_000);
    expect((await runScript(computer, 'echo well')).stdout).toBe('well\n');
    const again = await driver.wake(requestOf(theirs, { from_generation: 1, generation: 2 }));
    expect((await runScript(again.computer, 'cat file; pgrep -x sleep || echo none')).stdout).toBe(
      'kept\nnone\n',
    );
    await driver.close();
    expect(await running()).toEqual([]);
  });

  function otherServer(id: string): ReturnType<typeof spawn> & { stdout: NodeJS.ReadableStream } {
    const { egress_dir, installation, image, socket_path } = ground.options;
    const given = { egress_dir, installation, image, socket_path, images: [], runtime: 'runc', egress: null };
    const program = `
      import { dockerDriver } from ${JSON.stringify(new URL('../../../src/sandbox/docker/driver.ts', import.meta.url).href)};
      const log = { warn() {}, debug() {} };
      const driver = dockerDriver({ ...${JSON.stringify(given)}, log, fail() {}, now: () => performance.now() });
      const { computer } = await driver.wake(${JSON.stringify(requestOf(id))});
      const script = 'echo kept >file; sleep 600 & setsid sleep 600 & sleep 600';
      computer.exec({ script, timeout_ms: 600000 });
      for await (const { data } of computer.exec({ script: 'until pgrep -x sleep; do :; done', timeout_ms: 60000 }).output) {
        process.stdout.write(data);
      }`;
    return spawn(process.execPath, ['--input-type=module', '-e', program], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
  }

  const POINTS = ['place_made', 'spawned', 'recorded', 'leftover_ended', 'files_removed', 'processes_ended'];
  test.each(POINTS)('after sandbox.%s leaves what the next one can use', async (point) => {
    const id = freshId();
    const driver = ground.make();
    const server = ground.make({
      fail(name) {
        if (name === `sandbox.${point}`) throw new Error(`died at ${name}`);
      },
    });
    const wake = (by: Driver, generation: number): Promise<Woken> =>
      by.wake(requestOf(id, { from_generation: generation - 1, generation }));
    const first = await wake(driver, 1);
    await runScript(first.computer, 'echo kept >file');
    await first.computer.hibernate();
    await wake(server, 2).catch(() => null);
    await server.destroy(freshId(), null).catch(() => null);
    await server.close().catch(() => null);
    const again = await driver.wake(requestOf(id, { from_generation: 1, generation: 3 }));
    expect(again.files).toBe('kept');
    expect((await runScript(again.computer, 'cat file')).stdout).toBe('kept\n');
    await driver.destroy(id, null);
    expect(await driver.inventory()).not.toContain(id);
  });
});

describe.runIf(docker_missing === null)('a way out', () => {
  const served: string[] = [];
  /** A proxy that answers by itself. */
  const egress: Egress = {
    async serve(path, policy, computer) {
      const server = createServer((asked, answer) => answer.end(`${policy.mode} ${computer} ${asked.url}`));
      served.push(computer);
      server.listen(path);
      await once(server, 'listening');
      return {
        async close() {
          server.closeAllConnections();
          await new Promise((resolve) => server.close(resolve));
        },
      };
    },
  };
  const ground = dockerGround({ egress });
  const driver = ground.make();
  afterEach(() => void (served.length = 0));
  afterAll(async () => {
    await driver.close();
    await ground.remove();
    expect(await ground.left()).toEqual([]);
  });

  test('leads to the proxy only, again after a wake, and not where it is off', async () => {
    const id = freshId();
    const network = { mode: 'open' } as const;
    const ask = 'curl -sS --max-time 20 http://somewhere.invalid/path';
    for (const generation of [1, 2]) {
      const { computer } = await driver.wake(
        requestOf(id, { network, from_generation: generation - 1, generation }),
      );
      expect((await runScript(computer, ask)).stdout).toBe(`open ${id} http://somewhere.invalid/path`);
      const direct = await runScript(computer, 'curl -sS --noproxy "*" --max-time 20 http://192.0.2.1/ 2>&1');
      expect(direct.exit_code).not.toBe(0);
      expect((await runScript(computer, 'touch /run/egress/x 2>&1')).exit_code).not.toBe(0);
      await computer.hibernate();
    }
    await driver.destroy(id, null);
    const { computer } = await driver.wake(requestOf(freshId()));
    expect(
      (await runScript(computer, `env | grep -ci proxy; ls /run/egress 2>&1; ${ask}`)).exit_code,
    ).not.toBe(0);
    expect(served).toEqual([id, id]);
  });
});

describe.runIf(docker_missing === null)('probe', () => {
  test('says what to install or set', async () => {
    const ground = dockerGround();
    const name = `nowhere${randomInt(1e9)}`;
    const cases: [object, RegExp][] = [
      [{ socket_path: `/tmp/${name}.sock` }, /^No container engine answers at .*OVERWINTER_DOCKER_SOCKET\.$/],
      [{ image: name }, new RegExp(`^The image ${name} is not there: run .*OVERWINTER_DOCKER_IMAGE\\.$`)],
      [{ runtime: name }, new RegExp(`^The engine has no runtime ${name}: .*OVERWINTER_DOCKER_RUNTIME\\.$`)],
    ];
    for (const [more, reason] of cases) {
      const found = await ground.make(more).probe();
      expect(found).toMatchObject({ usable: false, reason: expect.stringMatching(reason) });
    }
    await ground.remove();
  });
});
