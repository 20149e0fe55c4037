/**
 * Whether a daemon can keep computers, and if not, what the operator has to do.
 * Invariant: a reason is one sentence that names the remedy.
 */

import { randomBytes } from 'node:crypto';
import type { Computer, Driver, WakeRequest } from '../../resource/computer/driver.ts';

export type Trial = { usable: true } | { usable: false; reason: string };

export type Setting = { socket_path: string; image: string; runtime: string };

const LIMITS = { memory_bytes: 268_435_456, processes_max: 64, cpu_percent: 100, disk_bytes: 67_108_864 };
const TRIAL_MS_MAX = 60_000;

/** Wakes a throw-away computer, writes a file in it and removes it. */
export async function tryComputer(driver: Driver, setting: Setting): Promise<Trial> {
  const id = `probe_${randomBytes(12).toString('hex')}`;
  const request: WakeRequest = {
    ...{ id, reference: null, from_generation: 0, generation: 1, snapshot: null, limits: LIMITS },
    network: { mode: 'off' },
    image: null,
  };
  try {
    const { computer } = await driver.wake(request);
    await expectWorking(computer);
    return { usable: true };
  } catch (error) {
    return { usable: false, reason: reasonOf(error as Error, setting) };
  } finally {
    await driver.destroy(id, null).catch(() => {});
  }
}

async function expectWorking(computer: Computer): Promise<void> {
  const { exit, output } = computer.exec({
    script: 'touch /workspace/trial "$HOME/trial"',
    timeout_ms: TRIAL_MS_MAX,
  });
  let said = '';
  for await (const { data } of output) said = (said + Buffer.from(data).toString()).slice(-1000);
  const { outcome, exit_code } = await exit;
  if (exit_code !== 0) throw new Error(`a trial script ended ${outcome} ${exit_code}: ${said}`);
}

function reasonOf(error: Error, { socket_path, image, runtime }: Setting): string {
  const text = error.message.replaceAll(/\s+/g, ' ').trim();
  const code = (error as NodeJS.ErrnoException).code ?? '';
  if (['ENOENT', 'ECONNREFUSED'].includes(code)) {
    return `No container engine answers at ${socket_path}: start one, or set OVERWINTER_DOCKER_SOCKET.`;
  }
  if (['EACCES', 'EPERM'].includes(code)) {
    return `The server may not use ${socket_path}: add its user to the group that owns it, or set OVERWINTER_DOCKER_SOCKET.`;
  }
  if (/no such image/i.test(text)) {
    return `The image ${image} is not there: run \`docker pull ${image}\`, or set OVERWINTER_DOCKER_IMAGE.`;
  }
  if (/unknown (or invalid )?runtime/i.test(text)) {
    return `The engine has no runtime ${runtime}: add it to its daemon.json, or set OVERWINTER_DOCKER_RUNTIME.`;
  }
  if (/\/bin\/bash|executable file not found/i.test(text)) {
    return `The image ${image} has no /bin/bash with coreutils and util-linux: set OVERWINTER_DOCKER_IMAGE to one that has, such as debian:bookworm (${text}).`;
  }
  return `A trial container did not work: ${text}.`;
}
