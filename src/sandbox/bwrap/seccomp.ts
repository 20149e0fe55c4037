/**
 * The system calls that a computer may not make, as a classic BPF program for the kernel's seccomp.
 * Invariant: a listed call fails with an errno and never reaches the kernel; every other call passes.
 */

export type Architecture = 'x64' | 'arm64';

const EPERM = 1;
const ENOSYS = 38;
const EAFNOSUPPORT = 97;

const LOAD_WORD = 0x20;
const JUMP_EQUAL = 0x15;
const JUMP_AT_LEAST = 0x35;
const JUMP_ANY_BIT = 0x45;
const RETURN = 0x06;

const ALLOW = 0x7fff0000;
const REFUSE = 0x00050000;
const KILL_PROCESS = 0x80000000;

/** Offsets in the kernel's `struct seccomp_data`; arguments are their lower 32 bits, which is all these calls use. */
const NUMBER_AT = 0;
const ARCHITECTURE_AT = 4;
const argumentAt = (index: number): number => 16 + 8 * index;

const AUDIT_ARCHITECTURE = { x64: 0xc000003e, arm64: 0xc00000b7 } as const;

/** Calls of the x32 ABI carry this bit and would pass a list of plain numbers. */
const X32_BIT = 0x40000000;

/** Calls refused whatever their arguments: [on x64, on arm64], null where the architecture lacks the call. */
const REFUSED: Record<string, [number | null, number | null]> = {
  acct: [163, 89],
  add_key: [248, 217],
  adjtimex: [159, 171],
  bpf: [321, 280],
  chroot: [161, 51],
  clock_adjtime: [305, 266],
  clock_settime: [227, 112],
  delete_module: [176, 106],
  fanotify_init: [300, 262],
  finit_module: [313, 273],
  fsconfig: [431, 431],
  fsmount: [432, 432],
  fsopen: [430, 430],
  fspick: [433, 433],
  init_module: [175, 105],
  io_uring_enter: [426, 426],
  io_uring_register: [427, 427],
  io_uring_setup: [425, 425],
  ioperm: [173, null],
  iopl: [172, null],
  kcmp: [312, 272],
  kexec_file_load: [320, 294],
  kexec_load: [246, 104],
  keyctl: [250, 219],
  lookup_dcookie: [212, 18],
  mbind: [237, 235],
  migrate_pages: [256, 238],
  modify_ldt: [154, null],
  mount: [165, 40],
  mount_setattr: [442, 442],
  move_mount: [429, 429],
  move_pages: [279, 239],
  nfsservctl: [180, 42],
  open_by_handle_at: [304, 265],
  open_tree: [428, 428],
  open_tree_attr: [467, 467],
  perf_event_open: [298, 241],
  pidfd_getfd: [438, 438],
  pivot_root: [155, 41],
  process_vm_readv: [310, 270],
  process_vm_writev: [311, 271],
  quotactl: [179, 60],
  quotactl_fd: [443, 443],
  reboot: [169, 142],
  request_key: [249, 218],
  setdomainname: [171, 162],
  sethostname: [170, 161],
  setns: [308, 268],
  settimeofday: [164, 170],
  swapoff: [168, 225],
  swapon: [167, 224],
  syslog: [103, 116],
  sysfs: [139, null],
  umount2: [166, 39],
  uselib: [134, null],
  userfaultfd: [323, 282],
  ustat: [136, null],
  vhangup: [153, 58],
};

/** Calls whose first argument is a set of CLONE_* flags, and calls judged by one argument. */
const JUDGED = {
  clone: [56, 220],
  unshare: [272, 97],
  clone3: [435, 435],
  ioctl: [16, 29],
  socket: [41, 198],
  ptrace: [101, 117],
} as const;

/** CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET. */
const NEW_NAMESPACE =
  0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000;

/** For `unshare` also CLONE_NEWTIME; in `clone` that bit is part of the exit signal. */
const NEW_NAMESPACE_UNSHARED = NEW_NAMESPACE | 0x80;

const TIOCSTI = 0x5412;
const TIOCLINUX = 0x541c;

/** AF_UNIX, AF_INET, AF_INET6, AF_NETLINK: all that ordinary programs ask for. */
const SOCKET_FAMILIES = [1, 2, 10, 16];

/** PTRACE_ATTACH and PTRACE_SEIZE take a process that is not a child; PTRACE_TRACEME stays for debuggers. */
const PTRACE_OF_OTHERS = [16, 0x4206];

type Instruction = [code: number, jump_true: number, jump_false: number, operand: number];

/** The program as the bytes that `bwrap --seccomp` reads (an array of `struct sock_filter`). */
export function seccompProgram(architecture: Architecture): Buffer {
  return encode([
    ...refuseForeign(architecture),
    ...refuseListed(architecture),
    ...refuseByArgument(architecture),
    [RETURN, 0, 0, ALLOW],
  ]);
}

/** The name and number of every call that is refused outright. */
export function refusedCalls(architecture: Architecture): { name: string; number: number }[] {
  return Object.entries(REFUSED).flatMap(([name, numbers]) => {
    const number = numbers[column(architecture)];
    return number === null ? [] : [{ name, number }];
  });
}

function refuseForeign(architecture: Architecture): Instruction[] {
  return [
    [LOAD_WORD, 0, 0, ARCHITECTURE_AT],
    [JUMP_EQUAL, 1, 0, AUDIT_ARCHITECTURE[architecture]],
    [RETURN, 0, 0, KILL_PROCESS],
    [LOAD_WORD, 0, 0, NUMBER_AT],
    [JUMP_AT_LEAST, 0, 1, X32_BIT],
    [RETURN, 0, 0, REFUSE | ENOSYS],
  ];
}

function refuseListed(architecture: Architecture): Instruction[] {
  return refusedCalls(architecture).flatMap(({ number }): Instruction[] => [
    [JUMP_EQUAL, 0, 1, number],
    [RETURN, 0, 0, REFUSE | EPERM],
  ]);
}

function refuseByArgument(architecture: Architecture): Instruction[] {
  const number = (name: keyof typeof JUDGED): number => JUDGED[name][column(architecture)];
  return [
    [JUMP_EQUAL, 0, 1, number('clone3')],
    [RETURN, 0, 0, REFUSE | ENOSYS],
    ...judge(number('clone'), 0, [[JUMP_ANY_BIT, 0, 1, NEW_NAMESPACE], refusal(EPERM)]),
    ...judge(number('unshare'), 0, [[JUMP_ANY_BIT, 0, 1, NEW_NAMESPACE_UNSHARED], refusal(EPERM)]),
    ...judge(number('ioctl'), 1, refuseValues([TIOCSTI, TIOCLINUX])),
    ...judge(number('ptrace'), 0, refuseValues(PTRACE_OF_OTHERS)),
    ...judge(number('socket'), 0, allowOnly(SOCKET_FAMILIES)),
  ];
}

/** Runs `verdict` on one argument of one call; a call that the verdict lets through is allowed. */
function judge(number: number, argument: number, verdict: Instruction[]): Instruction[] {
  return [
    [JUMP_EQUAL, 0, verdict.length + 2, number],
    [LOAD_WORD, 0, 0, argumentAt(argument)],
    ...verdict,
    [RETURN, 0, 0, ALLOW],
  ];
}

function refuseValues(values: number[]): Instruction[] {
  return values.flatMap((value): Instruction[] => [[JUMP_EQUAL, 0, 1, value], refusal(EPERM)]);
}

function allowOnly(values: number[]): Instruction[] {
  const allowed = values.flatMap((value): Instruction[] => [
    [JUMP_EQUAL, 0, 1, value],
    [RETURN, 0, 0, ALLOW],
  ]);
  return [...allowed, refusal(EAFNOSUPPORT)];
}

function refusal(errno: number): Instruction {
  return [RETURN, 0, 0, REFUSE | errno];
}

function column(architecture: Architecture): 0 | 1 {
  return architecture === 'x64' ? 0 : 1;
}

function encode(program: Instruction[]): Buffer {
  const bytes = Buffer.alloc(program.length * 8);
  for (const [index, [code, jump_true, jump_false, operand]] of program.entries()) {
    bytes.writeUInt16LE(code, index * 8);
    bytes.writeUInt8(jump_true, index * 8 + 2);
    bytes.writeUInt8(jump_false, index * 8 + 3);
    bytes.writeUInt32LE(operand >>> 0, index * 8 + 4);
  }
  return bytes;
}
