/**
 * What a computer sees: the arguments of bubblewrap.
 * Invariant: nothing of the host is in view but `/usr` and a few public files of `/etc`, or in their place a root file
 * system of the computer's own, and this computer's directories; everything else that can be written is bounded in size.
 */

import { existsSync, statSync } from 'node:fs';
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { EGRESS_PORT } from '../channel/relay.ts';
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

/** Where the computer's root file system is its own, it is root there. */
const ENVIRONMENT_OF_ROOT = { USER: 'root', LOGNAME: 'root' };

/** `sudo` and services start apt without the variables that lead out. */
const APT_PROXY = ['http', 'https']
  .map((scheme) => `Acquire::${scheme}::Proxy "http://127.0.0.1:${EGRESS_PORT}";\n`)
  .join('');

/** The home directory's name at others who offer such computers. */
const HOME_ALIAS = '/home/ohm';

/**
 * What is public of the host's `/etc`. Not `/etc/ssl` as a whole: it holds private keys. Files are copied into the one directory that
 * computers see as theirs: bubblewrap reads all mounts anew for each that it makes, which is a millisecond.
 */
const ETC_OF_HOST = {
  files: ['ld.so.cache', 'ssl/openssl.cnf', 'localtime', 'mime.types'],
  directories: ['alternatives', 'ssl/certs'],
};

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

/** Files of `/proc` that tell of the host; hidden where the kernel shows them to everybody. */
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
  apt_proxy_path: string;
  version: BwrapVersion;
};

/** Writes the fixtures into `directory`, readable for every uid. Idempotent. */
export async function writeFixtures(directory: string, version: BwrapVersion): Promise<Fixtures> {
  const etc_dir = join(directory, 'etc');
  await mkdir(etc_dir, { recursive: true, mode: 0o755 });
  for (const [name, content] of Object.entries(ETC_OF_OURS)) await replace(join(etc_dir, name), content);
  for (const name of ETC_OF_HOST.directories)
    await mkdir(join(etc_dir, name), { recursive: true, mode: 0o755 });
  await freshen({ etc_dir });
  const architecture = process.arch;
  if (architecture !== 'x64' && architecture !== 'arm64')
    throw new Error(`no seccomp list for ${architecture}`);
  const seccomp_path = join(directory, 'seccomp.bpf');
  await replace(seccomp_path, seccompProgram(architecture));
  const apt_proxy_path = join(directory, 'apt-proxy.conf');
  await replace(apt_proxy_path, APT_PROXY);
  return { etc_dir, seccomp_path, apt_proxy_path, version };
}

const copied = new Map<string, number>();

/** Takes over what has changed of the host's files since. */
export async function freshen({ etc_dir }: Pick<Fixtures, 'etc_dir'>): Promise<void> {
  for (const name of ETC_OF_HOST.files) {
    const path = join(etc_dir, name);
    const { mtimeMs } = statSync(`/etc/${name}`, { throwIfNoEntry: false }) ?? {};
    if (mtimeMs === undefined || copied.get(path) === mtimeMs) continue;
    // At once, so that no two do it.
    copied.set(path, mtimeMs);
    await replace(path, await readFile(`/etc/${name}`));
  }
}

export type Bind = { from: string; to: string; writable: boolean };

export type View = {
  fixtures: Fixtures;
  /** The host's path of the computer's own root file system; null = the host's `/usr`. */
  root: string | null;
  binds: Bind[];
  cwd: string;
  /** Beside what every view has. */
  environment: Record<string, string>;
  /** For `/tmp` and `/dev/shm` each. */
  scratch_bytes: number;
  /** Kept of all that a user namespace gives. */
  capabilities: string[];
  seccomp_fd: number;
  info_fd: number;
  /** A user namespace that has been made, to be root in; null = one of its own with a single uid. */
  userns_fd: number | null;
};

/** Bubblewrap's options; they go through `--args`, because its argv can be read inside. */
export function viewArguments(view: View): string[] {
  const { fixtures, root, cwd, seccomp_fd, info_fd } = view;
  const own = root === null ? {} : ENVIRONMENT_OF_ROOT;
  const environment = Object.entries({ ...ENVIRONMENT, ...own, ...view.environment });
  return [
    ...namespaces(view),
    ...view.capabilities.flatMap((name) => ['--cap-add', `CAP_${name}`]),
    '--clearenv',
    ...environment.flatMap(([name, value]) => ['--setenv', name, value]),
    ...(root === null ? system(fixtures.etc_dir) : ['--bind', root, '/']),
    ...devices(view),
    ...view.binds.flatMap(({ from, to, writable }) => [writable ? '--bind' : '--ro-bind', from, to]),
    ...(root === null ? words(`--symlink agent ${HOME_ALIAS} --remount-ro /`) : []),
    ...words('--remount-ro /dev --chdir'),
    cwd,
    ...words(`--seccomp ${seccomp_fd} --info-fd ${info_fd}`),
  ];
}

function namespaces({ fixtures, userns_fd }: View): string[] {
  const single = [
    ...words(`--unshare-user --uid ${INSIDE_UID} --gid ${INSIDE_UID}`),
    ...(atLeast(fixtures.version, [0, 8]) ? ['--disable-userns'] : []),
  ];
  return [
    ...(userns_fd === null ? single : words(`--userns ${userns_fd} --uid 0 --gid 0`)),
    ...words('--unshare-ipc --unshare-pid --unshare-net --unshare-uts --unshare-cgroup'),
    ...words('--hostname computer --die-with-parent --new-session --cap-drop ALL'),
  ];
}

function system(etc_dir: string): string[] {
  const links = ['bin', 'lib', 'lib32', 'lib64', 'sbin'].filter((name) => existsSync(`/usr/${name}`));
  return [
    ...words('--ro-bind /usr /usr'),
    ...links.flatMap((name) => ['--symlink', `usr/${name}`, `/${name}`]),
    ...['--ro-bind', etc_dir, '/etc'],
    ...ETC_OF_HOST.directories.flatMap((name) => ['--ro-bind-try', `/etc/${name}`, `/etc/${name}`]),
  ];
}

function devices({ fixtures, scratch_bytes, userns_fd }: View): string[] {
  const shared = userns_fd === null ? '' : '--perms 1777 ';
  const bound = atLeast(fixtures.version, [0, 7]) ? `--size ${scratch_bytes} ` : '';
  const tmpfs = `${shared}${bound}--tmpfs`;
  const hidden = PROC_OF_HOST.filter((name) => isShown(`/proc/${name}`));
  return [
    ...words('--proc /proc'),
    ...hidden.flatMap((name) => words(`--ro-bind /dev/null /proc/${name}`)),
    ...words(`--dev /dev ${tmpfs} /dev/shm ${tmpfs} /tmp`),
  ];
}

/** What only the host's root can read needs no hiding: no computer is that. */
function isShown(path: string): boolean {
  const { mode = 0 } = statSync(path, { throwIfNoEntry: false }) ?? {};
  return (mode & 0o004) !== 0;
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
