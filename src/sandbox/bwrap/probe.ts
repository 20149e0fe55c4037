/**
 * Whether this machine can keep computers, and if not, what the operator has to do.
 * Invariant: a reason is one sentence that names the remedy.
 */

import { randomBytes } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import type { Computer, Driver } from '../../resource/computer/driver.ts';
import { run } from '../run.ts';
import type { BwrapVersion } from './view.ts';

export type Trial = { usable: true } | { usable: false; reason: string };

const LIMITS = { memory_bytes: 268_435_456, processes_max: 64, cpu_percent: 100, disk_bytes: 67_108_864 };
const TRIAL_MS_MAX = 10_000;

/** Wakes a throw-away computer, writes a file in it and removes it. */
export async function tryComputer(driver: Driver, computers_dir: string): Promise<Trial> {
  const id = `probe_${randomBytes(12).toString('hex')}`;
  try {
    await bwrapVersion();
    const request = {
      id,
      reference: null,
      from_generation: 0,
      generation: 1,
      snapshot: null,
      limits: LIMITS,
      network: { mode: 'off' },
      image: null,
    } as const;
    const { computer } = await driver.wake(request);
    await expectWorking(computer);
    return { usable: true };
  } catch (error) {
    return { usable: false, reason: await reasonOf(error as Error, computers_dir) };
  } finally {
    await driver.destroy(id, null).catch(() => {});
  }
}

/** The installed bubblewrap's version. Rejects when there is none. */
export async function bwrapVersion(): Promise<BwrapVersion> {
  const text = await run(['bwrap', '--version'], { timeout_ms: TRIAL_MS_MAX });
  const [, major = '0', minor = '0'] = /(\d+)\.(\d+)/.exec(text) ?? [];
  return [Number(major), Number(minor)];
}

async function expectWorking(computer: Computer): Promise<void> {
  const { exit, output } = computer.exec({
    script: 'touch /workspace/trial "$HOME/trial"',
    timeout_ms: TRIAL_MS_MAX,
  });
  let said = '';
  for await (const { data } of output) said += Buffer.from(data).toString();
  const { outcome, exit_code } = await exit;
  if (exit_code !== 0) throw new Error(`a trial script ended ${outcome} ${exit_code}: ${said}`);
}

async function reasonOf(error: Error, computers_dir: string): Promise<string> {
  const text = error.message.replaceAll(/\s+/g, ' ').trim();
  if (/cannot start bwrap/.test(text)) {
    return 'bubblewrap is missing: run `apt-get install bubblewrap`.';
  }
  if (/spawn \/usr\/bin\/perl/.test(text)) return 'perl is missing: run `apt-get install perl-base`.';
  if (/namespace|uid map|Operation not permitted/i.test(text)) return await namespaceReason(text);
  if (/EACCES|EPERM|Permission denied|Can't (find source|bind)/i.test(text)) {
    return `Computers cannot be kept in ${computers_dir} (${text}): set OVERWINTER_COMPUTERS_DIR to a directory that the server can write and other users can reach.`;
  }
  return `A trial computer did not work: ${text}.`;
}

const SWITCHES = [
  { path: 'kernel/unprivileged_userns_clone', forbids: '0', remedy: 'kernel.unprivileged_userns_clone=1' },
  {
    path: 'kernel/apparmor_restrict_unprivileged_userns',
    forbids: '1',
    remedy: 'kernel.apparmor_restrict_unprivileged_userns=0',
  },
  { path: 'user/max_user_namespaces', forbids: '0', remedy: 'user.max_user_namespaces=15000' },
];

async function namespaceReason(text: string): Promise<string> {
  for (const { path, forbids, remedy } of SWITCHES) {
    const value = await readFile(`/proc/sys/${path}`, 'utf8').catch(() => '');
    if (value.trim() === forbids) return `User namespaces are forbidden here: run \`sysctl -w ${remedy}\`.`;
  }
  return `User namespaces are refused here, as in a container without its own: allow them to the server (${text}).`;
}
