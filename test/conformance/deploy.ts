/** Uploading apps as Celesto's Python client does: the same form, field by field, around an archive of files. */
import fs from 'node:fs';
import { request } from 'node:http';
import path from 'node:path';
import { gzipSync } from 'node:zlib';
import { packTar, type TarEntry } from 'modern-tar';
import type { TestNode } from '../helpers/node.ts';
import { recordedFetch, recordSecrets } from '../helpers/records.ts';
import { eventually, type World } from '../helpers/world.ts';

export type App = {
  id: string;
  name: string;
  status: string;
  url: string | null;
  last_error: string | null;
  config: { env_names: string[] };
  release: { number: number; computer_id: string | null } | null;
  serving: { number: number; computer_id: string | null } | null;
};

export type Files = Record<string, string>;

export async function archive(files: Files): Promise<Uint8Array> {
  const entries = Object.entries(files).map(([name, body]): TarEntry => {
    return { header: { name, size: Buffer.byteLength(body), type: 'file' }, body };
  });
  return gzipSync(await packTar(entries));
}

const BOUNDARY = 'c2f1a7d0e5b94f6f8c1d2e3f40516273';

/** The form that the client sends: fields in this order, an empty text for what is not given. */
export function formOf(fields: Record<string, string>, bundle: Uint8Array): Buffer {
  const parts = Object.entries(fields).map(
    ([name, value]) => `--${BOUNDARY}\r\nContent-Disposition: form-data; name="${name}"\r\n\r\n${value}\r\n`,
  );
  const file = `--${BOUNDARY}\r\nContent-Disposition: form-data; name="code_bundle"; filename="app_bundle.tar.gz"\r\nContent-Type: application/gzip\r\n\r\n`;
  return Buffer.concat([Buffer.from(parts.join('') + file), bundle, Buffer.from(`\r\n--${BOUNDARY}--\r\n`)]);
}

export const FORM_TYPE = `multipart/form-data; boundary=${BOUNDARY}`;

export type Door = Pick<TestNode, 'url' | 'api_key'>;

export async function ask(
  door: Door,
  what: string,
  body?: object,
): Promise<{ status: number; json: unknown }> {
  const [method, path] = what.split(' ') as [string, string];
  const response = await recordedFetch(door.url + path, {
    method,
    headers: {
      authorization: `Bearer ${door.api_key}`,
      ...(body && { 'content-type': 'application/json' }),
    },
    ...(body && { body: JSON.stringify(body) }),
  });
  return { status: response.status, json: await response.json() };
}

export async function upload(
  door: Door,
  fields: Record<string, string>,
  bundle: Uint8Array,
): Promise<{ status: number; json: unknown }> {
  const response = await recordedFetch(`${door.url}/v1/deploy/agent`, {
    method: 'POST',
    headers: { authorization: `Bearer ${door.api_key}`, 'content-type': FORM_TYPE },
    body: new Uint8Array(formOf(fields, bundle)),
  });
  return { status: response.status, json: await response.json() };
}

/** Uploads and waits for the end of it. @param config with `env`, as the client sends it. */
export async function deploy(
  door: Door,
  name: string,
  files: Files,
  config: { env?: Record<string, string> } & Record<string, unknown> = { env: {} },
): Promise<App> {
  for (const value of Object.values(config.env ?? {})) recordSecrets({}, value);
  const fields = { name, description: '', project_id: '', config: JSON.stringify(config) };
  const { status, json } = await upload(door, fields, await archive(files));
  if (status !== 201) throw new Error(`deploying answered ${status}: ${JSON.stringify(json)}`);
  return await settled(door, name);
}

export async function settled(door: Door, name: string): Promise<App> {
  let app: App | undefined;
  await eventually(async () => {
    app = (await ask(door, `GET /v1/deploy/apps/${encodeURIComponent(name)}/status`)).json as App;
    return app.status !== 'ENQUEUED' && app.status !== 'BUILDING';
  }, 60_000);
  return app!;
}

/** What the app answers under its own URL. Names below localhost are this machine's, whatever the resolver says. */
export async function visit(app: Pick<App, 'url'>, path = '/'): Promise<string> {
  const url = new URL(path, app.url ?? 'http://nowhere.invalid');
  return await new Promise((resolve, reject) => {
    const asked = request(
      { host: '127.0.0.1', port: url.port, path: url.pathname, headers: { host: url.host }, agent: false },
      (response) => {
        let text = '';
        response.setEncoding('utf8');
        response.on('data', (chunk: string) => (text += chunk));
        response.on('end', () => resolve(`${response.statusCode} ${text}`));
      },
    );
    asked.on('error', reject);
    asked.end();
  });
}

/** What is kept below a folder of the blobs: uploads and bundles, or parts of what is being written. */
export function kept({ directory }: World, folder: 'releases' | '.parts' = 'releases'): string[] {
  const place = path.join(directory, 'blobs', folder);
  return fs.existsSync(place) ? fs.readdirSync(place) : [];
}
