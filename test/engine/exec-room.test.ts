/** What commands may keep of their output: blocks instead of pieces, and room that an org shares. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { createPile } from '../../src/engine/computers/exec/pile.ts';
import { createRoom, shareOf } from '../../src/engine/computers/exec/room.ts';

describe('a pile', () => {
  it('is what was pushed, in few blocks', () => {
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ maxLength: 9000 })), (pieces) => {
        const pile = createPile();
        for (const piece of pieces) pile.push(piece);
        expect(Buffer.concat(pile.blocks()).equals(Buffer.concat(pieces))).toBe(true);
      }),
      { numRuns: 50 },
    );
    const bytewise = createPile();
    for (let count = 0; count < 3_000_000; count += 1) bytewise.push(Uint8Array.of(count));
    expect(bytewise.blocks().length).toBeLessThan(20);
  });
});

describe('a share', () => {
  it('has something of its own whatever the others hold, and gives back what it took', () => {
    const room = createRoom({ org_bytes_max: 100, node_bytes_max: 150 }, () => false);
    const [greedy, late, other] = ['one', 'one', 'two'].map((org) => shareOf(room, org, 10));
    expect([greedy!.take(101), greedy!.take(100), late!.take(10), late!.take(1)]).toEqual([
      ...[false, true, true],
      false,
    ]);
    expect([other!.take(51), other!.take(50)]).toEqual([false, true]);
    greedy!.giveAll();
    expect([late!.take(100), late!.take(1)]).toEqual([true, false]);
  });
});
