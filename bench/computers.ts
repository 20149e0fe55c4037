/**
 * What a computer costs beyond the bare sandbox program: create → first output, start → first output, and one command, through the HTTP
 * API of a real server, each against bubblewrap run by hand with the same view of files, in alternating rounds (bare, ours, ours, bare).
 * Then what a stopped computer keeps in memory, and how many idle ones fit in a GiB; and what a command costs more beside a computer
 * that takes all it can get. `--short` for a quick look.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { startNode, type TestNode } from '../test/helpers/node.ts';

const short = process.argv.includes('--short');
const ROUNDS = short ? 5 : 40;
const IDLE = short ? 5 : 50;
const GOAL = 1.5;

/** What one computer may do to the others. Each ends when its computer is deleted. */
const HOGS = {
  'busy loops': 'for each in 1 2 3 4 5 6 7 8; do (while :; do :; done) & done; wait',
  'a fork bomb': 'bomb() { bomb | bomb & }; bomb; sleep 300',
  'endless output': 'yes',
  'a full disk': 'while :; do head -c 4G /dev/zero >full; done 2>/dev/null',
};
const NEIGHBOUR_GOAL = 1.1;
/** A command that computes, for some tenths of a second. */
const WORK = 'for ((i = 0; i < 100000; i++)); do :; done';

/** As one would write it by hand: namespaces, no seccomp, no limits, a shell that reads commands. */
const BARE = [
  ...['--unshare-all', '--die-with-parent', '--new-session', '--ro-bind', '/usr', '/usr'],
  ...['--symlink', 'usr/bin', '/bin', '--symlink', 'usr/lib', '/lib', '--symlink', 'usr/lib64', '/lib64'],
  ...['--proc', '/proc', '--dev', '/dev', '--tmpfs', '/tmp', '--chdir', '/tmp'],
];

const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'overwinter-bench-'));
fs.chmodSync(directory, 0o711);
const node = await startNode({
  OVERWINTER_DATA_DIR: directory,
  OVERWINTER_COMPUTERS_DIR: path.join(directory, 'computers'),
});
try {
  console.log(
    `${os.availableParallelism()} cores, load ${os.loadavg()[0]!.toFixed(2)}; ${ROUNDS} rounds; goal at most ${GOAL}`,
  );
  await measureCreate();
  await measureStart();
  await measureExec();
  await measureMemory();
  await measureNeighbours();
} finally {
  await node.stop();
  fs.rmSync(directory, { recursive: true, force: true });
}

async function measureCreate(): Promise<void> {
  await compare('create → first output', bareOnce, async () => {
    const began = performance.now();
    const id = await create();
    await exec(id, 'echo ready');
    const took = performance.now() - began;
    await call(node, `DELETE /v1/computers/${id}`);
    return took;
  });
}

async function measureStart(): Promise<void> {
  const id = await create();
  await compare('start → first output', bareOnce, async () => {
    await call(node, `POST /v1/computers/${id}/stop`);
    const began = performance.now();
    await call(node, `POST /v1/computers/${id}/start`);
    await exec(id, 'echo ready');
    return performance.now() - began;
  });
  await call(node, `DELETE /v1/computers/${id}`);
}

/** A command in a sandbox that is there: a line to the bare one's shell, and a request to ours. */
async function measureExec(): Promise<void> {
  const id = await create();
  const bare = await startBare();
  await compare(
    'one command',
    () => bare.run('bash -c "echo pong"'),
    async () => {
      const began = performance.now();
      await exec(id, 'echo pong');
      return performance.now() - began;
    },
  );
  bare.end();
  await call(node, `DELETE /v1/computers/${id}`);
}

async function measureMemory(): Promise<void> {
  const before = kibOfComputers();
  const ids: string[] = [];
  for (let index = 0; index < IDLE; index += 1) ids.push(await create());
  const awake = kibOfComputers() - before;
  for (const id of ids) await call(node, `POST /v1/computers/${id}/stop`);
  const asleep = kibOfComputers() - before;
  for (const id of ids) await call(node, `DELETE /v1/computers/${id}`);
  const each = awake / IDLE;
  console.log(
    `idle: ${(each / 1024).toFixed(2)} MiB each (proportional), ${Math.floor((1024 * 1024) / each)} in a GiB; stopped: ${asleep} KiB`,
  );
}

async function measureNeighbours(): Promise<void> {
  const id = await create();
  for (const [name, script] of Object.entries(HOGS)) {
    const rounds: { alone: Took; beside: Took }[] = [];
    for (let round = 0; round < (short ? 1 : 5); round += 1) {
      const before = await measureCommands(id);
      const hog = await create();
      const hogging = exec(hog, script, 300).catch(() => undefined);
      const beside = await measureCommands(id);
      await call(node, `DELETE /v1/computers/${hog}`);
      await hogging;
      const after = await measureCommands(id);
      const alone = { quick: mean([before.quick, after.quick]), work: mean([before.work, after.work]) };
      rounds.push({ alone, beside });
    }
    const ratio = (of: keyof Took): string =>
      median(rounds.map(({ alone, beside }) => beside[of] / alone[of])).toFixed(2);
    console.log(
      `beside ${name}: a quick command ${ratio('quick')} of alone, one of work ${ratio('work')}; goal at most ${NEIGHBOUR_GOAL}`,
    );
  }
  await call(node, `DELETE /v1/computers/${id}`);
}

/** Medians in milliseconds: of a command that only starts and ends, and of one that computes. */
type Took = { quick: number; work: number };

async function measureCommands(id: string): Promise<Took> {
  const quick: number[] = [];
  const work: number[] = [];
  for (let index = 0; index < (short ? 20 : 60); index += 1) quick.push(await timed(id, 'echo pong'));
  for (let index = 0; index < (short ? 3 : 10); index += 1) work.push(await timed(id, WORK));
  return { quick: median(quick), work: median(work) };
}

async function timed(id: string, command: string): Promise<number> {
  const began = performance.now();
  await exec(id, command);
  return performance.now() - began;
}

async function compare(
  name: string,
  bare: () => Promise<number>,
  ours: () => Promise<number>,
): Promise<void> {
  await bare();
  await ours();
  const rounds: { bare: number; ours: number }[] = [];
  for (let round = 0; round < ROUNDS; round += 1) {
    const before = await bare();
    const both = [await ours(), await ours()];
    rounds.push({ bare: mean([before, await bare()]), ours: mean(both) });
  }
  const ratio = median(rounds.map((round) => round.ours / round.bare));
  const ms = (of: 'bare' | 'ours'): string => median(rounds.map((round) => round[of])).toFixed(1);
  console.log(`${name}: ${ms('ours')} ms, bare ${ms('bare')} ms, ratio ${ratio.toFixed(2)}`);
}

/** A sandbox from nothing to its first output, and gone again. */
async function bareOnce(): Promise<number> {
  const began = performance.now();
  const bare = await startBare();
  await bare.run('echo ready');
  const took = performance.now() - began;
  bare.end();
  return took;
}

type Bare = { run: (command: string) => Promise<number>; end: () => void };

async function startBare(): Promise<Bare> {
  const child: ChildProcess = spawn('bwrap', [...BARE, '/bin/sh'], { stdio: ['pipe', 'pipe', 'ignore'] });
  const lines = createInterface({ input: child.stdout! });
  return {
    run: async (command) => {
      const began = performance.now();
      const line = once(lines, 'line');
      child.stdin!.write(`${command}\n`);
      await line;
      return performance.now() - began;
    },
    end: () => void child.kill('SIGKILL'),
  };
}

/** What all processes of sandboxes hold, shared pages counted in parts. */
function kibOfComputers(): number {
  return fs
    .readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name) && isOfComputer(name))
    .reduce((sum, pid) => sum + pssOf(pid), 0);
}

function isOfComputer(pid: string): boolean {
  if (Number(pid) === process.pid || Number(pid) === node.process.pid) return false;
  try {
    return fs.readlinkSync(`/proc/${pid}/ns/pid`) !== fs.readlinkSync('/proc/self/ns/pid') || isBwrap(pid);
  } catch {
    return false;
  }
}

function isBwrap(pid: string): boolean {
  return fs.readFileSync(`/proc/${pid}/comm`, 'utf8').trim() === 'bwrap';
}

function pssOf(pid: string): number {
  try {
    return Number(/^Pss:\s+(\d+)/m.exec(fs.readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8'))?.[1] ?? 0);
  } catch {
    return 0;
  }
}

async function create(): Promise<string> {
  return (await call<{ id: string }>(node, 'POST /v1/computers', { network_policy: { mode: 'off' } })).id;
}

async function exec(id: string, command: string, timeout = 30): Promise<void> {
  await call(node, `POST /v1/computers/${id}/exec`, { command, timeout });
}

async function call<Answer>({ url, api_key }: TestNode, what: string, body?: object): Promise<Answer> {
  const [method = '', route = ''] = what.split(' ');
  const response = await fetch(url + route, {
    method,
    headers: { authorization: `Bearer ${api_key}`, 'content-type': 'application/json' },
    ...(body && { body: JSON.stringify(body) }),
  });
  if (!response.ok) throw new Error(`${what} answered ${response.status}: ${await response.text()}`);
  return (await response.json()) as Answer;
}

function mean(values: number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

function median(values: number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)]!;
}
