import { describe, expect, test } from 'vitest';
import { refusedCalls, seccompProgram } from '../../../src/sandbox/bwrap/seccomp.ts';
import type { Architecture } from '../../../src/sandbox/bwrap/seccomp.ts';

const ALLOW = 0x7fff0000;
const KILL = 0x80000000;
const errno = (number: number): number => 0x00050000 | number;
const [EPERM, ENOSYS, EAFNOSUPPORT] = [errno(1), errno(38), errno(97)];

const MACHINES = {
  x64: {
    audit: 0xc000003e,
    read: 0,
    clone: 56,
    clone3: 435,
    unshare: 272,
    ioctl: 16,
    socket: 41,
    ptrace: 101,
  },
  arm64: {
    audit: 0xc00000b7,
    read: 63,
    clone: 220,
    clone3: 435,
    unshare: 97,
    ioctl: 29,
    socket: 198,
    ptrace: 117,
  },
} as const;

describe.each(['x64', 'arm64'] as const)('on %s', (architecture: Architecture) => {
  const program = seccompProgram(architecture);
  const machine = MACHINES[architecture];
  const verdict = (number: number, args: number[] = [], audit: number = machine.audit): number =>
    evaluate(program, { number, audit, args });

  test('an ordinary call passes', () => {
    expect(verdict(machine.read, [1, 2, 3])).toBe(ALLOW);
  });

  test('every listed call is refused', () => {
    expect(refusedCalls(architecture).length).toBeGreaterThan(50);
    for (const { name, number } of refusedCalls(architecture)) {
      expect([name, verdict(number)]).toEqual([name, EPERM]);
    }
  });

  test('a program of another architecture is killed, and x32 calls do not exist', () => {
    const other = architecture === 'x64' ? 0x40000003 : 0x40000028;
    expect(verdict(machine.read, [], other)).toBe(KILL);
    expect(verdict(machine.read + 0x40000000)).toBe(ENOSYS);
  });

  test('a thread may be made, a namespace may not', () => {
    expect(verdict(machine.clone, [0x003d0f00])).toBe(ALLOW);
    for (const bit of [17, 25, 26, 27, 28, 29, 30]) {
      expect(verdict(machine.clone, [2 ** bit + 17])).toBe(EPERM);
      expect(verdict(machine.unshare, [2 ** bit])).toBe(EPERM);
    }
    expect(verdict(machine.unshare, [0x400])).toBe(ALLOW);
    expect(verdict(machine.clone3)).toBe(ENOSYS);
  });

  test('terminal injection is refused, other terminal calls pass', () => {
    expect(verdict(machine.ioctl, [0, 0x5412])).toBe(EPERM);
    expect(verdict(machine.ioctl, [0, 0x541c])).toBe(EPERM);
    expect(verdict(machine.ioctl, [0, 0x5413])).toBe(ALLOW);
  });

  test('only ordinary socket families pass', () => {
    const passing = Array.from({ length: 46 }, (_, family) => family).filter(
      (family) => verdict(machine.socket, [family]) === ALLOW,
    );
    expect(passing).toEqual([1, 2, 10, 16]);
    expect(verdict(machine.socket, [17])).toBe(EAFNOSUPPORT);
  });

  test('a debugger may start a child, not take a process', () => {
    expect(verdict(machine.ptrace, [0])).toBe(ALLOW);
    expect(verdict(machine.ptrace, [16])).toBe(EPERM);
    expect(verdict(machine.ptrace, [0x4206])).toBe(EPERM);
  });

  test('the kernel takes a program of this length', () => {
    expect(program.length % 8).toBe(0);
    expect(program.length / 8).toBeLessThan(4096);
  });
});

type Call = { number: number; audit: number; args: number[] };

/** What the kernel would do: a classic BPF machine, as far as the program uses it. */
function evaluate(program: Buffer, { number, audit, args }: Call): number {
  const words = new Map([
    [0, number],
    [4, audit],
    ...args.map((value, index): [number, number] => [16 + 8 * index, value]),
  ]);
  let accumulator = 0;
  for (let at = 0; at < program.length / 8; at += 1) {
    const code = program.readUInt16LE(at * 8);
    const operand = program.readUInt32LE(at * 8 + 4);
    if (code === 0x06) return operand;
    if (code === 0x20) accumulator = words.get(operand) ?? 0;
    else at += program.readUInt8(at * 8 + (holds(code, accumulator, operand) ? 2 : 3));
  }
  throw new Error('the program ended without a verdict');
}

function holds(code: number, accumulator: number, operand: number): boolean {
  if (code === 0x15) return accumulator === operand;
  if (code === 0x35) return accumulator >= operand;
  if (code === 0x45) return (accumulator & operand) !== 0;
  throw new Error(`unknown instruction ${code}`);
}
