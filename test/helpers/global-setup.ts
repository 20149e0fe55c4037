/** Makes one migrated embedded database per run, which tests copy: making one takes seconds, copying it does not. */
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import type { TestProject } from 'vitest/node';
import { openDatabase } from '../../src/store/database.ts';

declare module 'vitest' {
  // eslint-disable-next-line typescript/consistent-type-definitions -- augmentation of an interface
  export interface ProvidedContext {
    /** A data directory to copy, never to open. */
    embedded_template: string;
  }
}

export default async function setup(project: TestProject): Promise<() => void> {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'overwinter-template-'));
  const database = await openDatabase({ kind: 'embedded', directory });
  await database.close();
  project.provide('embedded_template', directory);
  return () => fs.rmSync(directory, { recursive: true, force: true });
}
