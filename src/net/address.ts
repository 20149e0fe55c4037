/**
 * Which addresses the server may connect to on behalf of others. Invariant: what is not known to be global unicast is refused, unless
 * the operator's networks contain it.
 */
import { isIP } from 'node:net';
import ipaddr from 'ipaddr.js';

type Address = ipaddr.IPv4 | ipaddr.IPv6;
type Network = readonly [address: Address, prefix_bits: number];

/** Networks that the operator opened. Made by `parseNetworks`, opaque to everyone else. */
export type Networks = readonly Network[];

/**
 * @param list CIDR blocks or single addresses, IPv4 or IPv6, between commas or blanks; '' opens nothing.
 * @throws Error with one sentence that names the wrong entry.
 */
export function parseNetworks(list: string): Networks {
  const entries = list.split(/[\s,]+/).filter((entry) => entry !== '');
  return entries.map(parseNetwork);
}

/** Why `address` may not be connected to, as the name of its class; null where it may. Zones are refused even in open networks. */
export function addressRefusal(address: string, allowed: Networks): string | null {
  if (address.includes('%')) return 'scoped to a zone';
  if (isIP(address) === 0) return 'not an address';
  const parsed = ipaddr.parse(address);
  return lies(parsed, allowed) ? null : refusedClass(parsed);
}

/** Whether the operator opened `address`. A mapped IPv6 address counts as the IPv4 address in it, which is where a packet would go. */
export function isAllowed(address: string, allowed: Networks): boolean {
  return !address.includes('%') && isIP(address) !== 0 && lies(ipaddr.parse(address), allowed);
}

function parseNetwork(entry: string): Network {
  const [address = '', prefix, ...rest] = entry.split('/');
  const bits_max = isIP(address) === 6 ? 128 : 32;
  const is_address = isIP(address) !== 0 && !address.includes('%');
  const is_prefix = prefix === undefined || (/^\d{1,3}$/.test(prefix) && Number(prefix) <= bits_max);
  if (!is_address || !is_prefix || rest.length > 0) {
    throw new Error(`"${entry}" is neither an address nor a network such as 10.0.0.0/8 or fd00::/8.`);
  }
  return [ipaddr.parse(address), prefix === undefined ? bits_max : Number(prefix)];
}

function lies(address: Address, networks: Networks): boolean {
  return contains(networks, address) || (isMapped(address) && contains(networks, address.toIPv4Address()));
}

function contains(networks: Networks, address: Address): boolean {
  return networks.some(
    ([network, prefix_bits]) => network.kind() === address.kind() && address.match(network, prefix_bits),
  );
}

function isMapped(address: Address): address is ipaddr.IPv6 {
  return address.kind() === 'ipv6' && (address as ipaddr.IPv6).isIPv4MappedAddress();
}

function refusedClass(address: Address): string | null {
  const named = NAMED.find(([, networks]) => contains(networks, address));
  if (named) return named[0];
  const range: string = address.range();
  if (range !== 'unicast') return WORDS.get(range) ?? 'reserved';
  return address.kind() === 'ipv4' || contains(GLOBAL_IPV6, address) ? null : 'reserved';
}

/** IANA has given out nothing else; without it, `::7f00:1` and the rest of the unassigned space would pass for unicast. */
const GLOBAL_IPV6 = parseNetworks('2000::/3');

/** What `ipaddr.js` takes for unicast or has no own name for. */
const NAMED: readonly (readonly [name: string, networks: Networks])[] = [
  // 168.63.129.16 is a public address that only machines of Azure reach: their wire server.
  [
    'metadata',
    parseNetworks('169.254.169.254 168.63.129.16 100.100.100.200 192.0.0.192 fd00:ec2::254 fd20:ce::254'),
  ],
  ['documentation', parseNetworks('192.0.2.0/24 198.51.100.0/24 203.0.113.0/24 2001:db8::/32 3fff::/20')],
  ['benchmarking', parseNetworks('198.18.0.0/15')],
  ['6to4', parseNetworks('192.88.99.0/24')],
  // The 6bone, handed back in 2006 (RFC 3701).
  ['reserved', parseNetworks('3ffe::/16')],
];

/** The names of `ipaddr.js` where they are not words. */
const WORDS = new Map([
  ['unspecified', 'unspecified'],
  ['broadcast', 'broadcast'],
  ['multicast', 'multicast'],
  ['linkLocal', 'link-local'],
  ['loopback', 'loopback'],
  ['private', 'private'],
  ['carrierGradeNat', 'carrier-grade NAT'],
  ['benchmarking', 'benchmarking'],
  ['as112', 'AS112'],
  ['as112v6', 'AS112'],
  ['amt', 'AMT'],
  ['uniqueLocal', 'unique local'],
  ['deprecatedSiteLocal', 'site-local'],
  ['ipv4Mapped', 'IPv4-mapped'],
  ['rfc6145', 'IPv4-translated'],
  ['rfc6052', 'NAT64'],
  ['6to4', '6to4'],
  ['teredo', 'Teredo'],
  ['discard', 'discard'],
  ['deprecatedOrchid', 'ORCHID'],
  ['orchid2', 'ORCHID'],
  ['segmentRouting', 'segment routing'],
]);
