import { becomeUser, makeGround } from './grounds.ts';
import { waysOut } from './outward.ts';

const ground = makeGround();
waysOut('the way out of a computer, the server as a plain user', ground, () => becomeUser(ground));
