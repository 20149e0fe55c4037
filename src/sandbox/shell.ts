/** Words of a shell: how texts and variables are given to the scripts that run execs. */

import type { ExecSpec } from '../resource/computer/driver.ts';

const WORKSPACE = '/workspace';

/** A word of any shell. */
export function quoted(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

/** A word of bash without a line break. */
export function onOneLine(text: string): string {
  const escapes: Record<string, string> = { '\n': '\\n', '\r': '\\r' };
  return `$'${text.replaceAll(/[\\'\n\r]/g, (each) => escapes[each] ?? `\\${each}`)}'`;
}

/** Names that a shell cannot assign and values with NUL are left out. */
export function assignable(env: Record<string, string>): [name: string, value: string][] {
  return Object.entries(env).filter(
    ([name, value]) => /^[A-Za-z_][A-Za-z0-9_]*$/.test(name) && !value.includes('\0'),
  );
}

/** Where the script starts. @throws RangeError when that is not absolute. */
export function directoryOf({ cwd = WORKSPACE }: ExecSpec): string {
  if (!cwd.startsWith('/')) throw new RangeError('cwd must be absolute');
  return cwd.replaceAll('\0', '');
}
