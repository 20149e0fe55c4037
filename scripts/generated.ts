/**
 * Writes what derives from the code into schema/: the JSON Schema of every event type, the OpenAPI document and the database's catalogue. With `--check` it
 * writes nothing and fails when a file is not what the code says.
 */
import fs from 'node:fs';
import { z } from 'zod';
import type { Computers } from '../src/engine/computers/computers.ts';
import type { Deployments } from '../src/engine/deployments/deployments.ts';
import type { Runtime } from '../src/engine/runtime.ts';
import { createApp, describe } from '../src/http/app.ts';
import { COMPUTER_EVENTS } from '../src/resource/computer/event.ts';
import { EVENTS } from '../src/session/event.ts';
import { schemaSql } from './schema-sql.ts';

/** A new kind of generated file is one line here. */
const FILES: Record<string, () => string | Promise<string>> = {
  'events.json': () => json(eventSchemas()),
  'openapi.json': () => json(openApi()),
  'schema.sql': schemaSql,
};

const DIRECTORY = new URL('../schema/', import.meta.url);
const check = process.argv.includes('--check');
const stale: string[] = [];

for (const [name, make] of Object.entries(FILES)) {
  const file = new URL(name, DIRECTORY);
  const wanted = await make();
  const found = fs.existsSync(file) ? fs.readFileSync(file, 'utf8') : undefined;
  if (found === wanted) continue;
  stale.push(`schema/${name}`);
  if (!check) fs.writeFileSync(file, wanted);
}

if (stale.length > 0)
  console.log(`${stale.join(', ')} ${check ? 'out of date: run npm run generated' : 'written'}`);
process.exitCode = check && stale.length > 0 ? 1 : 0;

function eventSchemas(): object {
  const of_sessions = Object.entries(EVENTS).map(([type, { level, body }]) => [type, level, body] as const);
  const of_computers = Object.entries(COMPUTER_EVENTS).map(
    ([type, body]) => [type, 'runtime', body] as const,
  );
  const types = [...of_sessions, ...of_computers].map(([type, level, body]) => {
    const { $schema: _, ...schema } = z.toJSONSchema(body);
    return [type, { level, body: schema }];
  });
  return {
    $schema: 'https://json-schema.org/draft/2020-12/schema',
    types: Object.fromEntries(types) as object,
  };
}

/** Describing asks nothing of the runtime, so an empty one does. */
function openApi(): object {
  const { version } = JSON.parse(fs.readFileSync(new URL('../package.json', import.meta.url), 'utf8')) as {
    version: string;
  };
  const signal = new AbortController().signal;
  return describe(
    createApp({} as Runtime, {
      signal,
      version,
      capabilities: {},
      computers: {} as Computers,
      deployments: {} as Deployments,
    }),
    version,
  );
}

function json(value: object): string {
  return `${JSON.stringify(value, null, 2)}\n`;
}
