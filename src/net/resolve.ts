/**
 * Names to addresses that may be connected to. Invariant: one address of an answer that may not be, and the whole answer is refused.
 *
 * The host's hosts file, then the nameservers of its resolv.conf, over sockets. `getaddrinfo` would hold one of the process's few threads
 * for each name, and names that others chose must not keep the model's and the database's own names waiting. What it knows besides is not
 * served: search domains, the order in nsswitch.conf and its other sources, mDNS.
 */
import { Resolver } from 'node:dns/promises';
import { isIP } from 'node:net';
import { addressRefusal, isAllowed, type Networks } from './address.ts';
import { codeOf, describeLookup } from './failure.ts';
import { openHosts } from './hosts.ts';

/** `refused` lasts; `failed` may be tried again; `absent`: the name does not exist or has no address, which may change. */
export type Resolution =
  | { kind: 'addresses'; addresses: [string, ...string[]] }
  | { kind: 'refused'; reason: string }
  | { kind: 'absent'; reason: string }
  | { kind: 'failed'; reason: string };

export type Resolve = (protocol: string, hostname: string) => Promise<Resolution>;

type Unresolved = Extract<Resolution, { kind: 'absent' | 'failed' }>;
type Found = { kind: 'found'; addresses: string[] } | Unresolved;

/** Never rejects; takes as long as nameservers let it. Lookups of one name that are under way are one. */
export function createResolve(allowed: Networks): Resolve {
  const hosts = openHosts();
  const under_way = new Map<string, Promise<Found>>();
  const ask = (name: string): Promise<Found> | Unresolved => {
    const known = under_way.get(name);
    if (known) return known;
    if (under_way.size >= LOOKUPS_MAX) return TOO_MANY;
    const asked = askNameservers(name).finally(() => under_way.delete(name));
    under_way.set(name, asked);
    return asked;
  };
  return async (protocol, hostname) => {
    if (isIP(hostname) !== 0) return judge(protocol, hostname, [hostname], allowed);
    const name = hostname.toLowerCase().replace(/\.$/, '');
    const listed = hosts(name);
    if (listed.length > 0) return judge(protocol, hostname, listed, allowed);
    const found = await ask(name);
    return found.kind === 'found' ? judge(protocol, hostname, found.addresses, allowed) : found;
  };
}

/** Names being asked for at once; each has a socket. */
const LOOKUPS_MAX = 256;
const TOO_MANY: Unresolved = { kind: 'failed', reason: 'Too many names are being resolved.' };

/** For each nameserver that the host has. */
const ANSWER_WITHIN = { timeout: 2000, maxTimeout: 2000, tries: 2 };

/** Codes of an answer that says so: there is no such name, it has no such address, it is no name. */
const ABSENT = ['ENOTFOUND', 'ENODATA', 'EBADNAME'];
const NO_ADDRESS = 'The name does not resolve to an address.';

/** A resolver of its own: a changed resolv.conf counts, and no two lookups share the port that a forged answer would have to guess. */
async function askNameservers(name: string): Promise<Found> {
  const resolver = new Resolver(ANSWER_WITHIN);
  const [ipv4, ipv6] = await Promise.allSettled([resolver.resolve4(name), resolver.resolve6(name)]);
  const addresses = alternate(valueOf(ipv4), valueOf(ipv6));
  if (addresses.length > 0) return { kind: 'found', addresses };
  const errors = [ipv4, ipv6].flatMap((end) => (end.status === 'rejected' ? [end.reason as Error] : []));
  const passing = errors.find((error) => !ABSENT.includes(codeOf(error)));
  if (passing) return { kind: 'failed', reason: describeLookup(passing) };
  return { kind: 'absent', reason: errors[0] ? describeLookup(errors[0]) : NO_ADDRESS };
}

function valueOf(end: PromiseSettledResult<string[]>): string[] {
  return end.status === 'fulfilled' ? end.value : [];
}

/** Few addresses are tried: a family that the host cannot reach must not be all of them. */
function alternate(first: string[], second: string[]): string[] {
  const turns = Array.from({ length: Math.max(first.length, second.length) }, (_, turn) => turn);
  return turns.flatMap((turn) => [...first.slice(turn, turn + 1), ...second.slice(turn, turn + 1)]);
}

/** Texts name the class and never the address, which an answer of the inner network would give away. */
function judge(
  protocol: string,
  hostname: string,
  addresses: readonly string[],
  allowed: Networks,
): Resolution {
  const refusal = addresses
    .map((address) => addressRefusal(address, allowed))
    .find((found) => found !== null);
  if (refusal !== undefined) {
    return {
      kind: 'refused',
      reason: `${hostname} leads to an address that may not be sent to (${refusal}).`,
    };
  }
  if (protocol !== 'https:' && !addresses.every((address) => isAllowed(address, allowed))) {
    return { kind: 'refused', reason: 'The URL must begin with https://.' };
  }
  const [first, ...rest] = addresses;
  return first === undefined
    ? { kind: 'absent', reason: NO_ADDRESS }
    : { kind: 'addresses', addresses: [first, ...rest] };
}
