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
import { ownAddresses } from './own.ts';
import { codeOf, describeLookup } from './failure.ts';
import { openHosts } from './hosts.ts';

/**
 * `refused` lasts; `failed` may be tried again; `absent`: the name does not exist or has no address, which may change; `busy`: nobody was
 * asked, as too much is being asked already.
 */
export type Resolution =
  | { kind: 'addresses'; addresses: [string, ...string[]] }
  | { kind: 'refused'; reason: string }
  | { kind: 'absent'; reason: string }
  | { kind: 'failed'; reason: string }
  | { kind: 'busy'; reason: string };

export type Resolve = (protocol: string, hostname: string) => Promise<Resolution>;

type Unresolved = Extract<Resolution, { kind: 'absent' | 'failed' | 'busy' }>;
type Found = { kind: 'found'; addresses: string[] } | Unresolved;

/** For one asker. */
export function createResolve(allowed: Networks): Resolve {
  return createResolves(allowed, LOOKUPS_MAX)('');
}

/**
 * For each tenant its own, within the bound of all: names that are silent hold up those of the tenant that asks for them. None rejects;
 * each takes as long as nameservers let it. Lookups of one name that are under way are one.
 */
export function createResolves(
  allowed: Networks,
  per_tenant_max = LOOKUPS_PER_TENANT_MAX,
): (tenant: string) => Resolve {
  const hosts = openHosts();
  const under_way = new Map<string, Promise<Found>>();
  const counts = new Map<string, number>();
  const count = (tenant: string, change: number): void => {
    const left = (counts.get(tenant) ?? 0) + change;
    if (left === 0) counts.delete(tenant);
    else counts.set(tenant, left);
  };
  const ask = (tenant: string, name: string): Promise<Found> | Unresolved => {
    const known = under_way.get(name);
    if (known) return known;
    if (under_way.size >= LOOKUPS_MAX || (counts.get(tenant) ?? 0) >= per_tenant_max) return TOO_MANY;
    count(tenant, 1);
    const asked = askNameservers(name).finally(() => {
      under_way.delete(name);
      count(tenant, -1);
    });
    under_way.set(name, asked);
    return asked;
  };
  return (tenant) => async (protocol, hostname) => {
    if (isIP(hostname) !== 0) return judge(protocol, hostname, [hostname], allowed);
    const name = hostname.toLowerCase().replace(/\.$/, '');
    const listed = hosts(name);
    if (listed.length > 0) return judge(protocol, hostname, listed, allowed);
    const found = await ask(tenant, name);
    return found.kind === 'found' ? judge(protocol, hostname, found.addresses, allowed) : found;
  };
}

/** Names being asked for at once; each has a socket. */
const LOOKUPS_MAX = 256;
const LOOKUPS_PER_TENANT_MAX = 64;
const TOO_MANY: Unresolved = { kind: 'busy', reason: 'Too many names are being resolved.' };

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

/**
 * Texts name the class and never the address, which an answer of the inner network would give away. To its own addresses this machine has
 * ways that a firewall before it does not see.
 */
function judge(
  protocol: string,
  hostname: string,
  addresses: readonly string[],
  allowed: Networks,
): Resolution {
  const own = ownAddresses();
  const refusals = addresses.map(
    (address) =>
      addressRefusal(address, allowed) ??
      (own(address) && !isAllowed(address, allowed) ? "this machine's own" : null),
  );
  const refusal = refusals.find((found) => found !== null);
  if (refusal !== undefined) {
    const reason = `${hostname} leads to an address that may not be sent to (${refusal}).`;
    return { kind: 'refused', reason };
  }
  if (protocol !== 'https:' && !addresses.every((address) => isAllowed(address, allowed))) {
    return { kind: 'refused', reason: 'The URL must begin with https://.' };
  }
  const [first, ...rest] = addresses;
  return first === undefined
    ? { kind: 'absent', reason: NO_ADDRESS }
    : { kind: 'addresses', addresses: [first, ...rest] };
}
