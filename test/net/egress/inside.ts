/**
 * A program for a network namespace in which every address is this machine: it asks proxies for all that they must not do, and for what
 * they must, and prints as JSON what came of it. Invariant: the kernel's own count of connections stands beside each answer.
 */
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import tls from 'node:tls';
import { selfSigned } from '../certificate.ts';
import { cutAndBroken, halfClosed, heldBack, ended, slow, streams } from './flow.ts';
import { concurrent, pipelined, total } from './many.ts';
import {
  connect,
  connectionsOpened,
  get,
  listenEcho,
  logged,
  PUBLIC,
  send,
  serve,
  shorten,
  tryConnect,
  type Proxy,
} from './world.ts';
import { listenEverywhere, type Reached } from '../everywhere.ts';
import { serveNames } from '../zone.ts';

export type Tried = { answers: string[]; opened: number; reached: string[] };
export type Report = {
  corpus: Tried & { tried: string[] };
  cases: Record<string, Tried>;
  headers: unknown[];
  secure: string;
  flow: Record<string, unknown>;
  logged: Record<string, unknown>[];
  faults: string[];
};

const H = 'Host: public.test:8888\r\nConnection: close\r\n';
const U = 'http://public.test:8888';
/** None may lead to a connection. */
const MALFORMED = [
  'GET / HTTP/1.1\r\nHost: public.test\r\nConnection: close\r\n\r\n',
  `GET https://public.test:8888/ HTTP/1.1\r\n${H}\r\n`,
  `GET ftp://public.test:8888/ HTTP/1.1\r\n${H}\r\n`,
  `GET http://user:secret@public.test:8888/ HTTP/1.1\r\n${H}\r\n`,
  `GET http://public.test:8888\\@127.0.0.1/ HTTP/1.1\r\n${H}\r\n`,
  `GET ${U}/ HTTP/1.1\r\nHost: 169.254.169.254\r\nConnection: close\r\n\r\n`,
  `GET ${U}/ HTTP/1.1\r\nHost: public.test\r\nConnection: close\r\n\r\n`,
  `GET ${U}/ HTTP/1.1\r\nHost: public.test:8888@127.0.0.1\r\nConnection: close\r\n\r\n`,
  `GET ${U}/ HTTP/1.1\r\n${H}Host: public.test:8888\r\n\r\n`,
  `GET ${U}/ HTTP/1.1\r\nConnection: close\r\n\r\n`,
  `GET ${U}/\rX: y HTTP/1.1\r\n${H}\r\n`,
  `GET ${U}/ HTTP/1.1\r\nX: y\nHost: 127.0.0.1\r\n${H}\r\n`,
  `GET ${U}/ HTTP/1.1\r\nX: y\r z\r\n${H}\r\n`,
  `GET ${U}/ HTTP/1.1\r\nX : y\r\n${H}\r\n`,
  `GET ${U}/ HTTP/1.1\r\n folded: y\r\n${H}\r\n`,
  `GET ${U}/ x HTTP/1.1\r\n${H}\r\n`,
  `POST ${U}/ HTTP/1.1\r\n${H}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`,
  `POST ${U}/ HTTP/1.1\r\n${H}Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello`,
  `POST ${U}/ HTTP/1.1\r\n${H}Content-Length: +5\r\n\r\nhello`,
  `POST ${U}/ HTTP/1.1\r\n${H}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n`,
  `POST ${U}/ HTTP/1.1\r\n${H}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n`,
  `GET ${U}/ HTTP/1.1\r\n${H}X: ${'y'.repeat(40_000)}\r\n\r\n`,
  `GET ${U}/${'y'.repeat(40_000)} HTTP/1.1\r\n${H}\r\n`,
  `GET http://${'y'.repeat(300)}/ HTTP/1.1\r\nHost: ${'y'.repeat(300)}\r\nConnection: close\r\n\r\n`,
  `GET http://public.test:0/ HTTP/1.1\r\nHost: public.test:0\r\nConnection: close\r\n\r\n`,
  'CONNECT public.test HTTP/1.1\r\nHost: public.test\r\n\r\n',
  'CONNECT public.test:0 HTTP/1.1\r\nHost: public.test:0\r\n\r\n',
  'CONNECT public.test:99999 HTTP/1.1\r\nHost: public.test\r\n\r\n',
  'CONNECT user@public.test:443 HTTP/1.1\r\nHost: public.test\r\n\r\n',
  'CONNECT http://public.test:443 HTTP/1.1\r\nHost: public.test\r\n\r\n',
  `CONNECT ${'y'.repeat(300)}:443 HTTP/1.1\r\nHost: x\r\n\r\n`,
  'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n',
  '\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n',
];

const faults: string[] = [];
process.on('uncaughtException', (error) => faults.push(String(error.stack)));
process.on('unhandledRejection', (error) => faults.push(`rejected: ${String(error)}`));

const reached: Reached[] = [];
const certificate = selfSigned(PUBLIC, 'public.test');
await listenEverywhere(certificate, (connection) => reached.push(connection));
await serveNames();
await listenEcho(8888);
await streams();
// A public address that is this machine's own, besides loopback.
execFileSync('ip', ['addr', 'add', '93.184.216.99/32', 'dev', 'lo']);

const open = await serve();
const report: Report = {
  corpus: await tryCorpus(open),
  cases: { ...(await tryOpen()), ...(await tryListed()) },
  headers: await tryHeaders(),
  secure: await trySecure(),
  flow: {
    ...(await halfClosed(open)),
    ...(await heldBack(open)),
    ...(await cutAndBroken(open)),
    ...(await slow()),
    ...(await concurrent()),
    ...(await pipelined()),
    ...(await total()),
    ...(await ended()),
  },
  logged: logged.filter(({ status }) => status === 403).slice(0, 1),
  faults,
};
fs.writeSync(1, JSON.stringify(report));
process.exit(0);

async function watch(act: () => Promise<string[]>): Promise<Tried> {
  reached.length = 0;
  const before = connectionsOpened();
  const answers = await act();
  const places = reached.splice(0).map(({ address, port }) => `${address} ${port}`);
  return { answers, opened: connectionsOpened() - before, reached: places };
}

/** Every URL that webhooks refuse for where it leads, as a request and as a tunnel. */
async function tryCorpus(proxy: Proxy): Promise<Report['corpus']> {
  const entries = JSON.parse(fs.readFileSync(process.argv[2]!, 'utf8')) as { url: string; why: string }[];
  const tried = entries
    .map(({ url }) => url)
    .filter((url) => !/silent\.test|93\.184|public\.test/i.test(url));
  const left = [...tried];
  const answers: string[] = [];
  const worker = async (): Promise<void> => {
    for (let url = left.shift(); url !== undefined; url = left.shift()) {
      const plain = Buffer.from(url.replace(/^\w*:\/\//, 'http://').replaceAll(/[\r\n\0 ]/g, '')).toString(
        'latin1',
      );
      const authority = /^http:\/\/([^/?#]*)/.exec(plain)?.[1] ?? '';
      const with_port = /:\d+$/.test(authority) ? authority : `${authority}:443`;
      const got = await get(proxy, plain);
      const tunnelled = await tryConnect(proxy, with_port);
      if (!/^(400|403|502)\b/.test(got)) answers.push(`${url} ${got}`);
      if (!/^(400|403|502)\b/.test(tunnelled)) answers.push(`CONNECT ${with_port} ${tunnelled}`);
    }
  };
  const seen = await watch(async () => {
    await Promise.all(Array.from({ length: 16 }, worker));
    return answers;
  });
  return { ...seen, tried };
}

async function each<T>(items: T[], act: (item: T) => Promise<string>): Promise<string[]> {
  const answers: string[] = [];
  for (const item of items) answers.push(await act(item));
  return answers;
}

async function tryOpen(): Promise<Record<string, Tried>> {
  const opened = await serve({ mode: 'open' }, { networks: '10.20.0.0/16 93.184.216.99' });
  return {
    public: await gets(
      open,
      'http://public.test/',
      `http://${PUBLIC}:8080/x`,
      'http://[2606:2800:220:1::34]/',
    ),
    'public, tunnelled': await tunnels(open, 'public.test:443', `${PUBLIC}:22`, '[2606:2800:220:1::34]:6379'),
    forms: await tunnels(
      open,
      ...['[::ffff:127.0.0.1]:80', '[::ffff:7f00:1]:80', '2130706433:80', '0x7f000001:80', '0177.0.0.1:80'],
      ...[
        '127.1:80',
        '0:80',
        '0.0.0.0:80',
        '[::]:80',
        '[::1]:80',
        'localhost:80',
        'LOCALHOST.:80',
        '%31%32%37.0.0.1:80',
      ],
      ...[
        '169.254.169.254:80',
        '[fe80::1]:80',
        '[64:ff9b::a9fe:a9fe]:80',
        '100.64.0.1:80',
        '10.0.0.1:22',
        '①②⑦.0.0.1:80',
      ],
    ),
    mixed: await tunnels(open, '93-184-216-34.10-0-0-1.ip.test:80', '93-184-216-34.fd00--1.ip.test:80'),
    rebinding: await gets(open, ...Array.from({ length: 3 }, () => 'http://rebind.test/')),
    alternating: await tunnels(open, ...Array.from({ length: 4 }, () => 'alternating.test:443')),
    mail: await tunnels(open, 'public.test:25', `${PUBLIC}:025`, '[2606:2800:220:1::34]:25'),
    'mail by http': await gets(open, 'http://public.test:25/'),
    'own address': await tunnels(open, '93.184.216.99:80', '93-184-216-99.ip.test:80'),
    'own address, opened': await gets(opened, 'http://93.184.216.99/', 'http://93-184-216-99.ip.test/'),
    'open network': await gets(
      opened,
      'http://10.20.0.5/',
      'http://10.21.0.5/',
      'http://10-20-0-5.10-21-0-5.ip.test/',
    ),
    'no address': await gets(open, 'http://missing.test/', 'http://servfail.test/', 'http://empty.test/'),
    'nobody there': await tunnels(open, 'public.test:9'),
    malformed: await watch(() => each(MALFORMED, async (bytes) => shorten(await send(open, bytes)))),
  };
}

async function tryListed(): Promise<Record<string, Tried>> {
  const listed = await serve({ mode: 'allow', hosts: ['PUBLIC.test', '*.IP.test', '93.184.216.40'] });
  return {
    listed: await gets(
      listed,
      ...[
        'http://public.test/',
        'http://PUBLIC.TEST./',
        'http://93-184-216-34.ip.test/',
        'http://93.184.216.40/',
      ],
    ),
    'not listed': await tunnels(
      listed,
      ...[
        'ip.test:443',
        'a.public.test:443',
        'xpublic.test:443',
        'silent.test:443',
        `${PUBLIC}:443`,
        '93.184.216.41:80',
      ],
      ...['public.test.evil.test:443', '1.93.184.216.40:443'],
    ),
    'listed and private': await tunnels(
      listed,
      '10-0-0-5.ip.test:443',
      '127-0-0-1.ip.test:80',
      'public.test:25',
    ),
  };
}

function tunnels(proxy: Proxy, ...to: string[]): Promise<Tried> {
  return watch(() => each(to, (one) => tryConnect(proxy, one)));
}

function gets(proxy: Proxy, ...urls: string[]): Promise<Tried> {
  return watch(() => each(urls, (url) => get(proxy, url)));
}

/** What arrives of a request. */
async function tryHeaders(): Promise<unknown[]> {
  const hop = [
    ...[
      'Proxy-Authorization: Basic c2VjcmV0',
      'Proxy-Connection: keep-alive',
      'Keep-Alive: 9',
      'TE: trailers',
    ],
    ...[
      'X-Named: gone',
      'Upgrade: websocket',
      'Trailer: X',
      'X-Kept: a',
      'X-Kept: b',
      'Cookie: c=d',
      'Expect: 100-continue',
    ],
  ];
  const head = (request: string, ...more: string[]): string =>
    [`${request} HTTP/1.1`, 'Host: PUBLIC.test:8888', 'Connection: close, X-Named', ...more, '', ''].join(
      '\r\n',
    );
  const answers = [
    await send(open, head(`GET ${U}/a/../b?c=%20d#e`, ...hop)),
    await send(open, `${head(`POST ${U}`, 'Content-Length: 5')}hello`),
    await send(open, `${head(`DELETE ${U}?q`, 'Transfer-Encoding: chunked')}5\r\nhello\r\n0\r\n\r\n`),
    await send(open, head(`PATCH ${U}/`)),
  ];
  return answers.map((answer) => {
    const [headers = '', ...body] = answer.replace('HTTP/1.1 100 Continue\r\n\r\n', '').split('\r\n\r\n');
    return { headers, sent: JSON.parse(/\{.*\}/.exec(body.join(''))?.[0] ?? 'null') as unknown };
  });
}

async function trySecure(): Promise<string> {
  const { socket } = await connect(open, 'public.test:443');
  socket.removeAllListeners('data');
  const secure = tls.connect({ socket, ca: certificate.cert, servername: 'public.test' });
  await once(secure, 'secureConnect');
  secure.write('GET /close HTTP/1.1\r\nHost: public.test\r\n\r\n');
  let text = '';
  for await (const chunk of secure) text += String(chunk);
  return shorten(text);
}
