/** Requests of this server to a program in a computer, and what listens there. */
import { request, type IncomingMessage } from 'node:http';
import { setTimeout as delay } from 'node:timers/promises';
import type { Computer } from '../../resource/computer/driver.ts';

export type Answer = { status: number; type: string; body: string };

export type Question = {
  method: 'GET' | 'POST';
  path: string;
  /** JSON. */
  body?: string;
  timeout_ms: number;
};

/**
 * @param read what it resolves to ends the exchange.
 * @throws ConnectionRefused when nothing listens; Error when there is no answer in time.
 */
export async function ask<Result>(
  computer: Computer,
  port: number,
  { method, path, body, timeout_ms }: Question,
  read: (response: IncomingMessage) => Result | Promise<Result>,
): Promise<Result> {
  const connection = await computer.connect(port);
  const signal = AbortSignal.timeout(timeout_ms);
  try {
    return await new Promise<Result>((resolve, reject) => {
      const asked = request({
        ...{ method, path, signal, createConnection: () => connection },
        headers: {
          ...{ host: 'localhost', connection: 'close' },
          ...(body !== undefined && {
            'content-type': 'application/json',
            'content-length': Buffer.byteLength(body),
          }),
        },
      });
      asked.on('error', reject);
      asked.on('response', (response) => {
        response.on('error', reject);
        Promise.resolve(read(response)).then(resolve, reject);
      });
      asked.end(body);
    });
  } finally {
    connection.destroy();
  }
}

const LOOK_MS = 250;
const ANSWER_MS_MAX = 5000;

type Wanted = {
  port: number;
  path: string;
  /** What was listened on before it was started is not its. */
  before: ReadonlySet<number>;
  timeout_ms: number;
};

/**
 * The port on which the program answers with anything but a failure of its own: the one that it was told of, or another.
 * @throws Error after `timeout_ms`, and when aborted.
 */
export async function findHealthyPort(
  computer: Computer,
  { port, path, before, timeout_ms }: Wanted,
  signal: AbortSignal,
): Promise<number> {
  const answers = async (candidate: number): Promise<boolean> => {
    if (before.has(candidate)) return false;
    const question = { method: 'GET', path, timeout_ms: ANSWER_MS_MAX } as const;
    const status = await ask(computer, candidate, question, ({ statusCode = 500 }) => statusCode).catch(
      () => 500,
    );
    return status < 500;
  };
  const deadline = performance.now() + timeout_ms;
  let others: number[] = [];
  while (performance.now() < deadline) {
    if (await answers(port)) return port;
    const now = [...(await listening(computer))].filter((each) => each !== port);
    // One that is there twice in a row is meant to stay.
    for (const each of now) if (others.includes(each) && (await answers(each))) return each;
    others = now;
    await delay(LOOK_MS, undefined, { signal });
  }
  throw new Error(`it did not answer on port ${port} within ${timeout_ms / 1000} seconds`);
}

const LISTENING = '0A';
const LOOK_MS_MAX = 10_000;
const TABLE_BYTES_MAX = 1024 * 1024;
/** Nothing that its owner has set says what runs here. */
export const PLAIN = { PATH: '/usr/bin:/bin', BASH_ENV: '', ENV: '', LD_PRELOAD: '', LD_LIBRARY_PATH: '' };

/** The TCP ports that are listened on in the computer. */
export async function listening(computer: Computer): Promise<Set<number>> {
  const script = 'exec head -c 500000 /proc/net/tcp /proc/net/tcp6 2>/dev/null';
  const { output, exit } = computer.exec({ script, env: PLAIN, timeout_ms: LOOK_MS_MAX });
  let table = '';
  for await (const { data } of output)
    if (table.length < TABLE_BYTES_MAX) table += Buffer.from(data).toString('latin1');
  await exit;
  const ports = table.split('\n').flatMap((line) => {
    const [, local = '', , state] = line.trim().split(/\s+/);
    const port = Number.parseInt(local.split(':')[1] ?? '', 16);
    return state === LISTENING && port > 0 ? [port] : [];
  });
  return new Set(ports);
}
