import { existsSync } from 'node:fs';
import { describe } from 'vitest';
import { as_root, makeGround } from './grounds.ts';
import { limitsHold } from './limits.ts';

const writable = existsSync('/sys/fs/cgroup/memory/tasks') || existsSync('/sys/fs/cgroup/cgroup.procs');

describe.runIf(as_root && writable)('with control groups', () => {
  limitsHold('a computer keeps its limits', makeGround(), () => {}, true);
});

describe.runIf(as_root)('as root without control groups', () => {
  limitsHold('a computer keeps its limits', makeGround({ cgroup_root: null }), () => {}, false);
});
