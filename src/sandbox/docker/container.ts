/**
 * What a computer is to the daemon: a container, made once, whose own layer holds the files.
 * Invariant: it has no network but its loopback, no privilege that the host could feel, and of the host at most one
 * read-only directory with one socket.
 */

import type { ContainerCreateOptions } from 'dockerode';
import type { ComputerLimits } from '../../resource/computer/driver.ts';
import { CONTROL_DIR, EGRESS_DIR, ENTRYPOINT } from './scripts.ts';

export const INSTALLATION_LABEL = 'overwinter.installation';
export const COMPUTER_LABEL = 'overwinter.computer';

const PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';
const CONTROL_BYTES_MAX = 268_435_456;
const SHARED_BYTES_MAX = 268_435_456;
const NANO_CPUS_PER_PERCENT = 10_000_000;

/** What root needs inside to install software; nothing of the host's. */
const CAPABILITIES = [
  'CHOWN',
  'DAC_OVERRIDE',
  'FOWNER',
  'FSETID',
  'KILL',
  'NET_BIND_SERVICE',
  'SETFCAP',
  'SETGID',
  'SETUID',
];

/** What tells of the host or its kernel. The lists replace the engine's own, so they hold what that has. */
const MASKED_PATHS = [
  ...['acpi', 'asound', 'kcore', 'keys', 'latency_stats', 'sched_debug', 'scsi', 'timer_list', 'timer_stats'],
  ...[
    'cmdline',
    'config.gz',
    'iomem',
    'ioports',
    'kallsyms',
    'key-users',
    'kmsg',
    'kpagecgroup',
    'kpagecount',
  ],
  ...['kpageflags', 'modules', 'pagetypeinfo', 'schedstat', 'slabinfo', 'vmallocinfo', 'zoneinfo'],
]
  .map((name) => `/proc/${name}`)
  .concat('/sys/firmware', '/sys/devices/virtual/powercap');
const READONLY_PATHS = ['bus', 'fs', 'irq', 'sys', 'sysrq-trigger'].map((name) => `/proc/${name}`);

const ENVIRONMENT = {
  HOME: '/home/agent',
  USER: 'root',
  LOGNAME: 'root',
  SHELL: '/bin/bash',
  LANG: 'C.UTF-8',
  TERM: 'dumb',
  TMPDIR: '/tmp',
  NPM_CONFIG_PREFIX: '/home/agent/.local',
  PIP_BREAK_SYSTEM_PACKAGES: '1',
};

export type Making = {
  name: string;
  labels: Record<string, string>;
  image: string;
  /** Of the base image, whose own variables a restored image has lost. */
  image_environment: readonly string[];
  environment: Record<string, string>;
  limits: ComputerLimits;
  runtime: string;
  /** On the host, or null where there is no way out. */
  egress_dir: string | null;
};

export function creation(making: Making): ContainerCreateOptions {
  const { name, labels, image } = making;
  return {
    name,
    Image: image,
    Labels: labels,
    Hostname: 'computer',
    User: '0:0',
    WorkingDir: '/workspace',
    Env: environmentOf(making),
    Entrypoint: ENTRYPOINT,
    Cmd: [],
    ...{ AttachStdin: true, AttachStdout: true, AttachStderr: true, OpenStdin: true, StdinOnce: true },
    Healthcheck: { Test: ['NONE'] },
    HostConfig: hostOf(making),
  };
}

function hostOf({ limits, runtime, egress_dir }: Making): NonNullable<ContainerCreateOptions['HostConfig']> {
  const memory_part = Math.floor(limits.memory_bytes / 4);
  return {
    NetworkMode: 'none',
    Runtime: runtime,
    Init: true,
    CapDrop: ['ALL'],
    CapAdd: CAPABILITIES,
    SecurityOpt: ['no-new-privileges'],
    MaskedPaths: MASKED_PATHS,
    ReadonlyPaths: READONLY_PATHS,
    PidsLimit: limits.processes_max,
    Memory: limits.memory_bytes,
    MemorySwap: limits.memory_bytes,
    NanoCpus: limits.cpu_percent * NANO_CPUS_PER_PERCENT,
    ShmSize: Math.min(SHARED_BYTES_MAX, memory_part),
    Tmpfs: {
      [CONTROL_DIR]: `rw,nosuid,nodev,noexec,mode=755,size=${Math.min(CONTROL_BYTES_MAX, memory_part)}`,
    },
    IpcMode: 'private',
    ReadonlyRootfs: false,
    Privileged: false,
    LogConfig: { Type: 'none', Config: {} },
    RestartPolicy: { Name: 'no' },
    Mounts:
      egress_dir === null ? [] : [{ Type: 'bind', Source: egress_dir, Target: EGRESS_DIR, ReadOnly: true }],
  };
}

/** Later ones win: the image's, ours, the way out's. */
function environmentOf({ image_environment, environment }: Making): string[] {
  const pairs = image_environment.map((each) => [each.split('=', 1)[0] as string, each] as const);
  const of_image = Object.fromEntries(pairs);
  const path = of_image['PATH']?.slice('PATH='.length) ?? PATH;
  const ours = { ...ENVIRONMENT, ...environment, PATH: `${path}:/home/agent/.local/bin` };
  const lines = Object.entries(ours).map(([key, value]) => [key, `${key}=${value}`] as const);
  return Object.values({ ...of_image, ...Object.fromEntries(lines) });
}
