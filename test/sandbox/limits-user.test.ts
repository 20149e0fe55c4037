import { becomeUser, makeGround } from './grounds.ts';
import { limitsHold } from './limits.ts';

const ground = makeGround({ cgroup_root: null });
limitsHold('a computer of a plain user keeps its limits', ground, () => becomeUser(ground), false);
