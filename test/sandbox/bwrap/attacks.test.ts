import { existsSync } from 'node:fs';
import { describe } from 'vitest';
import { attacksFail, makeEgress } from '../attacks.ts';
import { has_packages, installBaseImage } from './base-image.ts';
import { as_root, makeDriver, makeGround, removeGround, workspaceOf } from '../grounds.ts';

const has_groups = existsSync('/sys/fs/cgroup/pids/tasks') || existsSync('/sys/fs/cgroup/cgroup.procs');

/** Files, users and capabilities of its own are what a root user inside is for. */
const MEANT = {
  '01-host-files.sh': /^list \/(root|var|boot|srv|opt|mnt|media)$/,
  '05-pid-one.sh': /^pass \/proc\/1\/root\/(root|var)$/,
  '21-setuid.sh': /^(own setuid program|it runs as 0|su|setuid|chown|it has capabilities)$/,
  '79-reboot.sh': /^init's pipe$/,
  '82-become-root.sh': /^set/,
  '84-file-capabilities.sh': /^by number$/,
  '87-system-files.sh': /^(write|change) /,
  '104-hardware.sh': /^open \/sys\/firmware$/,
};

describe.runIf(as_root && has_groups && has_packages)('with a root user inside', () => {
  const ground = makeGround({ egress: makeEgress() });
  attacksFail({
    title: 'no attack gets out of a computer whose agent is root in it',
    prepare: () => installBaseImage(ground, 'base'),
    make: () => makeDriver(ground),
    directory: ground.directory,
    workspaceOf: (id) => workspaceOf(ground, id),
    remove: () => removeGround(ground),
    image: 'base',
    one_in: 4,
    meant: MEANT,
  });
});
