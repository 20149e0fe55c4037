/**
 * What a computer sees: the arguments of bubblewrap.
 * Invariant: nothing of the host is in view but `/usr`, a few public files of `/etc`, and the two directories of this
 * computer; everything else that can be written is bounded in size.
 */

import { existsSync } from 'node:fs';
import { mkdir, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { seccompProgram } from './seccomp.ts';

/** Inside, whatever the uid outside. */
const INSIDE_UID = '1000';
const PATH_INSIDE = '/home/agent/.local/bin:/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin';

/** Without root, programs are installed below the home directory. pip goes there by itself once it may. */
const ENVIRONMENT = {
  PATH: PATH_INSIDE,
  HOME: '/home/agent',
  USER: 'agent',
  LOGNAME: 'agent',
  SHELL: '/bin/bash',
  LANG: 'C.UTF-8',
  TERM: 'dumb',
  TMPDIR: '/tmp',
  NPM_CONFIG_PREFIX: '/home/agent/.local',
  PIP_BREAK_SYSTEM_PACKAGES: '1',
};

/** The home directory's name at others who offer such computers. */
const HOME_ALIAS = '/home/ohm';

/** Public files of the host's `/etc`. Not `/etc/ssl` as a whole: it holds private keys. */
const ETC_OF_HOST = [
  'ld.so.cache',
  'alternatives',
  'ssl/certs',
  'ssl/openssl.cnf',
  'localtime',
  'mime.types',
];

const ETC_OF_OURS = {
  passwd:
    'root:x:0:0:root:/root:/usr/sbin/nologin\n' +
    'agent:x:1000:1000:agent:/home/agent:/bin/bash\n' +
    'nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n',
  group: 'root:x:0:\nagent:x:1000:\nnogroup:x:65534:\n',
  hosts: '127.0.0.1 localhost computer\n::1 localhost\n',
  hostname: 'computer\n',
  'nsswitch.conf': 'passwd: files\ngroup: files\nhosts: files\n',
};

/** Files of `/proc` that tell of the host; hidden where the kernel has them. */
const PROC_OF_HOST = [
  'cmdline',
  'config.gz',
  'crypto',
  'iomem',
  'ioports',
  'kallsyms',
  'kcore',
  'key-users',
  'keys',
  'kmsg',
  'kpagecgroup',
  'kpagecount',
  'kpageflags',
  'latency_stats',
  'modules',
  'pagetypeinfo',
  'sched_debug',
  'slabinfo',
  'swaps',
  'timer_list',
  'timer_stats',
  'vmallocinfo',
];

export type BwrapVersion = [major: number, minor: number];

/** Host files that every view uses: our `/etc` and the seccomp program. */
export type Fixtures = {
  etc_dir: string;
  seccomp_path: string;
  version: BwrapVersion;
  /** Descriptors of this process that must be closed before a sandbox starts. */
  inherited_fds: number[];
};

/** Writes the fixtures into `directory`, readable for every uid. Idempotent. */
export async function writeFixtures(
  directory: string,
  version: BwrapVersion,
): Promise<Omit<Fixtures, 'inherited_fds'>> {
  const etc_dir = join(directory, 'etc');
  await mkdir(etc_dir, { recursive: true, mode: 0o755 });
  for (const [name, content] of Object.entries(ETC_OF_OURS)) await replace(join(etc_dir, name), content);
  const architecture = process.arch;
  if (architecture !== 'x64' && architecture !== 'arm64')
    throw new Error(`no seccomp list for ${architecture}`);
  const seccomp_path = join(directory, 'seccomp.bpf');
  await replace(seccomp_path, seccompProgram(architecture));
  return { etc_dir, seccomp_path, version };
}

export type Bind = { from: string; to: string; writable: boolean };

export type View = {
  fixtures: Fixtures;
  binds: Bind[];
  cwd: string;
  /** Beside what every view has. */
  environment: Record<string, string>;
  /** For `/tmp` and `/dev/shm` each. */
  scratch_bytes: number;
  /** May read and change files whatever their mode: only for the runtime's own programs. */
  override_modes: boolean;
  seccomp_fd: number;
  info_fd: number;
};

/** Bubblewrap's options; they go through `--args`, because its argv can be read inside. */
export function viewArguments(view: View): string[] {
  const { fixtures, cwd, seccomp_fd, info_fd } = view;
  const environment = Object.entries({ ...ENVIRONMENT, ...view.environment });
  return [
    ...namespaces(fixtures.version),
    ...(view.override_modes ? ['--cap-add', 'CAP_DAC_OVERRIDE', '--cap-add', 'CAP_FOWNER'] : []),
    '--clearenv',
    ...environment.flatMap(([name, value]) => ['--setenv', name, value]),
    ...system(fixtures.etc_dir),
    ...devices(view),
    ...view.binds.flatMap(({ from, to, writable }) => [writable ? '--bind' : '--ro-bind', from, to]),
    ...words(`--symlink agent ${HOME_ALIAS} --remount-ro / --remount-ro /dev --chdir`),
    cwd,
    ...words(`--seccomp ${seccomp_fd} --info-fd ${info_fd}`),
  ];
}

function namespaces(version: BwrapVersion): string[] {
  return [
    ...words('--unshare-user --unshare-ipc --unshare-pid --unshare-net --unshare-uts --unshare-cgroup'),
    ...(atLeast(version, [0, 8]) ? ['--disable-userns'] : []),
    ...words(`--uid ${INSIDE_UID} --gid ${INSIDE_UID} --hostname computer`),
    ...words('--die-with-parent --new-session --cap-drop ALL'),
  ];
}

function system(etc_dir: string): string[] {
  const links = ['bin', 'lib', 'lib32', 'lib64', 'sbin'].filter((name) => existsSync(`/usr/${name}`));
  return [
    ...words('--ro-bind /usr /usr --dir /etc'),
    ...links.flatMap((name) => ['--symlink', `usr/${name}`, `/${name}`]),
    ...ETC_OF_HOST.flatMap((name) => ['--ro-bind-try', `/etc/${name}`, `/etc/${name}`]),
    ...Object.keys(ETC_OF_OURS).flatMap((name) => ['--ro-bind', join(etc_dir, name), `/etc/${name}`]),
  ];
}

function devices({ fixtures, scratch_bytes }: View): string[] {
  const tmpfs = atLeast(fixtures.version, [0, 7]) ? `--size ${scratch_bytes} --tmpfs` : '--tmpfs';
  const hidden = PROC_OF_HOST.filter((name) => existsSync(`/proc/${name}`));
  return [
    ...words('--proc /proc'),
    ...hidden.flatMap((name) => words(`--ro-bind /dev/null /proc/${name}`)),
    ...words(`--dev /dev ${tmpfs} /dev/shm ${tmpfs} /tmp`),
  ];
}

/** For options without a path of the operator's, which might hold blanks. */
function words(options: string): string[] {
  return options.split(' ');
}

function atLeast([major, minor]: BwrapVersion, [wanted_major, wanted_minor]: BwrapVersion): boolean {
  return major > wanted_major || (major === wanted_major && minor >= wanted_minor);
}

/** By rename: a sandbox that starts at the same time reads the old or the new file, never half of one. */
async function replace(path: string, content: string | Uint8Array): Promise<void> {
  const part = `${path}.${process.pid}.part`;
  await writeFile(part, content, { mode: 0o644 });
  await rename(part, path);
}
