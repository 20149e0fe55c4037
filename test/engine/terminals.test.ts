/** Shells of real terminals with several viewers: what they are shown, what they type, who is dropped, and when a shell ends. */
import { createHash, randomBytes } from 'node:crypto';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createConnectTokens, TOKEN_TTL_MS } from '../../src/engine/computers/connect-tokens.ts';
import { createScrollback } from '../../src/engine/computers/scrollback.ts';
import type { TerminalEnd, Viewer } from '../../src/engine/computers/audience.ts';
import type { Shell } from '../../src/engine/computers/shell.ts';
import {
  createTerminals,
  type TerminalBounds,
  type Terminals,
} from '../../src/engine/computers/terminals.ts';
import type { Computer } from '../../src/resource/computer/driver.ts';
import { makeId, type NewId } from '../../src/resource/id.ts';
import { processDriver } from '../../src/sandbox/process.ts';
import { freshId } from '../conformance/computers.ts';
import { LIMITS } from '../conformance/driver.ts';
import { eventually } from '../helpers/world.ts';

const ORG = 'org_test';
const newId: NewId = (kind) => makeId(kind, Date.now(), randomBytes(6).toString('hex'));
const now = (): number => Date.now();

let directory: string;
let driver: ReturnType<typeof processDriver>;
let computer: Computer;

beforeAll(async () => {
  directory = fs.mkdtempSync(path.join(os.tmpdir(), 'ow-terminals-'));
  driver = processDriver({ computers_dir: directory, installation: 'test', fail: () => undefined });
  computer = await wake();
});
afterAll(async () => {
  await driver.close();
  fs.rmSync(directory, { recursive: true, force: true });
});

async function wake(): Promise<Computer> {
  const request = { id: freshId(), reference: null, from_generation: 0, generation: 1, snapshot: null };
  const woken = await driver.wake({ ...request, limits: LIMITS, network: { mode: 'off' }, image: null });
  return woken.computer;
}

function terminalsOf(bounds: Partial<TerminalBounds> = {}, of = computer): Terminals {
  return createTerminals({ newId, now }, { use: () => Promise.resolve(of) }, bounds);
}

type Watcher = Viewer & { text: () => string; bytes: () => number; ended: TerminalEnd[] };

/** Takes everything at once. */
function watcher(): Watcher {
  const shown: Uint8Array[] = [];
  const ended: TerminalEnd[] = [];
  return {
    show: async (data) => void shown.push(Uint8Array.from(data)),
    end: (why) => void ended.push(why),
    text: () => Buffer.concat(shown).toString(),
    bytes: () => shown.reduce((sum, { length }) => sum + length, 0),
    ended,
  };
}

/** Takes nothing, ever. */
function stalled(): Watcher {
  return { ...watcher(), show: () => new Promise(() => undefined) };
}

const say = (shell: Shell, viewer: Viewer, text: string): void => {
  const attached = shell.attach(viewer);
  void attached.input(Buffer.from(text));
};

const shows = (viewer: Watcher, wanted: RegExp): Promise<unknown> =>
  eventually(() => Promise.resolve(wanted.test(viewer.text())));

const ends = (viewer: Watcher, why: TerminalEnd): Promise<unknown> =>
  eventually(() => Promise.resolve(viewer.ended.join() === why));

describe('a shell', () => {
  it('shows the same to all its viewers, and to who comes later what was shown before', async () => {
    const shell = await terminalsOf().open(ORG, 'cmp');
    const [first, second, third] = [watcher(), watcher(), watcher()];
    shell.attach(second);
    say(shell, first, 'echo gr""üße\r');
    await shows(first, /grüße/);
    await shows(second, /grüße/);
    shell.attach(third);
    await shows(third, /grüße/);
    expect(third.text()).toBe(first.text());
    shell.end('closed');
    expect([first, second, third].map(({ ended }) => ended)).toEqual([['closed'], ['closed'], ['closed']]);
  });

  it('lives on when everyone has left, and ends when nobody comes back for too long', async () => {
    const terminals = terminalsOf({ idle_ms: 300 });
    const shell = await terminals.open(ORG, 'cmp');
    const viewer = watcher();
    const attached = shell.attach(viewer);
    void attached.input(Buffer.from('colour=blue\r'));
    await shows(viewer, /blue/);
    attached.leave();
    const again = watcher();
    say(shell, again, 'echo is-$colour\r');
    await shows(again, /is-blue/);
    expect(viewer.text()).not.toContain('is-blue');
    expect(terminals.find(shell.id)).toBe(shell);
    const idle = await terminals.open(ORG, 'cmp');
    await eventually(() => Promise.resolve(terminals.find(idle.id) === undefined));
    expect(terminals.find(shell.id)).toBe(shell);
    shell.end('closed');
    expect(() => shell.attach(watcher())).toThrow('has ended');
  });

  it('takes on the last of many sizes', async () => {
    const shell = await terminalsOf().open(ORG, 'cmp');
    const viewer = watcher();
    const attached = shell.attach(viewer);
    for (let rows = 20; rows <= 60; rows += 1) attached.resize(rows, 132);
    await attached.input(Buffer.from('stty size\r'));
    await shows(viewer, /60 132/);
    shell.end('closed');
  });

  it('is interrupted by Ctrl-C, and ends when it exits', async () => {
    const shell = await terminalsOf().open(ORG, 'cmp');
    const viewer = watcher();
    const attached = shell.attach(viewer);
    await attached.input(Buffer.from('(echo be""gun; exec sleep 600); echo not-he""re\r'));
    await shows(viewer, /begun/);
    await attached.input(Buffer.from([3]));
    // What is typed before the prompt is back may be thrown away with what was interrupted.
    await shows(viewer, /\^C[^]*[$#] /);
    await attached.input(Buffer.from('echo go""es-on\r'));
    await shows(viewer, /goes-on/);
    expect(viewer.text()).not.toContain('not-here');
    await attached.input(Buffer.from('echo last""-word; exit 3\r'));
    await ends(viewer, 'exited');
    expect(viewer.text()).toContain('last-word');
  });

  it('ends as lost when its computer stops', async () => {
    const own = await wake();
    const terminals = terminalsOf({}, own);
    const shell = await terminals.open(ORG, 'cmp');
    const viewer = watcher();
    shell.attach(viewer);
    await own.hibernate();
    await ends(viewer, 'lost');
    expect(terminals.find(shell.id)).toBeUndefined();
  });

  it('takes a flood of input in order and whole', async () => {
    const shell = await terminalsOf().open(ORG, 'cmp');
    const viewer = watcher();
    const attached = shell.attach(viewer);
    await attached.input(Buffer.from('stty -echo; echo re""ady; cat | sha1sum; echo do""ne\r'));
    await shows(viewer, /ready/);
    const line = `${'x'.repeat(70)}\r`;
    const pieces = Array.from({ length: 4000 }, (_, number) =>
      attached.input(Buffer.from(`${number}${line}`)),
    );
    await Promise.all(pieces);
    await attached.input(Buffer.from([4]));
    await shows(viewer, /done/);
    const lines = Array.from({ length: 4000 }, (_, number) => `${number}${'x'.repeat(70)}\n`).join('');
    expect(viewer.text()).toContain(createHash('sha1').update(lines).digest('hex'));
    shell.end('closed');
  });
});

describe('a viewer that takes nothing', () => {
  it('is dropped once it is too far behind; the others see everything', async () => {
    const shell = await terminalsOf({ backlog_bytes_max: 100_000 }).open(ORG, 'cmp');
    const [fast, slow] = [watcher(), stalled()];
    shell.attach(slow);
    say(shell, fast, 'seq 1 200000; echo do""ne\r');
    await shows(fast, /done/);
    expect(slow.ended).toEqual(['slow']);
    expect(fast.ended).toEqual([]);
    expect(fast.text()).toContain('\n199999\r\n200000\r\ndone');
    shell.end('closed');
  });

  it('holds up a shell of its own no longer than it may', async () => {
    const shell = await terminalsOf({ stall_ms: 200 }).open(ORG, 'cmp');
    const slow = stalled();
    say(shell, slow, 'seq 1 200000; echo do""ne\r');
    await ends(slow, 'slow');
    const later = watcher();
    shell.attach(later);
    await shows(later, /200000\r\ndone/);
    shell.end('closed');
  });
});

describe('the shells of a node', () => {
  it('are bounded for a computer; one that ends makes room', async () => {
    const terminals = terminalsOf({ per_computer_max: 2 });
    const shells = await Promise.all([terminals.open(ORG, 'cmp'), terminals.open(ORG, 'cmp')]);
    await expect(terminals.open(ORG, 'cmp')).rejects.toMatchObject({ code: 'conflict' });
    const other = await terminals.open(ORG, 'other');
    shells[0].end('closed');
    const next = await terminals.open(ORG, 'cmp');
    for (const shell of [shells[1], other, next]) shell.end('closed');
  });

  it('give the place back where a terminal cannot be made', async () => {
    const broken = { use: () => Promise.reject(new Error('no')) };
    const terminals = createTerminals({ newId, now }, broken, { per_computer_max: 1 });
    await expect(terminals.open(ORG, 'cmp')).rejects.toThrow('no');
    await expect(terminals.open(ORG, 'cmp')).rejects.toThrow('no');
  });

  it('bound the viewers of one, and end together', async () => {
    const terminals = terminalsOf({ viewers_max: 1 });
    const shell = await terminals.open(ORG, 'cmp');
    const viewer = watcher();
    shell.attach(viewer);
    expect(() => shell.attach(watcher())).toThrow('1 clients are attached');
    terminals.close();
    expect(viewer.ended).toEqual(['stopping']);
    await expect(terminals.open(ORG, 'cmp')).rejects.toMatchObject({ code: 'unavailable' });
  });
});

describe('a connect token', () => {
  const holder = { id: 'key_1', org: ORG };

  it('is good for its time, again and again, and for its terminal only', () => {
    let clock = 1_000_000;
    const [tokens, others] = [createConnectTokens(() => clock), createConnectTokens(() => clock)];
    const { token, expires_at } = tokens.issue(holder);
    expect(token).toMatch(/^owtt_[A-Za-z0-9_-]{43}$/);
    expect(expires_at.getTime()).toBe(clock + TOKEN_TTL_MS);
    clock += TOKEN_TTL_MS - 1;
    expect([tokens.redeem(token), tokens.redeem(token)]).toEqual([holder, holder]);
    expect(others.redeem(token)).toBeUndefined();
    expect(tokens.redeem(`${token}x`)).toBeUndefined();
    clock += 1;
    expect(tokens.redeem(token)).toBeUndefined();
  });

  it('makes room for new ones, the oldest first', () => {
    const tokens = createConnectTokens(() => 0);
    const issued = Array.from({ length: 65 }, () => tokens.issue(holder).token);
    expect(issued.map((token) => tokens.redeem(token) !== undefined)).toEqual(
      issued.map((_, index) => index > 0),
    );
  });
});

describe('the scrollback', () => {
  const held = (bytes_max: number, ...pieces: string[]): string => {
    const scrollback = createScrollback(bytes_max);
    for (const piece of pieces) scrollback.add(Buffer.from(piece));
    return scrollback.read().toString();
  };

  it('holds everything that fits', () => {
    expect(held(10, '')).toBe('');
    expect(held(10, 'ab', 'cd')).toBe('abcd');
    expect(held(10, '01234', '56789')).toBe('0123456789');
  });

  it('begins at a line where something is lost', () => {
    expect(held(10, 'first\n', 'second\n')).toBe('second\n');
    expect(held(10, 'a long line and\nthe end')).toBe('the end');
    expect(held(6, 'ab\ncd\n', 'ef\n')).toBe('ef\n');
  });

  it('begins at a whole character where there is no line', () => {
    expect(held(7, 'ööööö')).toBe('ööö');
    expect(held(7, '🙂🙂')).toBe('🙂');
  });

  it('is the same for any pieces', () => {
    const text = Array.from({ length: 300 }, (_, number) => `line ${number} äöü\n`).join('');
    const bytes = Buffer.from(text);
    for (const size of [1, 7, 100, 999, 1000, 1001, 5000]) {
      const scrollback = createScrollback(1000);
      for (let from = 0; from < bytes.length; from += size) scrollback.add(bytes.subarray(from, from + size));
      const read = scrollback.read().toString();
      expect(text.endsWith(read)).toBe(true);
      expect(read.startsWith('line ')).toBe(true);
      expect(Buffer.byteLength(read)).toBeGreaterThan(900);
    }
  });
});
