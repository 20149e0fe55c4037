/** Chance that can be had again: case `number` of a seed draws the same in every run, whatever was drawn for the others. */

export type Random = {
  /** 0 ≤ value < `bound`, whole. */
  below: (bound: number) => number;
  pick: <T>(from: readonly T[]) => T;
  /** True in `share` of 1 of the cases. */
  chance: (share: number) => boolean;
  bytes: (length: number) => Buffer;
};

/** @param seed any whole number */
export function randomOf(seed: number, number: number): Random {
  let state = mix(seed ^ mix(number + 0x9e3779b9));
  const draw = (): number => {
    state = (state + 0x6d2b79f5) | 0;
    return mix(state) >>> 0;
  };
  const below = (bound: number): number => Math.floor((draw() / 2 ** 32) * bound);
  return {
    below,
    pick: (from) => from[below(from.length)]!,
    chance: (share) => draw() / 2 ** 32 < share,
    bytes: (length) => Buffer.from(Array.from({ length }, () => below(256))),
  };
}

function mix(value: number): number {
  let mixed = value | 0;
  mixed = Math.imul(mixed ^ (mixed >>> 16), 0x85ebca6b);
  mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2ae35);
  return mixed ^ (mixed >>> 16);
}

/** `name` of the environment as a number, else `fallback`. */
export function numberOf(name: string, fallback: number): number {
  return Number(process.env[name] ?? fallback);
}
