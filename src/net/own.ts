/** The addresses of this machine's interfaces, public ones too. */
import { BlockList, isIP } from 'node:net';
import os from 'node:os';

/** Asked each time: interfaces come and go. */
export function ownAddresses(): (address: string) => boolean {
  const list = new BlockList();
  for (const { address, family } of Object.values(os.networkInterfaces()).flatMap((each) => each ?? [])) {
    list.addAddress(address, family === 'IPv6' ? 'ipv6' : 'ipv4');
  }
  return (address) => list.check(address, isIP(address) === 6 ? 'ipv6' : 'ipv4');
}
