/** A provider that is broken, or means harm: recorded streams of the Messages API with something done to them, sent as raw bytes. */
import { once } from 'node:events';
import fs from 'node:fs';
import net, { type AddressInfo } from 'node:net';
import path from 'node:path';
import { gzipSync } from 'node:zlib';
import { randomOf, type Random } from './random.ts';
import { ODD_STRINGS } from './odd.ts';

const FOLDER = path.join(import.meta.dirname, '../../../fixtures/anthropic');

/** The recorded streams, in the order of their names. */
const RECORDED: readonly Buffer[] = fs
  .readdirSync(FOLDER)
  .filter((name) => name.endsWith('.sse'))
  .sort()
  .map((name) => fs.readFileSync(path.join(FOLDER, name)));

/** What the provider sends: a head, a body in pieces, and whether it then hangs up, stays silent, or goes on for ever. */
export type Answer = { head: string; pieces: Buffer[]; end: 'close' | 'reset' | 'silence' | 'trickle' };

const OK = 'HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n';

/** The answer of case `number` of `seed`. */
export function makeAnswer(seed: number, number: number): Answer {
  const random = randomOf(seed, number);
  let body = random.pick(RECORDED);
  for (let count = 1 + random.below(3); count > 0; count -= 1) body = random.pick(MUTATIONS)(body, random);
  const cut = random.below(body.length + 1);
  const pieces = random.chance(0.3) ? [body.subarray(0, cut), body.subarray(cut)] : [body];
  return random.chance(0.15) ? oddAnswer(body, random) : { head: OK, pieces, end: endOf(random) };
}

function endOf(random: Random): Answer['end'] {
  const way = random.below(100);
  if (way < 80) return 'close';
  if (way < 95) return 'reset';
  return way < 97 ? 'silence' : 'trickle';
}

function oddAnswer(body: Buffer, random: Random): Answer {
  const head = random.pick(HEADS);
  const zipped = random.chance(0.5) ? gzipSync(body) : body;
  const sent =
    head.includes('gzip') && random.chance(0.5) ? zipped.subarray(0, random.below(zipped.length)) : body;
  return { head, pieces: [sent], end: endOf(random) };
}

const HEADS: readonly string[] = [
  ...[
    '200 OK',
    '201 Created',
    '204 No Content',
    '206 Partial Content',
    '301 Moved',
    '307 Temporary',
    '400 Bad',
    '401 No',
  ].map(
    (status) =>
      `HTTP/1.1 ${status}\r\ncontent-type: text/event-stream\r\nlocation: /\r\nconnection: close\r\n\r\n`,
  ),
  ...[
    '403 No',
    '404 No',
    '408 Slow',
    '413 Large',
    '429 Many',
    '500 Error',
    '503 Busy',
    '529 Overloaded',
    '999 Odd',
  ].map(
    (status) =>
      `HTTP/1.1 ${status}\r\ncontent-type: application/json\r\nretry-after: -1e9\r\nconnection: close\r\n\r\n`,
  ),
  ...['application/json', 'text/html', 'text/event-stream; charset=utf-16', '', 'a/b, c/d'].map(
    (type) => `HTTP/1.1 200 OK\r\ncontent-type: ${type}\r\nconnection: close\r\n\r\n`,
  ),
  ...['gzip', 'br', 'deflate', 'zstd', 'gzip, gzip', 'x-odd'].map(
    (coding) =>
      `HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-encoding: ${coding}\r\nconnection: close\r\n\r\n`,
  ),
  'HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 10\r\n\r\n',
  'HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 99999999\r\n\r\n',
  'HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n',
  'HTTP/1.1 200 OK\r\nretry-after: Infinity\r\nretry-after-ms: 1e400\r\n\r\n',
  'HTTP/1.1 429 Many\r\nretry-after: 99999999999999999999\r\ncontent-length: 0\r\n\r\n',
  'HTTP/0.9 200\r\n\r\n',
  'not http at all\r\n\r\n',
  '',
];

type Mutation = (body: Buffer, random: Random) => Buffer;

/** The events of a body, each with the empty line that ends it. */
function eventsIn(body: Buffer): string[] {
  return body
    .toString('latin1')
    .split(/(?<=\r?\n\r?\n)/)
    .filter((event) => event !== '');
}

const joined = (events: string[]): Buffer => Buffer.from(events.join(''), 'latin1');

const MUTATIONS: readonly Mutation[] = [
  (body, random) => {
    const copy = Buffer.from(body);
    for (let count = 1 + random.below(5); count > 0 && copy.length > 0; count -= 1)
      copy[random.below(copy.length)]! ^= 1 << random.below(8);
    return copy;
  },
  (body, random) => body.subarray(0, random.below(body.length + 1)),
  (body, random) => {
    const events = eventsIn(body);
    events.splice(random.below(events.length + 1), 0, random.pick(events) ?? '');
    return joined(events);
  },
  (body, random) => {
    const events = eventsIn(body);
    events.splice(random.below(events.length), 1);
    return joined(events);
  },
  (body, random) => {
    const events = eventsIn(body);
    const [moved = ''] = events.splice(random.below(events.length), 1);
    events.splice(random.below(events.length + 1), 0, moved);
    return joined(events);
  },
  (body, random) => Buffer.concat([body, random.pick(RECORDED)]),
  (body, random) =>
    replaced(body, random, /"type":\s*"[a-z_]+"/g, ['"type":"unknown_event"', '"type":null', '"type":{}']),
  (body, random) =>
    replaced(body, random, /"index":\s*\d+/g, [
      '"index":7',
      '"index":-1',
      '"index":"0"',
      '"index":1e99',
      '"index":0.5',
    ]),
  (body, random) =>
    replaced(body, random, /_tokens":\s*\d+/g, [
      ...['_tokens":-5', '_tokens":NaN', '_tokens":1e400', '_tokens":9007199254740993', '_tokens":"12"'],
      ...['_tokens":null', '_tokens":1.5', '_tokens":[]', '_tokens":9007199254740991'],
    ]),
  (body, random) => {
    const odd = JSON.stringify(random.pick(ODD_STRINGS).slice(0, 3000));
    return replaced(
      body,
      random,
      /(?<="(?:text|partial_json|id|name|stop_reason|model|signature)":\s*)"[^"]*"/g,
      [...[odd, odd, odd, 'null', '0', '{}', '[]', '"\\ud800"', '"\\u0000"']],
    );
  },
  (body, random) => replaced(body, random, /"(\w+)":/g, ['"__proto__":', '"constructor":', '"":', '"type":']),
  (body, random) => {
    const at = random.below(body.length + 1);
    return Buffer.concat([body.subarray(0, at), random.bytes(1 + random.below(20)), body.subarray(at)]);
  },
  (body) => Buffer.from(body.toString('latin1').replaceAll('\n', '\r\n'), 'latin1'),
  (body) => Buffer.from(body.toString('latin1').replaceAll('\n', '\r'), 'latin1'),
  (body) => Buffer.from(body.toString('latin1').replaceAll(/\n\n+/g, '\n'), 'latin1'),
  (body) => Buffer.concat([Buffer.from([0xef, 0xbb, 0xbf]), body]),
  (body, random) => {
    const at = random.below(body.length + 1);
    const line = random.chance(0.1) ? 1024 * 1024 : 10_000;
    return Buffer.concat([
      body.subarray(0, at),
      Buffer.alloc(line, random.pick(['a', '"', '{', ':'])),
      body.subarray(at),
    ]);
  },
  (body, random) => Buffer.concat([Buffer.from(random.pick(STRAY)), body]),
  (body) => body,
];

const STRAY: readonly string[] = [
  'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"x"}}\n\n',
  'event: error\ndata: {"type":"error","error":null}\n\n',
  'event: error\ndata: not json\n\n',
  'event: message_start\ndata: null\n\n',
  'event: message_start\ndata: []\n\n',
  'event: message_stop\ndata: {"type":"message_stop"}\n\n',
  'event: content_block_stop\ndata: {"type":"content_block_stop","index":0}\n\n',
  'event: ping\ndata: {}\n\n',
  'event: odd\ndata: {\n\n',
  'id: 1\nretry: 0\n: comment\n\n',
  'data: {"type":"message_start","message":{"__proto__":{"id":"x"},"usage":{"__proto__":1}}}\n\n',
  `data: ${'['.repeat(20_000)}\n\n`,
  `event: message_start\ndata: {"type":"message_start","message":${'{"a":'.repeat(20_000)}\n\n`,
];

function replaced(body: Buffer, random: Random, pattern: RegExp, by: readonly string[]): Buffer {
  const text = body.toString('latin1');
  const hits = [...text.matchAll(pattern)];
  if (hits.length === 0) return body;
  const [found] = hits[random.below(hits.length)]!;
  const { index } = hits.find((hit) => hit[0] === found)!;
  return Buffer.from(text.slice(0, index) + random.pick(by) + text.slice(index + found.length), 'latin1');
}

export type RawProvider = { base_url: string; close: () => Promise<void> };

const TRICKLE_MS = 20;

/** Sends what `answer` gives for each request: `x-case` of its path, else the number of requests so far. */
export async function startRawProvider(
  answer: (number: number, request: string) => Answer,
): Promise<RawProvider> {
  const sockets = new Set<net.Socket>();
  let count = 0;
  const server = net.createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => undefined).once('close', () => sockets.delete(socket));
    let request = '';
    socket.on('data', (chunk: Buffer) => {
      request += chunk.toString('latin1');
      if (!isWhole(request)) return;
      const number = Number(/^POST \/(\d+)\//.exec(request)?.[1] ?? count++);
      send(socket, answer(number, request));
      request = '';
    });
  });
  await once(server.listen(0, '127.0.0.1'), 'listening');
  return {
    base_url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    close: async () => {
      const closed = once(server, 'close');
      server.close();
      for (const socket of sockets) socket.destroy();
      await closed;
    },
  };
}

function isWhole(request: string): boolean {
  const end = request.indexOf('\r\n\r\n');
  const length = Number(/\r\ncontent-length: (\d+)/i.exec(request)?.[1] ?? 0);
  return end >= 0 && request.length >= end + 4 + length;
}

function send(socket: net.Socket, { head, pieces, end }: Answer): void {
  socket.write(head, 'latin1');
  for (const piece of pieces) socket.write(piece);
  if (end === 'close') socket.end();
  // After what was written has gone out, or the reset would take it back.
  if (end === 'reset') setTimeout(() => socket.resetAndDestroy(), 1);
  if (end !== 'trickle') return;
  const timer = setInterval(() => socket.write(': \n'), TRICKLE_MS);
  socket.once('close', () => clearInterval(timer));
}
