/**
 * What of an uploaded archive may reach a computer. Invariant: every name lies below the folder that it is unpacked in, also by way of
 * the links that are in it; nothing but files, folders and links is left; and it ends within the bounds, whatever it says of itself.
 */
import { OverwinterError } from '../resource/error.ts';
import { FIELD, shown, unusable, type Entry } from './entry.ts';

export type Bounds = { entries_max: number; bytes_max: number };

const NAME_BYTES_MAX = 1024;
const STEP_BYTES_MAX = 255;
const STEPS_MAX = 64;
/** Of all names together, with those of the folders that they lie in: so much has to be remembered. */
const NAMES_BYTES_MAX = 32 * 1024 * 1024;

export type SafeEntry = Entry & { type: 'file' | 'directory' | 'symlink' | 'link' };

/**
 * @param leaveOut is told of each link that leads outside, which is no harm and no use.
 * @throws OverwinterError `invalid` for what no honest archive has; `too_large`.
 */
export async function* safeEntries(
  entries: AsyncIterable<Entry>,
  { entries_max, bytes_max }: Bounds,
  leaveOut: (sentence: string) => void,
): AsyncGenerator<SafeEntry> {
  const keep = sieve(leaveOut);
  let count = 0;
  let bytes = 0;
  for await (const entry of entries) {
    count += 1;
    bytes += entry.size;
    if (count > entries_max) throw tooLarge(`holds more than ${entries_max} entries`);
    if (bytes > bytes_max) throw tooLarge(`unpacks to more than ${bytes_max} bytes`);
    const safe = keep(entry);
    if (safe) yield safe;
  }
}

/** What of one entry may stay, after those before it; undefined = nothing. */
function sieve(leaveOut: (sentence: string) => void): (entry: Entry) => SafeEntry | undefined {
  const links = new Set<string>();
  const folders = new Set<string>();
  const files = new Set<string>();
  let names_bytes = 0;
  const remember = (among: Set<string>, name: string): void => {
    if (among.has(name)) return;
    among.add(name);
    names_bytes += Buffer.byteLength(name);
    if (names_bytes > NAMES_BYTES_MAX) throw tooLarge('has too many long names');
  };
  return (entry) => {
    const name = safeName(entry.name);
    const { type } = entry;
    // The archive's own folder.
    if (name === '') return undefined;
    if (type === 'other') throw unusable(`holds "${shown(name)}", which is no file, folder or link`);
    const parents = parentsOf(name);
    if (parents.some((parent) => links.has(parent)))
      throw unusable(`writes through the link before "${shown(name)}"`);
    for (const parent of parents) remember(folders, parent);
    if (type === 'directory') remember(folders, name);
    if (type === 'directory' || type === 'file') {
      links.delete(name);
      if (type === 'file') remember(files, name);
      return { ...entry, name, type };
    }
    if (folders.has(name)) throw unusable(`has "${shown(name)}" as a folder and as a link`);
    const leads = targetOf(name, entry);
    // A hard link is another name of a file that is there already.
    const target = type === 'link' && !files.has(leads ?? '') ? undefined : leads;
    if (target === undefined) leaveOut(`${shown(name)}: left out, as it leads outside of the bundle`);
    if (target === undefined) return undefined;
    if (type === 'link') remember(files, name);
    else {
      remember(links, name);
      files.delete(name);
    }
    return { ...entry, name, type, target };
  };
}

/** '' = the folder itself. */
function safeName(name: string): string {
  if (name.includes('\0')) throw unusable('has a name with NUL');
  if (name.startsWith('/') || /^[A-Za-z]:/.test(name))
    throw unusable(`has the absolute name "${shown(name)}"`);
  const steps = stepsOf(name);
  if (steps.includes('..')) throw unusable(`has the name "${shown(name)}", which leads outside of it`);
  const long = steps.some((step) => Buffer.byteLength(step) > STEP_BYTES_MAX);
  const safe = steps.join('/');
  if (long || Buffer.byteLength(safe) > NAME_BYTES_MAX) throw unusable('has a name that is too long');
  if (steps.length > STEPS_MAX) throw unusable('has a name that is too deep');
  return safe;
}

/** The target as it is kept; undefined when it leads outside. */
function targetOf(name: string, { type, target }: Entry): string | undefined {
  if (target === '' || target.startsWith('/') || target.includes('\0')) return undefined;
  if (type === 'link') {
    const steps = stepsOf(target);
    return steps.includes('..') || steps.length === 0 ? undefined : steps.join('/');
  }
  // A step up after a step down goes up from wherever another link leads.
  const steps = stepsOf(target);
  const ups = steps.findLastIndex((step) => step === '..') + 1;
  const only_first = steps.slice(0, ups).every((step) => step === '..');
  const inside = only_first && ups < stepsOf(name).length;
  return inside && Buffer.byteLength(target) <= NAME_BYTES_MAX ? target : undefined;
}

function stepsOf(path: string): string[] {
  return path.split('/').filter((step) => step !== '' && step !== '.');
}

function parentsOf(name: string): string[] {
  const steps = name.split('/');
  return steps.slice(1).map((_, index) => steps.slice(0, index + 1).join('/'));
}

function tooLarge(sentence: string): OverwinterError {
  return new OverwinterError('too_large', `the bundle ${sentence}`, FIELD);
}
