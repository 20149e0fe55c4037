/** Small steps that tests of computers share. */

import { randomBytes } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import type { Computer, ExecSpec, Exit } from '../../src/resource/computer/driver.ts';

export type Result = Exit & { stdout: string; stderr: string };

/** Runs a script to its end; keeps at most 16 MiB of each stream. */
export async function runScript(
  computer: Computer,
  script: string,
  more: Partial<ExecSpec> = {},
): Promise<Result> {
  const { output, exit } = computer.exec({ script, timeout_ms: 30_000, ...more });
  const kept = { stdout: [] as Uint8Array[], stderr: [] as Uint8Array[] };
  const bytes = { stdout: 0, stderr: 0 };
  for await (const { stream, data } of output) {
    bytes[stream] += data.length;
    if (bytes[stream] <= 16_777_216) kept[stream].push(data);
  }
  return { ...(await exit), stdout: textOf(kept.stdout), stderr: textOf(kept.stderr) };
}

function textOf(parts: Uint8Array[]): string {
  return Buffer.concat(parts).toString();
}

export function freshId(): string {
  return `cmp_${randomBytes(12).toString('hex')}`;
}

/** Polls until it holds; throws after the deadline. */
export async function until(holds: () => Promise<boolean>, deadline_ms = 10_000): Promise<void> {
  const end_ms = performance.now() + deadline_ms;
  while (!(await holds())) {
    if (performance.now() > end_ms) throw new Error('the condition did not come true in time');
    await delay(20);
  }
}

export async function bytesOf(content: AsyncIterable<Uint8Array> | null): Promise<Buffer> {
  if (content === null) throw new Error('nothing there');
  const parts: Uint8Array[] = [];
  for await (const chunk of content) parts.push(chunk);
  return Buffer.concat(parts);
}
