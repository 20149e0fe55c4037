/**
 * Makes one migrated embedded database per run, which tests copy: making one takes seconds, copying it does not. And one directory
 * for what the run records.
 */
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import type { TestProject } from 'vitest/node';
import { openDatabase } from '../../src/store/ground/database.ts';
import { RECORDS } from './records.ts';

declare module 'vitest' {
  // eslint-disable-next-line typescript/consistent-type-definitions -- augmentation of an interface
  export interface ProvidedContext {
    /** A data directory to copy, never to open. */
    embedded_template: string;
    /** Some tests of the files that run are left out by their name. */
    tests_are_picked: boolean;
  }
}

export default async function setup(project: TestProject): Promise<() => void> {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'overwinter-template-'));
  const database = await openDatabase({ kind: 'embedded', directory });
  await database.close();
  project.provide('embedded_template', directory);
  project.provide('tests_are_picked', project.vitest.config.testNamePattern !== undefined);
  warmUp();
  const records = fs.mkdtempSync(path.join(os.tmpdir(), 'overwinter-records-'));
  process.env[RECORDS] = records;
  return () => {
    for (const made of [directory, records, process.env['NODE_COMPILE_CACHE']!])
      fs.rmSync(made, { recursive: true, force: true });
  };
}

/** Compiles the server once for all the nodes that tests start: hundreds, and each would take a second for it. */
function warmUp(): void {
  process.env['NODE_COMPILE_CACHE'] = fs.mkdtempSync(path.join(os.tmpdir(), 'overwinter-compiled-'));
  const server = new URL('../../src/server.ts', import.meta.url);
  spawnSync(process.execPath, ['--input-type=module', '-e', `await import('${server.href}')`]);
}
