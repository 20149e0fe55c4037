/**
 * A node as a process of its own: the server as `npm start` runs it, so that a test can kill it as a power cut would. Its output is
 * kept; a node that dies of itself fails the test that waits for it.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import { OpenComputer } from '@opencomputer/sdk';
import { record, recordedFetch, recordSecrets } from './records.ts';

export type TestNode = {
  url: string;
  /** '' where the node greets with none that works. */
  api_key: string;
  /** The unmodified client, pointed at this node. */
  client: OpenComputer;
  process: ChildProcess;
  /** What the node has written to standard error so far. */
  log: () => string;
  /** The same of standard output. */
  output: () => string;
  /** SIGKILL, and gone. */
  kill: () => Promise<void>;
  /** SIGTERM; resolves to the exit code. */
  stop: () => Promise<number | null>;
  /** Resolves when the process has ended by itself. */
  ended: Promise<void>;
};

export type NodeSettings = Record<string, string>;

const MAIN = new URL('../../src/main.ts', import.meta.url).pathname;

/** Commands run unconfined in a directory: the engine's tests ask for no isolation, only for a computer. */
export const PROCESS_SANDBOX: NodeSettings = {
  OVERWINTER_SANDBOX: 'process',
  OVERWINTER_ALLOW_UNSANDBOXED: '1',
};

/** Tests and benchmarks ask as fast as they can. */
const UNLIMITED: NodeSettings = {
  OVERWINTER_REQUESTS_PER_KEY: '1000000',
  OVERWINTER_REQUESTS_PER_ORG: '1000000',
  OVERWINTER_STREAMS_PER_KEY: '1000000',
};

/** Starts a node and waits until it serves. Nothing of this process's own settings reaches it. */
export async function startNode(settings: NodeSettings): Promise<TestNode> {
  const child = spawn(process.execPath, [MAIN], {
    env: {
      PATH: process.env['PATH'],
      HOME: process.env['HOME'],
      NODE_COMPILE_CACHE: process.env['NODE_COMPILE_CACHE'],
      OVERWINTER_PORT: '0',
      ...UNLIMITED,
      ...settings,
    },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  let log = '';
  child.stderr.on('data', (chunk: Buffer) => {
    log += chunk.toString();
    record('output', chunk.toString());
  });
  const ended = once(child, 'exit').then(() => undefined);
  const { url, api_key } = await new Promise<{ url: string; api_key: string }>((resolve, reject) => {
    child.stdout.on('data', (chunk: Buffer) => {
      output += chunk.toString();
      record('output', chunk.toString());
      const greeting = /serves at (\S+)\n\s+API key\s+(?:in (\S+))?.*\n/.exec(output);
      if (!greeting) return;
      const kept = greeting[2] === undefined ? '' : fs.readFileSync(greeting[2], 'utf8').trim();
      resolve({ url: greeting[1]!, api_key: settings['OVERWINTER_API_KEY'] ?? kept });
    });
    child.once('exit', (code) =>
      reject(new Error(`the node ended with ${code} before it served: ${output}${log}`)),
    );
  });
  recordSecrets(settings, api_key);
  return {
    url,
    api_key,
    client: new OpenComputer({ apiKey: api_key, baseUrl: `${url}/v3`, fetch: recordedFetch }),
    process: child,
    log: () => log,
    output: () => output,
    ended,
    kill: async () => {
      child.kill('SIGKILL');
      await ended;
    },
    stop: async () => {
      child.kill('SIGTERM');
      await ended;
      return child.exitCode;
    },
  };
}
