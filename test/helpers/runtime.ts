/** A runtime over real SQL with nothing that acts: no worker, a provider and a driver that are never asked. */
import { randomBytes } from 'node:crypto';
import { createDeltas } from '../../src/engine/deltas.ts';
import type { Runtime } from '../../src/engine/runtime.ts';
import { submit } from '../../src/engine/submit.ts';
import { parseNetworks } from '../../src/net/address.ts';
import { createPoster } from '../../src/net/post.ts';
import type { Blobs } from '../../src/resource/blob.ts';
import type { Driver } from '../../src/resource/computer/driver.ts';
import { makeId } from '../../src/resource/id.ts';
import { givenKeys } from '../../src/secret/master-keys.ts';
import { masterKey } from '../../src/secret/seal.ts';
import type { Command } from '../../src/session/command.ts';
import { createFollow } from '../../src/store/follow.ts';
import { computerKind, sessionKind } from '../../src/store/kind.ts';
import { createLog, type Appended } from '../../src/store/log.ts';
import { testGround, type GROUNDS, type TestGround } from './grounds.ts';
import { RULES } from './walk.ts';

export type TestRuntime = { runtime: Runtime; close: () => Promise<void> };

/** A runtime on a database of its own, or on one that is there: its owner drops it. */
export async function testRuntime(
  overrides: Partial<Runtime> = {},
  on: (typeof GROUNDS)[number] | TestGround = 'embedded',
): Promise<TestRuntime> {
  const ground = typeof on === 'string' ? await testGround(on) : on;
  const database = await ground.open();
  const fail = () => Promise.resolve();
  const now = () => Date.now();
  const log = createLog(sessionKind(RULES), { database, now, fail, held_streams_max: 1000 });
  const computer_log = createLog(computerKind, { database, now, fail, held_streams_max: 1000 });
  const follow = createFollow(database, log, 1000);
  const poster = createPoster({
    allowed: parseNetworks('127.0.0.0/8'),
    connect_ms: 1000,
    response_ms: 1000,
    connections_per_origin_max: 16,
    now,
  });
  const master_keys = givenKeys([masterKey(randomBytes(32))]);
  const newId: Runtime['newId'] = (id_kind) => makeId(id_kind, Date.now(), randomBytes(6).toString('hex'));
  const runtime: Runtime = {
    ...{
      node: newId('node'),
      machine: newId('machine'),
      database,
      log,
      computer_log,
      follow,
      deltas: createDeltas(),
      rules: RULES,
      now,
      newId,
      fail,
    },
    random: () => Math.random(),
    logger: { debug: () => undefined, warn: () => undefined, error: () => undefined },
    ...{ sealer: master_keys.sealer, master_keys },
    provider: { respond: () => Promise.reject(new Error('no model in this test')) },
    managed_key: 'sk-managed-test',
    ...{
      driver: INERT_DRIVER,
      drivers: new Map([['process', overrides.driver ?? INERT_DRIVER]]),
      images: new Map(),
    },
    blobs: memoryBlobs(),
    poster,
    settings: SETTINGS,
    ...overrides,
  };
  return {
    runtime,
    close: async () => {
      follow.close();
      await poster.close();
      await database.close();
      if (ground !== on) await ground.drop();
    },
  };
}

/** Does what a runner would: one command after another, each on the state that the one before left. */
export async function play(runtime: Runtime, session: string, ...commands: Command[]): Promise<Appended> {
  let last: Appended | undefined;
  for (const command of commands) last = await submit(runtime, session, command);
  if (!last) throw new Error('nothing to play');
  return last;
}

/** A whole turn: begun, answered with `text`, ended. */
export async function playTurn(runtime: Runtime, session: string, text: string): Promise<Appended> {
  const { state } = await play(runtime, session, { type: 'begin', node: runtime.node });
  return await play(runtime, session, responded(text, state.requests, state.head));
}

/** What the model said, as the runner reports it. */
function responded(text: string, request: number, seen: number): Command {
  const usage = {
    input_tokens: 3,
    output_tokens: 5,
    cache_creation_input_tokens: 0,
    cache_read_input_tokens: 0,
  };
  const content = [{ type: 'text', text }];
  return {
    type: 'model_responded',
    outcome: {
      kind: 'responded',
      message_id: 'msg_1',
      model: 'm',
      stop_reason: 'end_turn',
      usage,
      cut: false,
      content,
    },
    request,
    seen,
    duration_ms: 1,
    pause: false,
  };
}

const SETTINGS: Runtime['settings'] = {
  lease_ttl_ms: 10_000,
  poll_ms: 1000,
  turns_at_once_max: 1,
  drain_ms: 0,
  command_timeout_ms: 1000,
  output_bytes_max: 30_000,
  webhooks: {
    ...{ attempts_max: 3, age_ms_max: 86_400_000 },
    delays_ms: [10, 20],
    at_once_max: 64,
    window_max: 16,
    per_second_max: 10_000,
  },
  session_computer: {
    ...{ vcpus: 1, ram_mb: 512, disk_size_mb: 512, processes_max: 64, image: 'scratch', base_image: null },
    ...{ template_id: 'scratch', template_version: '1', network_policy: { mode: 'off' } },
  },
  computers: { exec_output_bytes_max: 2 ** 20, processes_max: 64, org_max: 1000 },
  deployments: { bundle_bytes_max: 8 * 1024 * 1024 },
};

const INERT_DRIVER: Driver = {
  name: 'process',
  probe: () => Promise.resolve({ usable: false, reason: 'no computers in this test' }),
  wake: () => Promise.reject(new Error('no computers in this test')),
  snapshot: () => Promise.resolve(null),
  destroy: () => Promise.resolve(),
  inventory: () => Promise.resolve([]),
  quieten: () => Promise.resolve(),
  close: () => Promise.resolve(),
};

function memoryBlobs(): Blobs {
  const blobs = new Map<string, Uint8Array>();
  return {
    put: async (name, content) => {
      const chunks: Uint8Array[] = [];
      for await (const chunk of content) chunks.push(chunk);
      blobs.set(name, Buffer.concat(chunks));
      return blobs.get(name)?.length ?? 0;
    },
    get: (name, start = 0) => {
      const blob = blobs.get(name);
      return Promise.resolve(blob && bytesOf(blob.subarray(start)));
    },
    deleteAll: (prefix) => {
      for (const name of blobs.keys()) if (name.startsWith(`${prefix}/`)) blobs.delete(name);
      return Promise.resolve();
    },
    delete: (name) => {
      blobs.delete(name);
      return Promise.resolve();
    },
  };
}

async function* bytesOf(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield await Promise.resolve(bytes);
}
