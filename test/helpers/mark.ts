/** Runs in every test file of the suite: marks it as one that ran. */
import path from 'node:path';
import { expect } from 'vitest';
import { record } from './records.ts';

const ROOT = path.join(import.meta.dirname, '..', '..');
record('files', `${JSON.stringify(path.relative(ROOT, expect.getState().testPath ?? ''))}\n`);
