/**
 * A DNS server for a network where every address is this machine. Invariant: a name below `ip.test` says what it resolves to, so that a
 * list of URLs needs no table beside it; what is not listed does not exist.
 */
import { isIPv4, isIPv6 } from 'node:net';
import dns from 'dns2';

/** `93-184-216-34.fd00--1.ip.test` has these two addresses; `cname.` before a name is an alias of it. */
const SPELLED = '.ip.test';

const NAMES = new Map<string, string[]>([
  ...addresses('127.0.0.1', 'localhost.test', 'localhost.localdomain', 'localtest.me', 'lvh.me', 'vcap.me'),
  ...addresses('127.0.0.1', '127.0.0.1.nip.io', '7f000001.nip.io', 'spoofed.burpcollaborator.net'),
  ...addresses('127.0.0.1', 'sub.localtest.me', 'customer1.app.localhost.my.company.127.0.0.1.nip.io'),
  ...addresses('127.0.0.1', 'localhost', 'sub.localhost', 'a.b.localhost'),
  ...addresses('::1', 'localhost6', 'ip6-loopback'),
  ...addresses('169.254.169.254', 'metadata', 'metadata.google.internal', 'metadata.goog', 'instance-data'),
  ...addresses('169.254.169.254', 'instance-data.ec2.internal', 'metadata.azure.internal'),
  ...addresses('169.254.169.254', '169-254-169-254.sslip.io', '169.254.169.254.nip.io'),
  ...addresses('192.0.0.192', 'metadata.packet.test'),
  ...addresses('100.100.100.200', 'alibaba.metadata.test'),
  ...addresses('172.17.0.1', 'host.docker.internal', 'gateway.docker.internal'),
  ...addresses('10.96.0.1', 'kubernetes', 'kubernetes.default', 'kubernetes.default.svc'),
  ...addresses('10.96.0.1', 'kubernetes.default.svc.cluster.local'),
  ...addresses('10.0.0.1', '10.0.0.1.sslip.io', 'postgres', 'redis', 'db', 'vault.service.consul'),
  ...addresses('192.168.1.1', 'router.lan', 'printer.local', 'intranet.corp'),
  ...addresses('93.184.216.34', 'public.test'),
]);

/** One answer after the other, then from the start again. */
const CHANGING = new Map([
  ['rebind.test', ['93.184.216.34', '127.0.0.1', '127.0.0.1', '127.0.0.1', '127.0.0.1', '127.0.0.1']],
  ['rebind-checked.test', ['93.184.216.34', '169.254.169.254', '10.0.0.1', '10.0.0.1']],
  ['alternating.test', ['93.184.216.34', '10.0.0.1']],
]);

/** Listens on UDP port 53 of 127.0.0.1; no answer may be kept. */
export async function serveNames(): Promise<void> {
  const asked = new Map<string, number>();
  const server = dns.createServer({
    udp: true,
    handle: (request, send) => {
      const [question] = request.questions;
      const name = (question?.name ?? '').toLowerCase();
      if (name.endsWith('silent.test')) return;
      const response = dns.Packet.createResponseFromRequest(request);
      // Resolvers ask for both kinds of addresses: a changing name changes with the question for the first.
      const turn = question?.type === dns.Packet.TYPE.A ? (asked.get(name) ?? 0) : 0;
      if (question?.type === dns.Packet.TYPE.A) asked.set(name, turn + 1);
      fill(response, name, question?.type, turn);
      void send(response);
    },
  });
  await server.listen({ udp: { port: 53, address: '127.0.0.1' } });
}

function fill(
  response: InstanceType<typeof dns.Packet>,
  name: string,
  type: number | undefined,
  turn: number,
): void {
  response.header.aa = 1;
  response.header.ra = 1;
  if (name === 'servfail.test') response.header.rcode = 2;
  const aliases = aliasesOf(name);
  for (const [alias, target] of aliases) {
    response.answers.push(record(alias, dns.Packet.TYPE.CNAME, { domain: target }));
  }
  const owner = aliases.at(-1)?.[1] ?? name;
  const found = answerOf(owner, turn);
  if (found === undefined && response.header.rcode === 0) response.header.rcode = 3;
  for (const address of found ?? []) {
    const kind = isIPv4(address) ? dns.Packet.TYPE.A : dns.Packet.TYPE.AAAA;
    if (kind === type) response.answers.push(record(owner, kind, { address }));
  }
}

function aliasesOf(name: string): [alias: string, target: string][] {
  if (name === 'dangling.test') return [[name, 'nowhere.test']];
  if (name === 'loop.test') return [[name, name]];
  if (!name.endsWith(SPELLED) || !name.startsWith('cname.')) return [];
  const target = name.slice('cname.'.length);
  return [[name, target], ...aliasesOf(target)];
}

/** Undefined: there is no such name. */
function answerOf(name: string, turn: number): string[] | undefined {
  if (name === 'empty.test' || name === 'loop.test') return [];
  const changing = CHANGING.get(name);
  if (changing) return [changing[turn % changing.length]!];
  return NAMES.get(name) ?? spelled(name);
}

function spelled(name: string): string[] | undefined {
  if (!name.endsWith(SPELLED)) return undefined;
  const labels = name.slice(0, -SPELLED.length).split('.');
  const found = labels.map((label) => [label.replaceAll('-', '.'), label.replaceAll('-', ':')]);
  const addresses = found.map((forms) => forms.find((form) => isIPv4(form) || isIPv6(form)));
  return addresses.every((address) => address !== undefined) ? addresses : undefined;
}

function record(
  name: string,
  type: number,
  data: { address: string } | { domain: string },
): dns.Packet.Resource {
  const resource = new dns.Packet.Resource({ name, type, class: dns.Packet.CLASS.IN, ttl: 0 });
  return Object.assign(resource, data);
}

function addresses(address: string, ...names: string[]): [name: string, addresses: string[]][] {
  return names.map((name) => [name, [address]]);
}
