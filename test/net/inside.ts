/**
 * A program for a network namespace in which every address is this machine: it tries all that could lead a webhook astray and prints
 * as JSON what came of it. Invariant: what reaches any listener is reported with the address it was sent to, and the kernel's own count
 * of connections stands beside it, so that a port where nobody listens hides nothing.
 */
import { execFileSync } from 'node:child_process';
import dns from 'node:dns/promises';
import fs from 'node:fs';
import os from 'node:os';
import { setImmediate } from 'node:timers/promises';
import tls from 'node:tls';
import { parseNetworks } from '../../src/net/address.ts';
import { createPoster, type Poster, type Refusal } from '../../src/net/post.ts';
import type { SendOutcome } from '../../src/resource/delivery.ts';
import { selfSigned } from './certificate.ts';
import { listenEverywhere, reach, type Reached } from './everywhere.ts';
import { serveNames } from './zone.ts';

type Tried = { url: string; why: string; refusal: Refusal | null; outcome: SendOutcome };
/** `opened`: connections that the kernel began. `reached`: those that a listener accepted. */
export type Control = {
  outcomes: SendOutcome[];
  refusal?: Refusal | null;
  opened: number;
  reached: Reached[];
};
/** What happened while many names were asked for and no nameserver answered. */
type Silence = {
  /** Of the host's own resolver for a name of its hosts file. */
  getaddrinfo_ms: number;
  post: SendOutcome;
  post_ms: number;
  /** Of the names that were one too many, and of one that was asked for already. */
  surplus: SendOutcome[];
  /** Of another tenant, while the first has all the lookups that it may have; and of one more when all are taken. */
  neighbour: SendOutcome;
  neighbour_ms: number;
  last: SendOutcome;
  shared: 'waits' | SendOutcome;
};
export type Report = {
  interfaces: string[];
  tried: Tried[];
  corpus_opened: number;
  corpus_reached: Reached[];
  controls: Record<string, Control>;
  silence: Silence;
};

const PUBLIC = '93.184.216.34';
const PUBLIC_6 = '2606:2800:220:1::34';
const OPEN = '10.20.0.0/16 fd77::/16';
/** Public, and of an interface of this machine. */
const OWN = '93.184.216.99';

const reached: Reached[] = [];
const certificate = selfSigned(
  ...[
    PUBLIC,
    PUBLIC_6,
    OWN,
    '10.20.0.5',
    'public.test',
    'rebind.test',
    'rebind-checked.test',
    'alternating.test',
  ],
  ...['93-184-216-34.93-184-216-35.ip.test', '93-184-216-34.10-20-0-5.ip.test'],
);
tls.setDefaultCACertificates([certificate.cert]);
execFileSync('ip', ['addr', 'add', `${OWN}/32`, 'dev', 'lo']);
await listenEverywhere(certificate, (connection) => reached.push(connection));
await serveNames();

const closed = makePoster('');
const open = makePoster(OPEN);
const report: Report = {
  interfaces: Object.keys(os.networkInterfaces()),
  ...(await tryCorpus()),
  controls: await tryControls(),
  silence: await trySilence(),
};
fs.writeSync(1, JSON.stringify(report));
process.exit(0);

function makePoster(networks: string): Poster {
  return createPoster({
    allowed: parseNetworks(networks),
    ...{ connect_ms: 8000, response_ms: 4000, connections_per_origin_max: 4, now: Date.now },
  });
}

async function tryCorpus(): Promise<Omit<Report, 'controls' | 'interfaces' | 'silence'>> {
  const corpus = JSON.parse(fs.readFileSync(process.argv[2]!, 'utf8')) as { url: string; why: string }[];
  const left = corpus.flatMap((entry) => [closed, open].map((poster) => ({ ...entry, poster })));
  const tried: Tried[] = [];
  const before = connectionsOpened();
  const worker = async (): Promise<void> => {
    for (let next = left.shift(); next; next = left.shift()) {
      const { url, why, poster } = next;
      const refusal = await poster.refusal(url, 'org_1');
      tried.push({ url, why, refusal, outcome: await post(poster, url) });
    }
  };
  await Promise.all(Array.from({ length: 32 }, worker));
  return { tried, corpus_opened: connectionsOpened() - before, corpus_reached: reached.splice(0) };
}

async function tryControls(): Promise<Record<string, Control>> {
  return {
    'plain sockets': await control(async () => {
      const inner = [
        '127.0.0.1',
        '169.254.169.254',
        '10.1.2.3',
        '100.100.100.200',
        '::1',
        'fd00::1',
        'fec0::1',
        '64:ff9b::7f00:1',
      ];
      for (const address of inner) await reach(address, 6379);
      return [];
    }),
    'public address': await control(() => posts(closed, `https://${PUBLIC}/hook`)),
    'public address, IPv6': await control(() => posts(closed, `https://[${PUBLIC_6}]/hook`)),
    'public name': await control(() => posts(closed, 'https://public.test:8443/hook')),
    'own address': await control(() => posts(closed, `https://${OWN}/`, 'https://93-184-216-99.ip.test/')),
    'own address, opened': await control(() => posts(makePoster(OWN), `https://${OWN}/`)),
    'connection used again': await control(() => {
      const url = 'https://public.test:443/hook';
      return posts(closed, url, url, url, url, url, url);
    }),
    'open network over http': await control(() => posts(open, 'http://10.20.0.5/', 'http://[fd77::5]:8080/')),
    'open network by name over http': await control(() =>
      posts(open, 'http://cname.10-20-0-5.ip.test:8080/'),
    ),
    'open network over https': await control(() => posts(open, 'https://10.20.0.5/')),
    'open and public over http': await control(() => posts(open, 'http://10-20-0-5.93-184-216-34.ip.test/')),
    'open and public over https': await control(() =>
      posts(open, 'https://93-184-216-34.10-20-0-5.ip.test/'),
    ),
    'open and closed': await control(() => posts(open, 'https://10-20-0-5.10-21-0-5.ip.test/')),
    redirect: await control(() => posts(closed, `https://${PUBLIC}/redirect`)),
    'redirect of an open network': await control(() => posts(open, 'http://10.20.0.5/redirect')),
    rebinding: await control(() => {
      const url = 'https://rebind.test/close';
      return posts(closed, url, url, url);
    }),
    'rebinding after the check': await control(
      () => posts(closed, 'https://rebind-checked.test/close'),
      'https://rebind-checked.test/close',
    ),
    alternating: await control(() =>
      posts(closed, ...Array.from({ length: 6 }, () => 'https://alternating.test/close')),
    ),
    'second address': await control(() => posts(closed, 'https://93-184-216-34.93-184-216-35.ip.test:9443/')),
  };
}

/** 63 lookups that wait leave their tenant place for one more, and 256 nobody. */
async function trySilence(): Promise<Silence> {
  const poster = makePoster('');
  const ask = (index: number, tenant?: string) => post(poster, `https://${index}.silent.test/`, tenant);
  const fill = async (from: number, to: number, tenant?: string): Promise<void> => {
    for (let index = from; index < to; index += 1) {
      void ask(index, tenant);
      // Else the nameserver, which is this process, would lose questions that it had no turn to read.
      await setImmediate();
    }
  };
  await fill(0, 63);
  const [lookup, sent] = await Promise.all([
    timed(dns.lookup('localhost')),
    timed(post(poster, 'https://public.test/hook')),
  ]);
  await fill(63, 64);
  const surplus = await Promise.all([ask(64), ask(65)]);
  const neighbour = await timed(post(poster, 'https://public.test/hook', 'org_2'));
  for (const org of [1, 2, 3]) await fill(org * 64, (org + 1) * 64, `org_${org + 1}`);
  const last = await post(poster, 'https://public.test:8443/hook', 'org_5');
  const shared = await Promise.race([ask(0), dns.lookup('localhost').then(() => 'waits' as const)]);
  return {
    ...{ getaddrinfo_ms: lookup.took_ms, post: sent.value, post_ms: sent.took_ms, surplus, shared, last },
    ...{ neighbour: neighbour.value, neighbour_ms: neighbour.took_ms },
  };
}

async function timed<T>(work: Promise<T>): Promise<{ value: T; took_ms: number }> {
  const start = performance.now();
  const value = await work;
  return { value, took_ms: performance.now() - start };
}

async function control(act: () => Promise<SendOutcome[]>, checked_url?: string): Promise<Control> {
  reached.length = 0;
  const before = connectionsOpened();
  const refusal = checked_url === undefined ? {} : { refusal: await closed.refusal(checked_url, 'org_1') };
  const outcomes = await act();
  return { outcomes, ...refusal, opened: connectionsOpened() - before, reached: reached.splice(0) };
}

async function posts(poster: Poster, ...urls: string[]): Promise<SendOutcome[]> {
  const outcomes: SendOutcome[] = [];
  for (const url of urls) outcomes.push(await post(poster, url));
  return outcomes;
}

function post(poster: Poster, url: string, tenant = 'org_1'): Promise<SendOutcome> {
  return poster.post({ tenant, url, headers: { 'content-type': 'application/json' }, body: '{}' });
}

/** `ActiveOpens` of this namespace: counts every SYN for a new connection, answered or not. */
function connectionsOpened(): number {
  const [names, values] = fs
    .readFileSync('/proc/net/snmp', 'utf8')
    .split('\n')
    .filter((line) => line.startsWith('Tcp:'))
    .map((line) => line.split(' '));
  return Number(values?.[names?.indexOf('ActiveOpens') ?? -1]);
}
