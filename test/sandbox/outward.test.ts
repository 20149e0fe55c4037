import { describe } from 'vitest';
import { as_root, makeGround } from './grounds.ts';
import { waysOut } from './outward.ts';

describe.runIf(as_root)('the server as root', () => {
  waysOut('the way out of a computer', makeGround(), () => {});
});
