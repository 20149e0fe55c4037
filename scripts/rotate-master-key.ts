/**
 * `npm run rotate-master-key`: asks a running server to put every stored secret under its first master key, and says what is left to
 * do. The server does the work; this program sees neither keys nor secrets.
 */
import fs from 'node:fs';
import path from 'node:path';

type Rotation = { key_id: string; rewrapped: number; remaining: number; other_key_ids: string[] };

const { OVERWINTER_HOST: host, OVERWINTER_PORT: port } = process.env;
const url = process.env['OVERWINTER_URL'] || `http://${host || '127.0.0.1'}:${port || '4680'}`;
const key_file = path.join(process.env['OVERWINTER_DATA_DIR'] || '.overwinter', 'api-key');

try {
  process.stdout.write(report(await rotate(apiKey())));
} catch (error) {
  process.stderr.write(`${(error as Error).message}\n`);
  process.exitCode = 1;
}

function apiKey(): string {
  const given = process.env['OVERWINTER_API_KEY'];
  if (given) return given;
  try {
    return fs.readFileSync(key_file, 'utf8').trim();
  } catch {
    throw new Error(
      `There is no API key in ${key_file}; set OVERWINTER_API_KEY to an admin key of the default org, or OVERWINTER_DATA_DIR.`,
    );
  }
}

async function rotate(key: string): Promise<Rotation> {
  const response = await fetch(new URL('/v3/master-key/rotation', url), {
    method: 'POST',
    headers: { authorization: `Bearer ${key}` },
  }).catch((error: Error) => {
    const reason = error.cause instanceof Error ? error.cause.message : error.message;
    throw new Error(`No server answers at ${url} (${reason}); set OVERWINTER_URL.`);
  });
  const answer = (await response.json().catch(() => ({}))) as Partial<Rotation> & {
    error?: { message?: string };
  };
  if (response.ok && answer.key_id !== undefined) return answer as Rotation;
  const reason = answer.error?.message ?? 'it does not seem to be an Overwinter server';
  throw new Error(`The server at ${url} answered ${response.status}: ${reason}.`);
}

function report({ key_id, rewrapped, remaining, other_key_ids }: Rotation): string {
  const lines = [`Master key ${key_id} seals. Stored secrets put under it now: ${rewrapped}.`];
  if (remaining > 0)
    lines.push(
      `Stored secrets that are under other keys still: ${remaining}. Keep all keys, and run this again; the log of the server names`,
      'each that it could not open.',
    );
  else if (other_key_ids.length > 0)
    lines.push(
      `Nothing is under another key, and the server still has ${other_key_ids.join(', ')}. Next: once every node has had the first`,
      'key as its first and this has run since, remove all keys but the first from OVERWINTER_MASTER_KEY and restart the nodes.',
      'Where the server keeps the keys itself, run this again.',
    );
  else
    lines.push(
      'Nothing is under another key, and the server keeps no other. Backups made before still need the old key.',
      ...(rewrapped === 0 ? HOW : []),
    );
  return `${lines.join('\n')}\n`;
}

/** Two steps with OVERWINTER_MASTER_KEY, as no node may seal with a key that another cannot open with. */
const HOW = [
  'Where OVERWINTER_MASTER_KEY is set, a new key is yours to make (openssl rand -base64 32): restart all nodes with it as the last key,',
  'restart them again with it as the first, and run this.',
];
