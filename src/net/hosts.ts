/**
 * The hosts file of this machine. Invariant: an answer is of the file as it is now; it is read again once it has changed.
 */
import fs from 'node:fs';
import { isIP } from 'node:net';

/** The addresses of a name, which is lower-case and without a dot at its end; none where the file does not have it. */
export type Hosts = (name: string) => readonly string[];

/** A file that cannot be read is an empty one, as it is for the host's own resolver. */
export function openHosts(file = '/etc/hosts'): Hosts {
  let read_state: string | undefined;
  let addresses_by_name = new Map<string, string[]>();
  return (name) => {
    const state = stateOf(file);
    if (state !== read_state) addresses_by_name = parse(readText(file));
    read_state = state;
    return addresses_by_name.get(name) ?? [];
  };
}

/** Asked and read in the loop, not by a thread: threads may be waiting for a nameserver on behalf of others. */
function stateOf(file: string): string {
  const stat = fs.statSync(file, { throwIfNoEntry: false, bigint: true });
  return stat ? `${stat.ino} ${stat.size} ${stat.mtimeNs}` : 'none';
}

function readText(file: string): string {
  try {
    return fs.readFileSync(file, 'utf8');
  } catch {
    return '';
  }
}

/** As hosts(5): an address, then its names; `#` begins a comment. */
function parse(text: string): Map<string, string[]> {
  const found = new Map<string, string[]>();
  for (const line of text.split('\n')) {
    const [address = '', ...names] = line.replace(/#.*/, '').trim().split(/\s+/);
    if (isIP(address) === 0) continue;
    for (const name of names) add(found, name.toLowerCase().replace(/\.$/, ''), address);
  }
  return found;
}

function add(found: Map<string, string[]>, name: string, address: string): void {
  const known = found.get(name);
  if (known) known.push(address);
  else found.set(name, [address]);
}
