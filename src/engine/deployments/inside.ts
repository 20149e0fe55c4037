/** Requests of this server to a program in a computer, and what listens there. */
import { request } from 'node:http';
import { text } from 'node:stream/consumers';
import { setTimeout as delay } from 'node:timers/promises';
import type { Computer } from '../../resource/computer/driver.ts';

export type Answer = { status: number; type: string; body: string };

export type Question = {
  method: 'GET' | 'POST';
  path: string;
  /** JSON. */
  body?: string;
  timeout_ms: number;
  /** Of the answer's body; more is an error. */
  bytes_max: number;
};

/** @throws ConnectionRefused when nothing listens; Error when there is no whole answer in time. */
export async function ask(computer: Computer, port: number, question: Question): Promise<Answer> {
  const { method, path, body, timeout_ms, bytes_max } = question;
  const connection = await computer.connect(port);
  const signal = AbortSignal.timeout(timeout_ms);
  try {
    return await new Promise<Answer>((resolve, reject) => {
      const asked = request({
        ...{ method, path, signal, createConnection: () => connection },
        headers: {
          host: 'localhost',
          connection: 'close',
          ...(body !== undefined && {
            'content-type': 'application/json',
            'content-length': Buffer.byteLength(body),
          }),
        },
      });
      asked.on('error', reject);
      asked.on('response', (response) => {
        let bytes = 0;
        response.on('data', (chunk: Buffer) => {
          bytes += chunk.length;
          if (bytes > bytes_max) response.destroy(new Error('the answer is too large'));
        });
        const { statusCode: status = 0, headers } = response;
        text(response).then(
          (said) => resolve({ status, type: headers['content-type'] ?? '', body: said }),
          reject,
        );
      });
      asked.end(body);
    });
  } finally {
    connection.destroy();
  }
}

const LOOK_MS = 250;
const ANSWER_MS_MAX = 5000;
const ANSWER_BYTES_MAX = 16 * 1024 * 1024;

/**
 * The port on which the program answers with anything but a failure of its own: the one that it was told of, or another that was not
 * listened on before. @throws Error after `timeout_ms`, and when aborted.
 */
export async function findHealthyPort(
  computer: Computer,
  wanted: { port: number; path: string; before: ReadonlySet<number>; timeout_ms: number },
  signal: AbortSignal,
): Promise<number> {
  const { port, path, before } = wanted;
  const answers = async (candidate: number): Promise<boolean> => {
    const question = { method: 'GET', path, timeout_ms: ANSWER_MS_MAX, bytes_max: ANSWER_BYTES_MAX } as const;
    const answer = await ask(computer, candidate, question).catch(() => undefined);
    return answer !== undefined && answer.status < 500;
  };
  const deadline = performance.now() + wanted.timeout_ms;
  let others: number[] = [];
  while (performance.now() < deadline) {
    if (await answers(port)) return port;
    const now = [...(await listening(computer))].filter((each) => each !== port && !before.has(each));
    // One that is there twice in a row is meant to stay.
    for (const each of now) if (others.includes(each) && (await answers(each))) return each;
    others = now;
    await delay(LOOK_MS, undefined, { signal });
  }
  throw new Error(`it did not answer on port ${port} within ${wanted.timeout_ms / 1000} seconds`);
}

const LISTENING = '0A';
const LOOK_MS_MAX = 10_000;

/** The TCP ports that are listened on in the computer. */
export async function listening(computer: Computer): Promise<Set<number>> {
  const script = 'cat /proc/net/tcp /proc/net/tcp6 2>/dev/null; exit 0';
  const { output, exit } = computer.exec({ script, timeout_ms: LOOK_MS_MAX });
  let said = '';
  for await (const { data } of output) said += Buffer.from(data).toString('latin1');
  await exit;
  const ports = said.split('\n').flatMap((line) => {
    const [, local = '', , state] = line.trim().split(/\s+/);
    const port = Number.parseInt(local.split(':')[1] ?? '', 16);
    return state === LISTENING && port > 0 ? [port] : [];
  });
  return new Set(ports);
}
