/**
 * A stand-in for the Messages API on a loopback port: it streams what a script says and refuses what the real one refuses.
 * Invariant: nothing reaches the script that `validateRequest` would refuse.
 */
import { createHash } from 'node:crypto';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import {
  eventsOf,
  frame,
  type IssuedUsage,
  type MessagesRequest,
  messageOf,
  outputTokens,
  type Reply,
} from './messages-api-reply.ts';
import { validateRequest } from './messages-api-validator.ts';

export { reply, text, thinking, toolUse } from './messages-api-reply.ts';
export type { MessagesRequest, Reply } from './messages-api-reply.ts';

/** Decides the answer to accepted request number `index`, from 0; may wait, which holds the response's headers back. */
export type Script = (request: MessagesRequest, index: number) => Reply | Promise<Reply>;

/** What the stand-in would bill for one request. `finished`: the whole answer was sent. */
type LedgerEntry = IssuedUsage & { index: number; finished: boolean };

export type MessagesApi = {
  /** `http://127.0.0.1:<port>` */
  base_url: string;
  /** Accepted requests in order; index = the script's. Headers without the key. */
  requests: { body: MessagesRequest; headers: Record<string, unknown> }[];
  /** Requests that were refused before the script saw them. */
  refused: { status: number; type: string; message: string; body: unknown }[];
  /** One entry for each request for which a message was begun. */
  ledger: LedgerEntry[];
  /** Accepted requests whose response is not over. */
  concurrent: number;
  max_concurrent: number;
  /** Responses whose connection the client closed before they were over. */
  closed_by_client: number;
  /** Drops all connections and stops listening. */
  close(): Promise<void>;
};

/** Starts the stand-in on a free port of 127.0.0.1. Any key is good except `revoked`. */
export async function startMessagesApi(script: Script): Promise<MessagesApi> {
  const server = createServer((request, response) => void handle(stand_in, request, response));
  const api: MessagesApi = {
    base_url: '',
    requests: [],
    refused: [],
    ledger: [],
    concurrent: 0,
    max_concurrent: 0,
    closed_by_client: 0,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
  const stand_in: StandIn = { api, script, cache: new Set() };
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  api.base_url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  return api;
}

type Refusal = { status: number; type: string; message: string; headers?: Record<string, string> };
/** `cache`: a hash for each prefix of a request that was seen. */
type StandIn = { api: MessagesApi; script: Script; cache: Set<string> };
type Accepted = {
  api: MessagesApi;
  cache: Set<string>;
  index: number;
  body: MessagesRequest;
  response: ServerResponse;
};

const BODY_BYTES_MAX = 32 * 1024 * 1024;

async function handle(stand_in: StandIn, request: IncomingMessage, response: ServerResponse): Promise<void> {
  const { api, script } = stand_in;
  // A client that goes away in the middle is one of the things under test, not a failure of the stand-in.
  response.on('error', () => undefined);
  const bytes = await readBody(request).catch(() => undefined);
  if (bytes === undefined) return;
  const body = parseJson(bytes);
  const refusal = headerRefusal(request) ?? bodyRefusal(bytes, body);
  if (refusal !== undefined) {
    api.refused.push({ status: refusal.status, type: refusal.type, message: refusal.message, body });
    sendError(response, refusal, `req_refused_${api.refused.length}`);
    return;
  }
  const accepted = accept(stand_in, request, response, body as MessagesRequest);
  try {
    await answer(accepted, await script(accepted.body, accepted.index));
  } catch (error) {
    // A script that throws must not look like an outage that the code under test retries.
    sendError(response, { status: 400, type: 'script_error', message: String(error) }, 'req_script_error');
  }
}

async function readBody(request: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks);
}

function parseJson(bytes: Buffer): unknown {
  try {
    return JSON.parse(bytes.toString('utf8'));
  } catch {
    return undefined;
  }
}

function headerRefusal(request: IncomingMessage): Refusal | undefined {
  if (request.method !== 'POST' || request.url?.split('?')[0] !== '/v1/messages') {
    return { status: 404, type: 'not_found_error', message: 'Not Found' };
  }
  const key = keyOf(request);
  if (key === undefined) return unauthenticated('x-api-key header is required');
  if (key === 'revoked') return unauthenticated('invalid x-api-key');
  if (request.headers['anthropic-version'] === undefined)
    return invalid('anthropic-version: header is required');
  return undefined;
}

/** The API takes a key in `x-api-key` and as a bearer token; the SDK sends the latter. */
function keyOf(request: IncomingMessage): string | undefined {
  const header = request.headers['x-api-key'] ?? request.headers.authorization?.replace(/^Bearer /, '');
  return typeof header === 'string' && header !== '' ? header : undefined;
}

function bodyRefusal(bytes: Buffer, body: unknown): Refusal | undefined {
  if (bytes.length > BODY_BYTES_MAX) {
    return { status: 413, type: 'request_too_large', message: 'Request exceeds the maximum size' };
  }
  if (body === undefined) return invalid('The request body is not valid JSON');
  const message = validateRequest(body);
  return message === undefined ? undefined : invalid(message);
}

function unauthenticated(message: string): Refusal {
  return { status: 401, type: 'authentication_error', message };
}

function invalid(message: string): Refusal {
  return { status: 400, type: 'invalid_request_error', message };
}

function sendError(response: ServerResponse, refusal: Refusal, request_id: string): void {
  const { status, type, message, headers } = refusal;
  if (response.headersSent) {
    response.destroy();
    return;
  }
  response.writeHead(status, { 'content-type': 'application/json', 'request-id': request_id, ...headers });
  response.end(JSON.stringify({ type: 'error', error: { type, message }, request_id }));
}

function accept(
  { api, cache }: StandIn,
  request: IncomingMessage,
  response: ServerResponse,
  body: MessagesRequest,
): Accepted {
  const { 'x-api-key': _key, authorization: _bearer, ...headers } = request.headers;
  const index = api.requests.push({ body, headers }) - 1;
  api.concurrent += 1;
  api.max_concurrent = Math.max(api.max_concurrent, api.concurrent);
  response.on('close', () => {
    api.concurrent -= 1;
    if (!response.writableEnded && !cuts.has(response)) api.closed_by_client += 1;
  });
  return { api, cache, index, body, response };
}

/** Responses that we cut ourselves. */
const cuts = new WeakSet<ServerResponse>();

async function answer(accepted: Accepted, reply: Reply): Promise<void> {
  const { api, index, body, response } = accepted;
  const request_id = `req_${String(index + 1).padStart(6, '0')}`;
  if (reply.error !== undefined) {
    sendError(response, reply.error, request_id);
    return;
  }
  const message = messageOf(
    reply,
    body,
    `msg_${String(index + 1).padStart(6, '0')}`,
    issuedUsage(accepted, reply),
  );
  if (body.stream !== true) {
    api.ledger.push({ index, finished: true, ...message.usage });
    response.writeHead(200, { 'content-type': 'application/json', 'request-id': request_id });
    response.end(JSON.stringify(message));
    return;
  }
  response.writeHead(200, { 'content-type': 'text/event-stream; charset=utf-8', 'request-id': request_id });
  response.flushHeaders();
  const events =
    reply.raw_sse === undefined ? eventsOf(message, reply.delta_characters) : frames(reply.raw_sse);
  await streamEvents(accepted, reply, withError(events, reply));
}

/** A recorded body as its frames; each keeps its own line ends, so that together they are the body's bytes. */
function frames(raw_sse: string): string[] {
  return raw_sse.split(/(?<=\r\n\r\n|\n\n)/).filter((piece) => piece !== '');
}

function withError(events: string[], reply: Reply): string[] {
  if (reply.sse_error_after === undefined) return events;
  const { events: count, type, message } = reply.sse_error_after;
  return [...events.slice(0, count), frame('error', { error: { type, message } })];
}

async function streamEvents(accepted: Accepted, reply: Reply, events: string[]): Promise<void> {
  const { response } = accepted;
  const bill = openBill(accepted);
  const gone = new Promise((resolve) => response.once('close', resolve));
  const last = Math.min(reply.cut_after_events ?? events.length, reply.end_after_events ?? events.length);
  for (const [at, event] of events.slice(0, last).entries()) {
    await Promise.race([reply.gate?.(at), gone]);
    if (response.destroyed) return;
    bill(event);
    await new Promise((resolve) => response.write(event, resolve));
  }
  await Promise.race([reply.gate?.(events.length), gone]);
  if (reply.cut_after_events === undefined) {
    response.end();
    return;
  }
  cuts.add(response);
  response.destroy();
}

/** What is billed follows from the events that were sent: input from the first, output as it streams, totals at the end. */
function openBill(accepted: Accepted): (event: string) => void {
  const { api, index } = accepted;
  let entry: LedgerEntry | undefined;
  let characters = 0;
  return (event) => {
    const data = dataOf(event);
    if (data.type === 'message_start') {
      entry = { index, finished: false, ...NO_USAGE, ...data.message?.usage };
      api.ledger.push(entry);
    }
    if (entry === undefined) return;
    characters += (data.delta?.text ?? data.delta?.thinking ?? data.delta?.partial_json ?? '').length;
    if (data.type === 'content_block_delta') {
      entry.output_tokens = Math.max(entry.output_tokens, Math.ceil(characters / 4));
    }
    if (data.type === 'message_delta') Object.assign(entry, data.usage);
    if (data.type === 'message_stop') entry.finished = true;
  };
}

type EventData = {
  type?: string;
  message?: { usage?: Partial<IssuedUsage> };
  delta?: { text?: string; thinking?: string; partial_json?: string };
  usage?: Partial<IssuedUsage>;
};

function dataOf(event: string): EventData {
  const data = /^data: ?(.*)$/m.exec(event)?.[1];
  return data === undefined ? {} : ((parseJson(Buffer.from(data)) as EventData | undefined) ?? {});
}

const NO_USAGE: IssuedUsage = {
  input_tokens: 0,
  output_tokens: 0,
  cache_creation_input_tokens: 0,
  cache_read_input_tokens: 0,
};
/** What stands after the last breakpoint of a cached request. */
const UNCACHED_TOKENS = 3;

/** A token for 4 characters of JSON; what an earlier request of the model began with, element for element, is read from cache. */
function issuedUsage({ body, cache }: Accepted, reply: Reply): IssuedUsage {
  const elements = [body.tools ?? [], body.system ?? [], ...body.messages].map((element) =>
    JSON.stringify(element),
  );
  const total = tokens(elements);
  const output_tokens = outputTokens(reply.content ?? []);
  if (body['cache_control'] === undefined)
    return { ...NO_USAGE, input_tokens: total, output_tokens, ...reply.usage };
  const input_tokens = Math.min(UNCACHED_TOKENS, total);
  const shared = tokens(elements.slice(0, cachedElements(cache, body.model, elements)));
  const cache_read_input_tokens = Math.min(shared, total - input_tokens);
  const cache_creation_input_tokens = total - input_tokens - cache_read_input_tokens;
  return {
    input_tokens,
    output_tokens,
    cache_creation_input_tokens,
    cache_read_input_tokens,
    ...reply.usage,
  };
}

/** How many leading elements are cached; from now on, all are. */
function cachedElements(cache: Set<string>, model: string, elements: string[]): number {
  let prefix = model;
  let cached = 0;
  for (const [at, element] of elements.entries()) {
    prefix = createHash('sha256').update(prefix).update(element).digest('hex');
    if (cache.has(prefix)) cached = at + 1;
    cache.add(prefix);
  }
  return cached;
}

function tokens(elements: string[]): number {
  return Math.ceil(elements.reduce((sum, element) => sum + element.length, 0) / 4);
}
