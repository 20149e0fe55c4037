/**
 * The engine in this process, wired as a server wires it but for HTTP: a real log in an embedded database, a real worker, real
 * computers of the `process` kind, a real provider against a loopback address. Many sessions run in it at once.
 */
import { randomBytes } from 'node:crypto';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { directoryBlobs } from '../../../src/blob/directory.ts';
import { createComputers } from '../../../src/engine/computers/computers.ts';
import { createDeltas } from '../../../src/engine/deltas.ts';
import { startHeartbeat, type Heartbeat } from '../../../src/engine/heartbeat.ts';
import type { Runtime } from '../../../src/engine/runtime.ts';
import { createSession, sendMessage } from '../../../src/engine/sessions.ts';
import { startWorker, type Worker } from '../../../src/engine/worker.ts';
import { anthropicProvider } from '../../../src/model/anthropic.ts';
import { makeId } from '../../../src/resource/id.ts';
import type { Limits } from '../../../src/resource/limits.ts';
import { processDriver } from '../../../src/sandbox/process.ts';
import type { SessionEvent } from '../../../src/session/event.ts';
import type { Rules } from '../../../src/session/rules.ts';
import { hasPendingInput, type SessionState } from '../../../src/session/state.ts';
import { createFollow } from '../../../src/store/follow.ts';
import { computerKind, sessionKind } from '../../../src/store/kind.ts';
import { createLog } from '../../../src/store/log.ts';
import { insertAgent } from '../../../src/store/agents.ts';
import { readEvents } from '../../../src/store/events.ts';
import { ensureDefaultOrg } from '../../../src/store/orgs.ts';
import { testGround } from '../grounds.ts';
import { testRuntime } from '../runtime.ts';

export type EngineOptions = {
  base_url: string;
  model_timeout_ms?: number;
  rules?: Partial<Rules>;
  command_timeout_ms?: number;
  turns_at_once_max?: number;
};

type Completed = Extract<SessionEvent, { type: 'turn.completed' }>;

export type Engine = {
  runtime: Runtime;
  /** Claims nothing more, as if no node were there, until `resume`. */
  pause: () => Promise<void>;
  resume: () => void;
  create: (input: string, limits?: Limits) => Promise<string>;
  say: (session: string, text: string) => Promise<void>;
  /** Resolves when the session has no turn and no input that waits. */
  atRest: (session: string) => Promise<SessionState>;
  events: (session: string) => Promise<SessionEvent[]>;
  ends: (session: string) => Promise<Completed[]>;
  /** Entries of the log that tell of a failure of ours. */
  errors: string[];
  /** A second node on the same database; its heart stops when told. */
  startNode: (overrides: Partial<Runtime>) => Promise<SecondNode>;
  close: () => Promise<void>;
};

type SecondNode = {
  runtime: Runtime;
  worker: Worker;
  heartbeat: Heartbeat;
  /** Its runners leave, without having ended anything. */
  abandon: () => Promise<void>;
};

const LEASE_TTL_MS = 10_000;
const REST_MS_MAX = 120_000;

export async function startEngine(options: EngineOptions): Promise<Engine> {
  const ground = await testGround('embedded');
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'overwinter-engine-'));
  const errors: string[] = [];
  const { runtime: base, close } = await testRuntime({}, ground);
  const { database } = base;
  const rules: Rules = { ...base.rules, response_tokens_max: 16_000, ...options.rules };
  const driver = processDriver({
    computers_dir: path.join(directory, 'computers'),
    installation: 'test',
    fail: base.fail,
  });

  async function wire(overrides: Partial<Runtime> = {}): Promise<SecondNode> {
    const node = newId('node');
    const heartbeat = await startHeartbeat(database.db, node, LEASE_TTL_MS, () => performance.now());
    const { now } = heartbeat;
    const log = createLog(sessionKind(rules), { database, now, fail: base.fail, held_streams_max: 10_000 });
    const runtime: Runtime = {
      ...base,
      ...{ node, machine: node, log, rules, now, driver, drivers: new Map([['process', driver]]) },
      computer_log: createLog(computerKind, { database, now, fail: base.fail, held_streams_max: 10_000 }),
      follow: createFollow(database, log, 1000),
      deltas: createDeltas(),
      blobs: directoryBlobs(path.join(directory, 'blobs'), { fail: base.fail }),
      provider: anthropicProvider({
        base_url: options.base_url,
        timeout_ms: options.model_timeout_ms ?? 60_000,
      }),
      logger: {
        debug: () => undefined,
        warn: () => undefined,
        error: (fields, message) => void errors.push(`${message}: ${describeError(fields)}`),
      },
      settings: {
        ...base.settings,
        lease_ttl_ms: LEASE_TTL_MS,
        turns_at_once_max: options.turns_at_once_max ?? 128,
        command_timeout_ms: options.command_timeout_ms ?? 60_000,
      },
      ...overrides,
    };
    const second: SecondNode = {
      ...{ runtime, heartbeat, worker: startWorker(runtime, createComputers(runtime)) },
      abandon: async () => {
        await second.worker.stop();
        await heartbeat.stop();
      },
    };
    runtime.log.onCommit(({ state }) => {
      if (state.turn === null || state.turn.cancel_at !== null) second.worker.wake();
    });
    return second;
  }

  fs.mkdirSync(path.join(directory, 'blobs'), { recursive: true });
  const first = await wire();
  const { runtime, heartbeat } = first;
  const { id: org } = await ensureDefaultOrg(database.db, newId('org'), 'default');
  const agent = newId('agent');
  const resting = watchRest(runtime);
  await insertAgent(database.db, org, agentRow(agent, newId('revision')), undefined);
  return {
    ...{ runtime, errors },
    pause: () => first.worker.stop(),
    resume: () => void (first.worker = startWorker(runtime, createComputers(runtime))),
    create: async (input, limits) => {
      const params = { agent, input: { text: input, actor: { type: 'human' } as const }, limits };
      return (await createSession(runtime, org, params)).id;
    },
    say: async (session, text) =>
      void (await sendMessage(runtime, session, { text, actor: { type: 'human' } })),
    atRest: resting,
    events: async (session) => (await readEvents(database.db, session, 1)).events,
    ends: async (session) => {
      const { events } = await readEvents(database.db, session, 1);
      return events.filter((event) => event.type === 'turn.completed');
    },
    startNode: wire,
    close: async () => {
      await first.worker.stop();
      await driver.close();
      await heartbeat.stop();
      runtime.follow.close();
      await close();
      await ground.drop();
      await fs.promises.rm(directory, { recursive: true, force: true });
    },
  };
}

const newId: Runtime['newId'] = (kind) => makeId(kind, Date.now(), randomBytes(6).toString('hex'));

function agentRow(id: string, revision_id: string): Parameters<typeof insertAgent>[2] {
  return {
    ...{ id, revision_id, name: 'fuzzed', prompt: 'Test.', prompt_hash: '', digest: '' },
    ...{ model: 'anthropic/claude-test', runtime: 'claude', credential_id: null, limits: null },
  };
}

/** Told by the log's commits; asks once besides, for what was at rest before. */
function watchRest(runtime: Runtime): (session: string) => Promise<SessionState> {
  const waiting = new Map<string, (state: SessionState) => void>();
  const isResting = (state: SessionState): boolean =>
    state.turn === null && (state.archived || !hasPendingInput(state));
  runtime.log.onCommit(({ stream, state }) => {
    if (isResting(state)) waiting.get(stream)?.(state);
  });
  return async (session) => {
    const { promise, resolve, reject } = Promise.withResolvers<SessionState>();
    waiting.set(session, resolve);
    const state = await runtime.log.state(session);
    if (isResting(state)) resolve(state);
    const timer = setTimeout(() => reject(new Error(`${session} does not come to rest`)), REST_MS_MAX);
    return await promise.finally(() => {
      clearTimeout(timer);
      waiting.delete(session);
    });
  };
}

function describeError(fields: object): string {
  const error = (fields as { err?: unknown }).err;
  return error instanceof Error ? (error.stack ?? error.message) : JSON.stringify(fields);
}
