/** What is done in a program's process before it is the program: limits, identity, control groups, mounts. */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, rmSync, rmdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { start, type StartOptions } from '../../src/sandbox/launcher.ts';
import { become, callNumbers, limitTo } from '../../src/sandbox/prepare.ts';
import { collect } from '../../src/sandbox/run.ts';

const is_root = process.getuid?.() === 0;
const UID = 165_000;

async function output(script: string, options: StartOptions): Promise<{ code: number | null; said: string }> {
  const program = await start(['bash', '-c', script], ['ignore', 'pipe', 'pipe'], options);
  const said = [collect(program, 1), collect(program, 2)];
  const { code } = await program.closed;
  return { code, said: said.map((each) => each()).join('') };
}

describe('a step', () => {
  it('limits the program, and cannot be undone by it', async () => {
    const prepare = [limitTo('fsize', 2048), limitTo('core', 0), limitTo('nofile', 64)];
    const script = 'ulimit -f; ulimit -c; ulimit -n; ulimit -n unlimited 2>/dev/null || echo refused';
    expect(await output(script, { prepare })).toEqual({ code: 0, said: '2\n0\n64\nrefused\n' });
  });

  it('that fails ends the program before it begins, with a sentence', async () => {
    const prepare = [['limit', '99', '1']];
    const ended = await output('echo begun', { prepare });
    expect(ended).toEqual({ code: 125, said: 'limit 99: Invalid argument\n' });
  });

  it('is called by the numbers of its architecture', () => {
    expect(callNumbers('x64')?.join(' ')).toBe('prlimit64=302 unshare=272 mount=165 setgroups=116 prctl=157');
    expect(callNumbers('arm64')?.join(' ')).toBe('prlimit64=261 unshare=97 mount=40 setgroups=159 prctl=167');
    expect(callNumbers('mips')).toBeNull();
  });
});

describe.runIf(is_root)('of a server that is root, a step', () => {
  it('takes all that the server may away', async () => {
    const script =
      'id -u; id -g; id -G; grep -E "^(Uid|Gid|Groups|CapEff|CapPrm|NoNewPrivs)" /proc/self/status';
    const { code, said } = await output(script, { prepare: [become(UID)] });
    const ids = `${UID}\t${UID}\t${UID}\t${UID}`;
    const none = '0000000000000000';
    expect(code).toBe(0);
    expect(said.replaceAll(/\s+\n/g, '\n').split('\n')).toEqual([
      ...[UID, UID, UID].map(String),
      ...[
        `Uid:\t${ids}`,
        `Gid:\t${ids}`,
        'Groups:',
        `CapPrm:\t${none}`,
        `CapEff:\t${none}`,
        'NoNewPrivs:\t1',
      ],
      '',
    ]);
  });

  it('mounts where nobody else sees it', async () => {
    const at = mkdtempSync(join(tmpdir(), 'ow-mount-'));
    const overlay = ['lower', 'upper', 'work', 'merged'];
    for (const name of overlay) mkdirSync(join(at, name));
    const step = ['overlay', at, 'lowerdir=lower,upperdir=upper,workdir=work', 'merged', 'upper', '0'];
    const script = `echo inside >${at}/merged/file && cat ${at}/merged/file`;
    expect(await output(script, { prepare: [['apart'], step] })).toEqual({ code: 0, said: 'inside\n' });
    expect([existsSync(join(at, 'upper/file')), existsSync(join(at, 'merged/file'))]).toEqual([true, false]);
    rmSync(at, { recursive: true });
  });
});

describe.runIf(is_root)('a control group of version 2', () => {
  const root = mkdtempSync(join(tmpdir(), 'ow-cgroup2-'));
  const group = join(root, `overwinter-test-${process.pid}`);
  const mounted = mount();
  afterAll(() => {
    if (mounted) execFileSync('umount', [root]);
    rmdirSync(root);
  });

  it.runIf(mounted)('has the program from its beginning', async () => {
    mkdirSync(group);
    const procs = join(group, 'cgroup.procs');
    // What is written goes nowhere: the program does not get there by itself.
    execFileSync('mount', ['--bind', '/dev/null', procs]);
    const born = await output('grep ^0:: /proc/self/cgroup', { join: [procs] });
    execFileSync('umount', [procs]);
    expect(born.said).toMatch(new RegExp(`^0::.*/overwinter-test-${process.pid}\n$`));
    rmdirSync(group);
  });

  function mount(): boolean {
    try {
      execFileSync('mount', ['-t', 'cgroup2', 'none', root], { stdio: 'ignore' });
      return true;
    } catch {
      return false;
    }
  }
});
