/**
 * Runs the attacks of fixtures/attacks in computers of one driver, with prey laid out on the host.
 * Invariant: an attack that could not try anything counts as a failure, and so does any sight of the canary.
 */

import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import type { AddressInfo, Server } from 'node:net';
import { join } from 'node:path';
import { zstdDecompressSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { parseNetworks } from '../../src/net/address.ts';
import { createEgress } from '../../src/net/egress.ts';
import type { Computer, ComputerLimits, Driver, Egress } from '../../src/resource/computer/driver.ts';
import { bytesOf, freshId, runScript } from '../conformance/computers.ts';
import type { Result } from '../conformance/computers.ts';

const FOLDER = new URL('../../fixtures/attacks/', import.meta.url);
const PRELUDE = readFileSync(new URL('prelude.sh', FOLDER), 'utf8');
const LIMITS: ComputerLimits = {
  memory_bytes: 536_870_912,
  processes_max: 128,
  cpu_percent: 200,
  disk_bytes: 1_073_741_824,
};

export type Attack = {
  name: string;
  body: string;
  harmless: boolean;
  shares: boolean;
  network: boolean;
  needs_groups: boolean;
  may_end: string[];
  timeout_ms: number;
};

/** Every attack, with its headers read. */
export const ATTACKS: Attack[] = readdirSync(FOLDER)
  .filter((name) => /^\d+-.*\.sh$/.test(name))
  .sort((a, b) => parseInt(a) - parseInt(b))
  .map((name) => {
    const body = readFileSync(new URL(name, FOLDER), 'utf8');
    return {
      name,
      body,
      harmless: /^# harmless$/m.test(body),
      shares: /^# shares a computer$/m.test(body),
      network: /^# network$/m.test(body),
      needs_groups: /^# needs control groups$/m.test(body),
      may_end: ['exited', ...(/^# may end: (.*)$/m.exec(body)?.[1]?.split(' ') ?? [])],
      timeout_ms: Number(/^# time limit: (\d+)$/m.exec(body)?.[1] ?? 30_000),
    };
  });

/** What lies on the host for an attacker to find; every piece of it answers with the canary. */
export type Prey = {
  canary: string;
  env: Record<string, string>;
  secret_path: string;
  remove: () => Promise<void>;
};

export async function layOutPrey(directory: string, other_workspace: string): Promise<Prey> {
  const canary = `canary${randomBytes(12).toString('hex')}`;
  const data = join(directory, 'data');
  mkdirSync(data);
  const secret_path = join(data, 'secret.txt');
  writeFileSync(secret_path, canary, { mode: 0o600 });
  process.env['OVERWINTER_CANARY'] = canary;
  const abstract_name = `ow-${randomBytes(8).toString('hex')}`;
  const unix_path = join(directory, 'socket');
  const servers = await Promise.all([
    listen(canary, { host: '127.0.0.1', port: 0 }),
    listen(canary, { path: unix_path, writableAll: true, readableAll: true }),
    listen(canary, { path: `\0${abstract_name}` }),
  ]);
  const victim = spawn('sh', ['-c', 'trap "" USR1; exec sleep 600'], { stdio: 'ignore', cwd: '/' });
  const env = {
    HOST_SECRET: secret_path,
    HOST_DATA: data,
    HOST_PID: String(process.pid),
    VICTIM_PID: String(victim.pid),
    OTHER_WORKSPACE: other_workspace,
    TCP_PORT: String((servers[0].address() as AddressInfo).port),
    UNIX_PATH: unix_path,
    ABSTRACT_NAME: abstract_name,
  };
  return {
    canary,
    env,
    secret_path,
    async remove() {
      victim.kill('SIGKILL');
      delete process.env['OVERWINTER_CANARY'];
      await Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))));
    },
  };
}

export function attack(computer: Computer, { body, timeout_ms }: Attack, prey: Prey): Promise<Result> {
  return runScript(computer, `${PRELUDE}\n${body}`, { env: prey.env, timeout_ms });
}

export type AttackGround = {
  title: string;
  prepare: () => Promise<void>;
  make: () => Driver;
  directory: string;
  workspaceOf: (id: string) => string;
  remove: () => void;
  /** The base image of all computers; absent = none. */
  image?: string;
  /** Of the attacks that need a computer each, one in so many; `npm run test:attacks` makes all. */
  one_in?: number;
  /** By attack, what these computers are meant to allow. */
  meant?: Record<string, RegExp>;
};

export function attacksFail(ground: AttackGround): void {
  describe(ground.title, () => {
    let driver: Driver;
    let prey: Prey;
    const other = freshId();
    const shared = freshId();
    let shared_computer: Computer;
    let has_groups = false;
    const { image = null, meant = {}, one_in = 1 } = ground;
    const all = process.env['OVERWINTER_ATTACKS'] === 'all';
    const alone = ATTACKS.filter(({ shares }) => !shares);
    const chosen = all ? alone : alone.filter((_, index) => index % one_in === 0);
    const wake = (id: string, generation = 1, mode: 'off' | 'open' = 'off'): Promise<Computer> =>
      wakeOf(driver, { id, generation, mode, image });

    beforeAll(async () => {
      await ground.prepare();
      driver = ground.make();
      const computer = await wake(other);
      prey = await layOutPrey(ground.directory, ground.workspaceOf(other));
      await runScript(computer, `echo ${prey.canary} > secret; (exec -a victim-of-another sleep 600) &`);
      shared_computer = await wake(shared);
      const probed = await driver.probe();
      has_groups = probed.usable && probed.capabilities.limits.startsWith('cgroup');
    });
    afterAll(async () => {
      await prey.remove();
      await driver.close();
      ground.remove();
    });

    test.each(ATTACKS.filter(({ shares }) => shares))('$name', async (each) => {
      expectHeld(each, await attack(shared_computer, each, prey));
    });

    test('those that shared a computer left nothing behind', () => aftermath(shared));

    // Those that fill what they can write take long on a busy machine.
    test.for(chosen)('$name', { timeout: 180_000 }, async (each, { skip }) => {
      if (each.needs_groups && !has_groups) skip('without control groups this memory is not bounded');
      const id = freshId();
      const computer = await wake(id, 1, each.network ? 'open' : 'off');
      expectHeld(each, await attack(computer, each, prey));
      await aftermath(id);
    });

    function expectHeld(each: Attack, result: Result): void {
      const allowed = meant[each.name];
      const said = (result.stdout + result.stderr).replaceAll(/^ESCAPED: (.*)$/gm, (line, what: string) =>
        allowed?.test(what) === true ? `TRIED: ${what}` : line,
      );
      expect(said).not.toMatch(/^ESCAPED.*$/m);
      expect(said).not.toMatch(/^MISSING.*$/m);
      expect(said).not.toContain(prey.canary);
      expect(said).toMatch(/^TRIED: /m);
      expect(each.may_end).toContain(result.outcome);
      if (result.outcome === 'exited' && each.may_end.length === 1) expect(result.exit_code).toBe(0);
    }

    /** Whatever it left behind, snapshot, restore and removal touch nothing else, and the next computer works. */
    async function aftermath(id: string): Promise<void> {
      const copy = freshId();
      await (await wake(id, 2)).hibernate();
      const bytes = await bytesOf(await driver.snapshot(id, {}));
      expect(zstdDecompressSync(bytes, { maxOutputLength: 2 ** 31 - 1 }).includes(prey.canary)).toBe(false);
      const snapshot = async (): Promise<AsyncIterable<Uint8Array>> => chunksOf(bytes);
      const request = {
        reference: null,
        from_generation: 1,
        network: { mode: 'off' } as const,
        image,
        limits: LIMITS,
        snapshot,
      };
      await driver.wake({ ...request, id: copy, generation: 2 });
      await driver.destroy(copy, null);
      await driver.destroy(id, null);
      expect(readFileSync(prey.secret_path, 'utf8')).toBe(prey.canary);
      const computer = await wake(other);
      expect((await runScript(computer, 'cat secret; ls')).stdout).toBe(`${prey.canary}\nsecret\n`);
    }
  });
}

async function wakeOf(
  driver: Driver,
  wanted: { id: string; generation: number; mode: 'off' | 'open'; image: string | null },
): Promise<Computer> {
  const { id, generation, mode, image } = wanted;
  const from_generation = generation - 1;
  const request = {
    id,
    reference: null,
    from_generation,
    generation,
    snapshot: null,
    network: { mode },
    image,
    limits: LIMITS,
  };
  return (await driver.wake(request)).computer;
}

/** Networks of the operator are not opened: what leads inside is refused. */
export function makeEgress(): Egress {
  return createEgress({ allowed: parseNetworks(''), log: { debug: () => {} } });
}

async function* chunksOf(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes;
}

function listen(canary: string, at: Parameters<Server['listen']>[0]): Promise<Server> {
  const server = createServer((socket) => {
    socket.on('error', () => {});
    socket.end(canary);
  });
  return new Promise((resolve) => server.listen(at, () => resolve(server)));
}
