/**
 * Requests over every operation of an OpenAPI document, most of them wrong in one or two places. Invariant: what a case asks follows
 * from its seed and number; only the ids in it are those of the server at hand.
 */
import { mutate, sample, textOf, type Resolve, type Schema } from './bodies.ts';
import type { Sending } from './connection.ts';
import { APP_NAMES, FORM_TYPE, formOf } from './forms.ts';
import { CONTENT_TYPES, METHODS, ODD_HEADERS, ODD_SEGMENTS, ODD_STRINGS, ODD_TARGETS } from './odd.ts';
import { randomOf, type Random } from './random.ts';

type Parameter = { in: string; name: string; schema?: Schema };
export type Document = {
  paths: Record<
    string,
    Record<
      string,
      { parameters?: Parameter[]; requestBody?: { content: Record<string, { schema?: Schema }> } }
    >
  >;
  components?: { schemas?: Record<string, Schema> };
};

/** The ids that cases use, by kind (`session`, `agent`, …); `foreign` are of an org that no key of the fuzzer opens. */
export type Pool = Record<string, string[]>;

export type Site = {
  document: Document;
  pool: Pool;
  /** Credentials that open something: most requests carry one of these. */
  keys: string[];
  /** Of the org that may run the server; used seldom, as it opens what costs most. */
  operator_key: string;
  /** Where a webhook may be sent to, on this machine. */
  url: string;
};

export type Case = Sending & {
  /** The request line and what was done to it. */
  summary: string;
  /** Whether the server owes an answer: the request is whole, however wrong. */
  must_answer: boolean;
};

type Operation = {
  method: string;
  path: string;
  parameters: Parameter[];
  schema: Schema | undefined;
  takes_form: boolean;
};

/** A request before it is bytes. */
type Draft = {
  method: string;
  target: string;
  headers: string[];
  body: Buffer | undefined;
  notes: string[];
};

const PATIENCE_MS = 15_000;
/** A refusal before the end of more than this may be lost: the client is still sending when the server hangs up. */
const HEARD_BYTES_MAX = 60_000;

/** Case `number` of `seed`. */
export function makeCase(site: Site, seed: number, number: number): Case {
  const random = randomOf(seed, number);
  const operations = operationsOf(site.document);
  const operation = random.pick(operations);
  const draft = draftOf(site, operation, random);
  for (let count = random.below(3); count > 0; count -= 1) random.pick(MUTATIONS)(draft, random, site);
  if (random.chance(0.03)) return lie(draft, random);
  return whole(draft, frame(draft, random));
}

const known_operations = new WeakMap<Document, Operation[]>();

/** Every operation, and the routes that the document leaves out because they are no part of the API. */
function operationsOf(document: Document): Operation[] {
  const known = known_operations.get(document);
  if (known) return known;
  const found = Object.entries(document.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, { parameters = [], requestBody }]) => ({
      ...{ method: method.toUpperCase(), path, parameters },
      schema: requestBody?.content['application/json']?.schema,
      takes_form: requestBody?.content['multipart/form-data'] !== undefined,
    })),
  );
  for (const path of ['/openapi.json', '/reference/{asset}'])
    found.push({ method: 'GET', path, parameters: [], schema: undefined, takes_form: false });
  known_operations.set(document, found);
  return found;
}

function draftOf(site: Site, operation: Operation, random: Random): Draft {
  const path = operation.path.replaceAll(/\{(\w+)\}/g, (_, name: string) => idFor(site.pool, name, random));
  const query = operation.parameters
    .filter((parameter) => parameter.in === 'query' && random.chance(0.4))
    .map(({ name, schema = {} }) => `${name}=${encodeURIComponent(queryValue(site, name, schema, random))}`);
  const { schema, takes_form } = operation;
  const key = random.chance(0.02) ? site.operator_key : random.pick(site.keys);
  const headers = [`Authorization: Bearer ${key}`];
  if (schema) headers.push('Content-Type: application/json');
  let body: Buffer | undefined;
  if (schema) {
    const fit = sample(schema, random, resolveIn(site.document), knownIn(site, random));
    body = random.chance(0.75) ? mutate(fit, random) : Buffer.from(textOf(fit));
  }
  if (takes_form) {
    headers.push(`Content-Type: ${FORM_TYPE}`);
    body = formOf(random);
  }
  const target = query.length === 0 ? path : `${path}?${query.join('&')}`;
  return { method: operation.method, target, headers, body, notes: [] };
}

function resolveIn({ components }: Document): Resolve {
  return (reference) => components?.schemas?.[reference.split('/').at(-1)!] ?? {};
}

function knownIn(site: Site, random: Random): (field: string) => unknown {
  return (field) => {
    switch (field) {
      case 'url':
      case 'webhook':
        return `${site.url}/${random.below(100)}`;
      case 'agent':
      case 'session':
        return random.pick(site.pool[field]!);
      case 'credential':
        return random.pick([...site.pool['credential']!, 'managed']);
      case 'model':
        return 'anthropic/claude-test';
      case 'runtime':
        return 'claude';
      case 'provider':
        return 'anthropic';
      case 'types':
        return ['agent.*', 'turn.completed'];
      case 'sources':
        return [];
      default:
        return undefined;
    }
  };
}

/** An id of the right kind mostly; else of another kind, of another org, or none at all. */
function idFor(pool: Pool, name: string, random: Random): string {
  if (name === 'app_name' && random.chance(0.4)) return encodeURIComponent(random.pick(APP_NAMES));
  const kind = name.replace(/_id$/, '').replace(/^token$/, 'client_token');
  const right = pool[kind];
  const way = random.below(100);
  if (right && way < 75) return random.pick(right);
  if (way < 85) return random.pick(random.pick(Object.values(pool)));
  if (way < 90) return random.pick(pool['foreign']!);
  return random.pick(ODD_SEGMENTS);
}

function queryValue(site: Site, name: string, schema: Schema, random: Random): string {
  if (random.chance(0.3)) return random.pick(ODD_STRINGS).slice(0, 3000).toWellFormed();
  if (schema.enum) return String(random.pick(schema.enum));
  if (name === 'cursor') return random.pick([...random.pick(Object.values(site.pool)), '1', '2', '']);
  if (name === 'after' || name === 'before')
    return random.pick(['0', '1', '2', '2026-01-01T00:00:00Z', '99999']);
  if (name === 'type') return random.pick(['*', 'agent.*', '*.message', 'turn.completed']);
  if (schema.type === 'integer') return String(1 + random.below(3));
  return random.pick(random.pick(Object.values(site.pool)));
}

type Mutation = (draft: Draft, random: Random, site: Site) => void;

const note = (draft: Draft, what: string): void => void draft.notes.push(what);

const otherMethod: Mutation = (draft, random) => {
  draft.method = random.pick(METHODS);
  note(draft, 'method');
};

const otherSegment: Mutation = (draft, random) => {
  const [path = '', ...rest] = draft.target.split('?');
  const segments = path.split('/');
  segments[1 + random.below(segments.length)] = random.pick(ODD_SEGMENTS);
  draft.target = [segments.join('/'), ...rest].join('?');
  note(draft, 'segment');
};

const otherTarget: Mutation = (draft, random) => {
  draft.target = random.pick(ODD_TARGETS);
  note(draft, 'target');
};

const oddQuery: Mutation = (draft, random) => {
  const names = ['limit', 'cursor', 'after', 'level', 'type', 'stream', 'token', 'status', 'before', 'x'];
  const pairs = Array.from({ length: 1 + random.below(3) }, () => {
    const value = random.pick(ODD_STRINGS).slice(0, 2000).toWellFormed();
    const name = random.pick(names);
    return random.chance(0.2)
      ? `${name}${random.pick(['', '[]', '[a]', '=%', '=%ff', '==', '=%00'])}`
      : `${name}=${encodeURIComponent(value)}`;
  });
  draft.target += (draft.target.includes('?') ? '&' : '?') + pairs.join('&');
  note(draft, 'query');
};

const oddHeader: Mutation = (draft, random) => {
  draft.headers.push(random.pick(ODD_HEADERS));
  note(draft, `header ${draft.headers.at(-1)!.slice(0, 40)}`);
};

const otherType: Mutation = (draft, random) => {
  draft.headers = draft.headers.filter((line) => !line.startsWith('Content-Type'));
  if (random.chance(0.8)) draft.headers.push(`Content-Type: ${random.pick(CONTENT_TYPES)}`);
  note(draft, 'content type');
};

const otherAuth: Mutation = (draft, random, { keys }) => {
  const key = random.pick(keys);
  const forms = [
    ...[
      `Authorization: ${key}`,
      'Authorization: Bearer',
      'Authorization: Bearer ',
      `Authorization: bearer   ${key}`,
    ],
    ...[
      `Authorization: Basic ${Buffer.from(`a:${key}`).toString('base64')}`,
      `X-API-Key: ${key}`,
      'X-API-Key: ',
    ],
    ...[
      `Authorization: Bearer ${key}x`,
      `Authorization: Bearer ${key.slice(0, -1)}`,
      `Authorization: Bearer ${key}, x`,
    ],
    ...[
      `Authorization: Bearer ${key}\r\nAuthorization: Bearer x`,
      `Authorization: Bearer x\r\nX-API-Key: ${key}`,
    ],
    ...[
      `Authorization: Bearer \u00ff\u00fe`,
      `Authorization: Bearer ${'k'.repeat(9000)}`,
      'Authorization: \u0001',
    ],
    ...[
      `Authorization: Bearer ow_${'0'.repeat(8)}_${'A'.repeat(43)}`,
      `Authorization: Bearer owct_${'A'.repeat(43)}`,
    ],
    ...["Authorization: Bearer ' or 1=1 --", 'Authorization: Digest username="a"', 'X-Nothing: 1'],
  ];
  draft.headers = [random.pick(forms), ...draft.headers.filter((line) => !line.startsWith('Authorization'))];
  note(draft, 'authorization');
};

const bodyWhereNone: Mutation = (draft, random) => {
  draft.body = mutate({ text: 'x' }, random);
  note(draft, 'a body');
};

/** Each as often as it stands here. */
const MUTATIONS: Mutation[] = [
  ...[otherMethod, otherSegment, otherSegment, otherSegment, otherTarget, oddQuery, oddQuery, oddQuery],
  ...[oddHeader, oddHeader, oddHeader, otherType, otherAuth, otherAuth, bodyWhereNone],
];

function head({ method, target, headers }: Draft, more: string[]): Buffer {
  const lines = [`${method} ${target} HTTP/1.1`, 'Host: 127.0.0.1', ...headers, ...more];
  return Buffer.from(`${lines.join('\r\n')}\r\n\r\n`, 'latin1');
}

/** The request as a client that means well frames it. */
function frame(draft: Draft, random: Random): Buffer {
  const { body } = draft;
  if (!body) return head(draft, []);
  if (random.chance(0.9)) return Buffer.concat([head(draft, [`Content-Length: ${body.length}`]), body]);
  const cut = random.below(body.length + 1);
  const chunks = [body.subarray(0, cut), body.subarray(cut)].filter(({ length }) => length > 0);
  const framed = chunks.flatMap((chunk) => [
    Buffer.from(`${chunk.length.toString(16)}\r\n`),
    chunk,
    Buffer.from('\r\n'),
  ]);
  return Buffer.concat([head(draft, ['Transfer-Encoding: chunked']), ...framed, Buffer.from('0\r\n\r\n')]);
}

function whole(draft: Draft, bytes: Buffer): Case {
  const { method, target, notes } = draft;
  const summary = `${method} ${target.slice(0, 200)} (${notes.join(', ') || 'its body at most'})`;
  // What is upgraded or tunneled is HTTP no more.
  const stays = !notes.some((what) => /upgrade|websocket/i.test(what)) && method !== 'CONNECT';
  const must_answer = bytes.length <= HEARD_BYTES_MAX;
  return { bytes, method, whole: stays, patience_ms: PATIENCE_MS, summary, must_answer };
}

/** Lines about the length of a body that are not true, or not clear. */
const LIES: ((length: number) => string)[] = [
  (length) => `Content-Length: ${length + 10}`,
  (length) => `Content-Length: ${Math.max(0, length - 5)}`,
  () => 'Content-Length: -1',
  () => 'Content-Length: 1e3',
  () => 'Content-Length: 99999999999999999999',
  (length) => `Content-Length: ${length}\r\nContent-Length: 1`,
  (length) => `Content-Length: ${length}, ${length}`,
  (length) => `Content-Length: ${length}\r\nTransfer-Encoding: chunked`,
  () => 'Transfer-Encoding: gzip, chunked',
  () => 'Transfer-Encoding: identity',
  () => 'Transfer-Encoding: chunked\r\nTransfer-Encoding: identity',
  () => 'Transfer-Encoding : chunked',
];

const CHUNKS: readonly string[] = [
  ...[
    '5\r\nab\r\n0\r\n\r\n',
    '2\r\nabcdef\r\n0\r\n\r\n',
    '-1\r\nab\r\n0\r\n\r\n',
    'zz\r\nab\r\n',
    'ffffffffff\r\nab',
  ],
  ...[
    '0x2\r\n{}\r\n0\r\n\r\n',
    '2\n{}\n0\n\n',
    `2;${'x'.repeat(20_000)}\r\n{}\r\n0\r\n\r\n`,
    '2\r\n{}',
    '\r\n',
  ],
  ...[
    '2\r\n{}\r\n0\r\nX-Trailer: a\u0001b\r\n\r\n',
    '0\r\n\r\n',
    '2\r\n{}\r\n0\r\n',
    `${'0'.repeat(500)}2\r\n{}\r\n0\r\n\r\n`,
  ],
];

const NO_HTTP: readonly Buffer[] = [
  Buffer.from([0x16, 0x03, 0x01, 0x00, 0xa5, 0x01, 0x00, 0x00, 0xa1, 0x03, 0x03]),
  ...[
    'GET /healthz\r\n\r\n',
    'GET /healthz HTTP/9.9\r\n\r\n',
    'GET  /healthz  HTTP/1.1\r\nHost: x\r\n\r\n',
    'GET /healthz HTTP/1.1\r\n\r\n',
    'GET /healthz HTTP/1.0\r\n\r\n',
    'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n',
    '\r\n\r\n\r\n',
    '\0\0\0\0',
    'GET /healthz HTTP/1.1\nHost: x\n\n',
    'GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n\r\ngarbage\r\n\r\n',
    'A'.repeat(70_000),
    'POST /v3/sessions HTTP/1.1\r\nHost: x\r\nContent-Len',
  ].map((text) => Buffer.from(text, 'latin1')),
];

/** A request whose end nobody can tell, or that is none: an answer is welcome, but not owed. */
function lie(draft: Draft, random: Random): Case {
  const body = draft.body ?? Buffer.from('{}');
  const way = random.below(3);
  const [bytes, what] =
    way === 0
      ? [Buffer.concat([head(draft, [random.pick(LIES)(body.length)]), body]), 'a lie about its length']
      : way === 1
        ? [
            Buffer.concat([
              head(draft, ['Transfer-Encoding: chunked']),
              Buffer.from(random.pick(CHUNKS), 'latin1'),
            ]),
            'lying chunks',
          ]
        : [random.pick(NO_HTTP), 'no request at all'];
  const summary = `${draft.method} ${draft.target.slice(0, 200)} (${what})`;
  return { bytes, method: draft.method, whole: false, patience_ms: 100, summary, must_answer: false };
}
