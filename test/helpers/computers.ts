/** A server whose computers are real processes in a directory of their own: commands run, and run unconfined. */
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { processDriver } from '../../src/sandbox/process.ts';
import { startServer, type TestServer } from './http.ts';

/** With the parameters of `startServer`. */
export async function startComputerServer(...given: Parameters<typeof startServer>): Promise<TestServer> {
  const [overrides, ...rest] = given;
  const computers_dir = fs.mkdtempSync(path.join(os.tmpdir(), 'ow-v1-'));
  const driver = processDriver({ computers_dir, installation: 'test', fail: () => undefined });
  const server = await startServer({ driver, ...overrides }, ...rest);
  const close = async (): Promise<void> => {
    await driver.close();
    await server.close();
    fs.rmSync(computers_dir, { recursive: true, force: true });
  };
  return { ...server, close };
}
