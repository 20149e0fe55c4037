/**
 * What the launcher does in a program's own process before it becomes the program, in `prepare.pl`. As programs of their own (prlimit,
 * unshare, mount, setpriv) these steps would cost each wake a millisecond or two apiece.
 */

/** One step and its fields, as `prepare.pl` reads them. */
export type Step = string[];

/** Numbers of the generic Linux ABI (asm-generic/resource.h). */
const RESOURCES = { fsize: 1, data: 2, core: 4, nofile: 7 };

/** How the kernel calls them. */
const NUMBERS: Record<string, Record<string, number>> = {
  x64: { prlimit64: 302, unshare: 272, mount: 165, setgroups: 116, prctl: 157 },
  arm64: { prlimit64: 261, unshare: 97, mount: 40, setgroups: 159, prctl: 167 },
};

/** What the launcher is told, as `name=number`; null = unknown on this architecture. */
export function callNumbers(architecture: string): string[] | null {
  const numbers = NUMBERS[architecture];
  return numbers ? Object.entries(numbers).map(([name, number]) => `${name}=${number}`) : null;
}

export function limitTo(resource: keyof typeof RESOURCES, value: number): Step {
  return ['limit', String(RESOURCES[resource]), String(value)];
}

/** The user and its group alone, with no way to more. */
export function become(uid: number): Step {
  return ['identity', String(uid)];
}
