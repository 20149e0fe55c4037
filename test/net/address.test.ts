import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { addressRefusal, isAllowed, parseNetworks } from '../../src/net/address.ts';

const NONE = parseNetworks('');

/** Refused ranges with their first and last address, and the public neighbours below and above, where there are some. */
const RANGES: [why: string, first: string, last: string, below?: string | undefined, above?: string][] = [
  ['unspecified', '0.0.0.0', '0.255.255.255', undefined, '1.0.0.0'],
  ['private', '10.0.0.0', '10.255.255.255', '9.255.255.255', '11.0.0.0'],
  ['carrier-grade NAT', '100.64.0.0', '100.127.255.255', '100.63.255.255', '100.128.0.0'],
  ['loopback', '127.0.0.0', '127.255.255.255', '126.255.255.255', '128.0.0.0'],
  ['link-local', '169.254.0.0', '169.254.255.255', '169.253.255.255', '169.255.0.0'],
  ['private', '172.16.0.0', '172.31.255.255', '172.15.255.255', '172.32.0.0'],
  ['reserved', '192.0.0.0', '192.0.0.255', '191.255.255.255', '192.0.1.0'],
  ['documentation', '192.0.2.0', '192.0.2.255', '192.0.1.255', '192.0.3.0'],
  ['AS112', '192.31.196.0', '192.31.196.255', '192.31.195.255', '192.31.197.0'],
  ['AMT', '192.52.193.0', '192.52.193.255', '192.52.192.255', '192.52.194.0'],
  ['6to4', '192.88.99.0', '192.88.99.255', '192.88.98.255', '192.88.100.0'],
  ['private', '192.168.0.0', '192.168.255.255', '192.167.255.255', '192.169.0.0'],
  ['AS112', '192.175.48.0', '192.175.48.255', '192.175.47.255', '192.175.49.0'],
  ['benchmarking', '198.18.0.0', '198.19.255.255', '198.17.255.255', '198.20.0.0'],
  ['documentation', '198.51.100.0', '198.51.100.255', '198.51.99.255', '198.51.101.0'],
  ['documentation', '203.0.113.0', '203.0.113.255', '203.0.112.255', '203.0.114.0'],
  ['metadata', '168.63.129.16', '168.63.129.16', '168.63.129.15', '168.63.129.17'],
  ['metadata', '169.254.169.254', '169.254.169.254'],
  ['metadata', '100.100.100.200', '100.100.100.200'],
  ['multicast', '224.0.0.0', '239.255.255.255', '223.255.255.255'],
  ['reserved', '240.0.0.0', '255.255.255.254'],
  ['broadcast', '255.255.255.255', '255.255.255.255'],
  ['unspecified', '::', '::'],
  ['loopback', '::1', '::1'],
  ['reserved', '::2', '::fffe:ffff:ffff'],
  ['IPv4-mapped', '::ffff:0.0.0.0', '::ffff:255.255.255.255'],
  ['IPv4-translated', '::ffff:0:0.0.0.0', '::ffff:0:255.255.255.255'],
  ['NAT64', '64:ff9b::', '64:ff9b::255.255.255.255'],
  ['NAT64', '64:ff9b:1::', '64:ff9b:1:ffff:ffff:ffff:ffff:ffff'],
  ['discard', '100::', '100::ffff:ffff:ffff:ffff'],
  ['reserved', '100:0:0:1::', '1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff'],
  ['Teredo', '2001::', '2001:0:ffff:ffff:ffff:ffff:ffff:ffff'],
  ['reserved', '2001:1::', '2001:1:ffff:ffff:ffff:ffff:ffff:ffff'],
  ['benchmarking', '2001:2::', '2001:2:0:ffff:ffff:ffff:ffff:ffff'],
  ['AMT', '2001:3::', '2001:3:ffff:ffff:ffff:ffff:ffff:ffff'],
  ['AS112', '2001:4:112::', '2001:4:112:ffff:ffff:ffff:ffff:ffff'],
  ['ORCHID', '2001:10::', '2001:1f:ffff:ffff:ffff:ffff:ffff:ffff'],
  ['ORCHID', '2001:20::', '2001:2f:ffff:ffff:ffff:ffff:ffff:ffff'],
  ['reserved', '2001:30::', '2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff', undefined, '2001:200::'],
  ['documentation', '2001:db8::', '2001:db8:ffff:ffff:ffff:ffff:ffff:ffff', '2001:db7::', '2001:db9::'],
  ['6to4', '2002::', '2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff', '2001:ffff::', '2003::'],
  ['AS112', '2620:4f:8000::', '2620:4f:8000:ffff::', '2620:4f:7fff::', '2620:4f:8001::'],
  ['documentation', '3fff::', '3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff', '3ffd::', '3fff:1000::'],
  ['reserved', '3ffe::', '3ffe:ffff:ffff:ffff:ffff:ffff:ffff:ffff', '3ffd:ffff::'],
  ['reserved', '4000::', '5eff:ffff::', '3fff:ffff::'],
  ['segment routing', '5f00::', '5f00:ffff:ffff:ffff:ffff:ffff:ffff:ffff'],
  ['reserved', '6000::', 'fbff:ffff:ffff:ffff:ffff:ffff:ffff:ffff'],
  ['unique local', 'fc00::', 'fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff'],
  ['metadata', 'fd00:ec2::254', 'fd00:ec2::254'],
  ['metadata', 'fd20:ce::254', 'fd20:ce::254'],
  ['reserved', 'fe00::', 'fe7f:ffff:ffff:ffff:ffff:ffff:ffff:ffff'],
  ['link-local', 'fe80::', 'febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff'],
  ['site-local', 'fec0::', 'feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff'],
  ['multicast', 'ff00::', 'ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff'],
];

describe('what is not global unicast is refused', () => {
  it.each(RANGES)('%s: from %s to %s', (why, first, last, below, above) => {
    expect(addressRefusal(first, NONE)).toBe(why);
    expect(addressRefusal(last, NONE)).toBe(why);
    for (const neighbour of [below, above]) {
      if (neighbour !== undefined)
        expect([neighbour, addressRefusal(neighbour, NONE)]).toEqual([neighbour, null]);
    }
  });

  it.each(['1.1.1.1', '93.184.216.34', '223.255.255.254', '2606:4700:4700::1111', '2a00:1450:4001::200e'])(
    'but %s is public',
    (address) => expect(addressRefusal(address, NONE)).toBeNull(),
  );

  it.each(['fe80::1%eth0', '2606:4700::1%2', '127.0.0.1%lo'])('%s has a zone', (address) => {
    expect(addressRefusal(address, parseNetworks('::/0 0.0.0.0/0'))).toBe('scoped to a zone');
  });

  it.each([
    '',
    'localhost',
    '127.1',
    '0x7f000001',
    '2130706433',
    '010.0.0.1',
    '1.2.3.4.',
    '[::1]',
    '1.2.3.4/8',
  ])('%j is not an address', (address) => expect(addressRefusal(address, NONE)).toBe('not an address'));

  it('no form of IPv6 carries an IPv4 address past the check, public or not', () => {
    fc.assert(
      fc.property(fc.ipV4(), (ipv4) => {
        const hex = ipv4.split('.').map((octet) => Number(octet).toString(16).padStart(2, '0'));
        const groups = `${hex[0]}${hex[1]}:${hex[2]}${hex[3]}`;
        const forms = [
          ...[`::ffff:${ipv4}`, `::ffff:${groups}`, `::${ipv4}`, `::ffff:0:${ipv4}`],
          ...[`64:ff9b::${ipv4}`, `64:ff9b:1::${ipv4}`, `2002:${groups}::1`, `2001:0:${groups}::1`],
        ];
        expect(forms.filter((form) => addressRefusal(form, NONE) === null)).toEqual([]);
      }),
    );
  });
});

describe('the networks of the operator', () => {
  const allowed = parseNetworks('10.1.0.0/16, 192.168.7.7\nfd00:1::/32  ::1');

  it.each(['10.1.0.0', '10.1.255.255', '192.168.7.7', 'fd00:1::5', '::1', '::ffff:10.1.2.3'])(
    'open %s',
    (address) => {
      expect(addressRefusal(address, allowed)).toBeNull();
      expect(isAllowed(address, allowed)).toBe(true);
    },
  );

  it.each([
    '10.0.255.255',
    '10.2.0.0',
    '192.168.7.8',
    'fd00:2::',
    '::2',
    '::ffff:10.2.0.1',
    '64:ff9b::10.1.2.3',
  ])('do not open %s', (address) => expect(addressRefusal(address, allowed)).not.toBeNull());

  it('do not contain a public address, though it may be connected to', () => {
    expect(isAllowed('1.1.1.1', allowed)).toBe(false);
    expect(isAllowed('not an address', allowed)).toBe(false);
  });

  it('may be empty, and then open nothing', () => {
    expect(parseNetworks(' , \n')).toEqual([]);
    expect(addressRefusal('127.0.0.1', parseNetworks(''))).toBe('loopback');
  });

  it.each([
    '10.0.0.0/33',
    '10.0.0/8',
    '::/129',
    '10.0.0.0/',
    '10.0.0.0/-1',
    '10.0.0.0/8/8',
    '0x7f.1',
    'fe80::%1/64',
  ])('are refused for %s, which is named', (entry) => {
    expect(() => parseNetworks(`127.0.0.1, ${entry}`)).toThrow(
      `"${entry}" is neither an address nor a network such as 10.0.0.0/8 or fd00::/8.`,
    );
  });
});
