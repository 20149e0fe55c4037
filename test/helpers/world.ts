/**
 * A small world for tests of the whole: the stand-in for the Messages API, a data directory (or a PostgreSQL database), and nodes on
 * it that can be killed and started again.
 */
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import type { Event as WireEvent } from '@opencomputer/sdk';
import { inject } from 'vitest';
import { testGround, type GROUNDS } from './grounds.ts';
import { PROCESS_SANDBOX, startNode, type NodeSettings, type TestNode } from './node.ts';
import { startMessagesApi, type MessagesApi, type Script } from './model/messages-api.ts';

export type World = {
  api: MessagesApi;
  directory: string;
  /** Starts a node on the world's data directory; settings of the call come last. */
  start: (settings?: NodeSettings) => Promise<TestNode>;
  end: () => Promise<void>;
};

/**
 * @param settings for every node; commands run in the `process` sandbox unless they say otherwise.
 * @param kind on `postgres` several nodes may run at once; each gets a data directory of its own and they share the blobs.
 */
export async function makeWorld(
  script: Script,
  settings: NodeSettings = {},
  kind: (typeof GROUNDS)[number] = 'embedded',
): Promise<World> {
  const api = await startMessagesApi(script);
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'overwinter-world-'));
  // Another uid must be able to pass through to the computers.
  fs.chmodSync(directory, 0o711);
  const ground = kind === 'postgres' ? await testGround(kind) : undefined;
  if (!ground) fs.cpSync(inject('embedded_template'), path.join(directory, 'database'), { recursive: true });
  const nodes: TestNode[] = [];
  return {
    api,
    directory,
    start: async (more = {}) => {
      const node = await startNode({
        ...PROCESS_SANDBOX,
        OVERWINTER_DATA_DIR: ground ? path.join(directory, `node-${nodes.length}`) : directory,
        OVERWINTER_BLOB_DIR: path.join(directory, 'blobs'),
        OVERWINTER_COMPUTERS_DIR: path.join(directory, 'computers'),
        ANTHROPIC_BASE_URL: api.base_url,
        ANTHROPIC_API_KEY: 'sk-test-managed',
        ...(ground?.url === undefined ? {} : { DATABASE_URL: ground.url, ...CLUSTER }),
        ...settings,
        ...more,
      });
      nodes.push(node);
      return node;
    },
    end: async () => {
      for (const node of nodes) await node.kill();
      await api.close();
      await ground?.drop();
      await fs.promises.rm(directory, { recursive: true, force: true });
    },
  };
}

/** What all nodes of a cluster must have alike. */
const CLUSTER = {
  OVERWINTER_MASTER_KEY: Buffer.alloc(32, 7).toString('base64'),
  OVERWINTER_API_KEY: `ow_0123abcd_${'k'.repeat(43)}`,
  // So that a killed node is missed soon.
  OVERWINTER_LEASE_TTL_MS: '1500',
};

type Events = {
  events: (options: {
    after?: number;
    level?: 'user' | 'progress' | 'internal';
    signal?: AbortSignal;
  }) => AsyncIterable<WireEvent>;
};

/** Streams until `count` events of `type` have come (from the cursor on) and returns all that came. */
export async function streamUntil(
  session: Events,
  type: string,
  {
    after = 0,
    count = 1,
    level,
  }: { after?: number; count?: number; level?: 'user' | 'progress' | 'internal' } = {},
): Promise<WireEvent[]> {
  const seen: WireEvent[] = [];
  const ending = new AbortController();
  let left = count;
  for await (const event of session.events({ after, signal: ending.signal, ...(level ? { level } : {}) })) {
    seen.push(event);
    if (event.type === type) left -= 1;
    if (left === 0) break;
  }
  ending.abort();
  return seen;
}

/** A promise and what settles it: holds a model's answer or a command open without any sleep. */
export function gate(): { opened: Promise<void>; open: () => void } {
  const { promise, resolve } = Promise.withResolvers<void>();
  return { opened: promise, open: () => resolve() };
}

/** Asks again and again until the answer is truthy; for states that no event announces. */
export async function eventually<T>(ask: () => T | Promise<T>, within_ms = 15_000): Promise<NonNullable<T>> {
  const deadline = performance.now() + within_ms;
  for (;;) {
    const answer = await ask();
    if (answer) return answer;
    if (performance.now() > deadline) throw new Error(`not within ${within_ms} ms: ${ask.toString()}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}
