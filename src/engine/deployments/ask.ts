/** A question to the agent of a deployment, as Celesto's agents take it: `POST /chat` with `{"input": …}`. */
import type { IncomingMessage } from 'node:http';
import { OverwinterError } from '../../resource/error.ts';
import { ConnectionRefused } from '../../resource/computer/driver.ts';
import type { DeploymentRow } from '../../store/deployment/deployments.ts';
import { listReleases } from '../../store/deployment/releases.ts';
import type { Computers } from '../computers/computers.ts';
import type { Runtime } from '../runtime.ts';
import { ask, type Answer } from './inside.ts';

/** Its clients give up after two minutes. */
const ANSWER_MS_MAX = 110_000;
const ANSWER_BYTES_MAX = 4 * 1024 * 1024;

/** What it answers: a JSON string as its text, all else as it is. @throws OverwinterError `conflict` when there is no such answer. */
export async function askAgent(
  runtime: Runtime,
  computers: Computers,
  { id, serving, wanted }: DeploymentRow,
  input: unknown,
): Promise<string> {
  const release = (await listReleases(runtime.database.db, id)).find((each) => each.id === serving);
  if (!release || release.computer_id === null || release.port === null || wanted !== 'running')
    throw new OverwinterError('conflict', 'the deployment does not run');
  const computer = await computers.use(release.computer_id);
  const body = JSON.stringify({ input, stream: false });
  const question = { method: 'POST', path: '/chat', body, timeout_ms: ANSWER_MS_MAX } as const;
  const answer = await ask(computer, release.port, question, wholeOf).catch((error: unknown) => {
    if (error instanceof ConnectionRefused)
      throw new OverwinterError('conflict', 'nothing listens in it now');
    if (error instanceof OverwinterError) throw error;
    throw new OverwinterError('conflict', 'it gave no whole answer in time');
  });
  if (answer.status >= 400)
    throw new OverwinterError('conflict', `it answered POST /chat with status ${answer.status}`);
  return textOf(answer);
}

async function wholeOf(response: IncomingMessage): Promise<Answer> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of response as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes > ANSWER_BYTES_MAX)
      throw new OverwinterError('conflict', `it answered with more than ${ANSWER_BYTES_MAX} bytes`);
    chunks.push(chunk);
  }
  const { statusCode: status = 0, headers } = response;
  return { status, type: headers['content-type'] ?? '', body: Buffer.concat(chunks).toString() };
}

function textOf({ type, body }: Answer): string {
  if (!/^application\/json\b/i.test(type)) return body;
  try {
    const value: unknown = JSON.parse(body);
    return typeof value === 'string' ? value : body;
  } catch {
    return body;
  }
}
