import { attacksFail, makeEgress } from './attacks.ts';
import { becomeUser, makeDriver, makeGround, removeGround, workspaceOf } from './grounds.ts';

const ground = makeGround({ egress: makeEgress() });
attacksFail({
  title: 'no attack gets out of a computer of a server that is a plain user',
  prepare: async () => becomeUser(ground),
  make: () => makeDriver(ground),
  directory: ground.directory,
  workspaceOf: (id) => workspaceOf(ground, id),
  remove: () => removeGround(ground),
  one_in: 2,
});
