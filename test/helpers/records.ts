/**
 * What a test run leaves behind for the tests that come after it: the output of every node, the secrets that it must not hold, and
 * the status of every answer. Files are appended to, one of each kind for each process. Without a run nothing is recorded.
 */
import fs from 'node:fs';
import path from 'node:path';

/** Set by global-setup.ts: a directory of this run alone. */
export const RECORDS = 'OVERWINTER_TEST_RECORDS';

/** `output` is text; the others are JSON lines: of `Seen`, of strings, of test files by their path from the root. */
export type Kind = 'output' | 'answers' | 'secrets' | 'files';

/** The status that a request for a path, without its query, was answered with. */
export type Seen = { method: string; path: string; status: number };

export function record(kind: Kind, text: string): void {
  const directory = process.env[RECORDS];
  if (directory === undefined) return;
  // A node's last words may come after the run.
  if (fs.existsSync(directory)) fs.appendFileSync(path.join(directory, `${kind}.${process.pid}`), text);
}

/** The records of one kind of all processes. */
export function readRecords(kind: Kind): string {
  const directory = process.env[RECORDS];
  if (directory === undefined) return '';
  const files = fs.readdirSync(directory).filter((name) => name.startsWith(`${kind}.`));
  return files.map((name) => fs.readFileSync(path.join(directory, name), 'utf8')).join('');
}

export function readLines<T>(kind: Exclude<Kind, 'output'>): T[] {
  const lines = readRecords(kind).split('\n');
  return lines.filter((line) => line !== '').map((line) => JSON.parse(line) as T);
}

const plainFetch = globalThis.fetch;

/** For clients that take no `fetch`: until it is called back, what the global one met is recorded. */
export function recordGlobalFetch(): () => void {
  globalThis.fetch = recordedFetch;
  return () => void (globalThis.fetch = plainFetch);
}

/** `fetch`, and what it met is recorded. */
export async function recordedFetch(...[input, init]: Parameters<typeof fetch>): Promise<Response> {
  const response = await plainFetch(input, init);
  const method = init?.method ?? 'GET';
  const url = input instanceof Request ? input.url : String(input);
  const seen: Seen = { method, path: new URL(url).pathname, status: response.status };
  record('answers', `${JSON.stringify(seen)}\n`);
  return response;
}

/** Of a node's settings, those that nobody may read anywhere. */
export function recordSecrets(settings: Record<string, string>, api_key: string): void {
  const names = ['OVERWINTER_MASTER_KEY', 'ANTHROPIC_API_KEY'];
  const secrets = [api_key, ...names.flatMap((name) => settings[name]?.split(',') ?? [])];
  const known = secrets.filter((secret) => secret !== '');
  record('secrets', known.map((secret) => `${JSON.stringify(secret)}\n`).join(''));
}
