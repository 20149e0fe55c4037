/**
 * Requests to URLs that others chose. Invariant: no byte goes to an address that was not checked for the very connection, and nothing
 * that the other side answers leads anywhere else: redirects are not followed, proxies of the environment not read, bodies not unpacked.
 */
import type { Dispatcher } from 'undici';
import type { SendOutcome } from '../resource/delivery.ts';
import type { Networks } from './address.ts';
import { createConnect } from './connect.ts';
import { exchange } from './exchange.ts';
import { createPools } from './pools.ts';
import { createResolves, type Resolution, type Resolve } from './resolve.ts';
import { parseTarget } from './url.ts';

type PostRequest = {
  /** Whose request it is: tenants share no connection, and none resolves names at the cost of the others. */
  tenant: string;
  url: string;
  headers: Record<string, string>;
  body: string;
};

export type Refusal = { kind: 'refused' | 'failed'; reason: string };

export type Poster = {
  /** Never rejects. No text in the outcome holds the URL's path, its query or a header. An aborted `signal` gives `failed`. */
  post(request: PostRequest, signal?: AbortSignal): Promise<SendOutcome>;
  /**
   * Why this URL could not be sent to, or null; resolves its name. For the moment a destination is written, so that a name without an
   * address is `refused`; `failed` is what may be otherwise when asked again.
   */
  refusal(url: string, tenant: string): Promise<Refusal | null>;
  /** Ends what is under way, as `failed`. */
  close(): Promise<void>;
};

export type PosterOptions = {
  /** Networks that are not public and may be sent to, over http too. */
  allowed: Networks;
  /** Resolving, TCP and TLS; also the longest wait for a free connection. */
  connect_ms: number;
  /** From the request to the end of its response. */
  response_ms: number;
  connections_per_origin_max: number;
  /** Unix milliseconds. */
  now: () => number;
};

export function createPoster(options: PosterOptions): Poster {
  const resolve_of = createResolves(options.allowed);
  const connect_of = (tenant: string) => createConnect(resolve_of(tenant), options.connect_ms);
  const settings = {
    connections: options.connections_per_origin_max,
    pipelining: 1,
    // HTTP/2 would wait for one connection to agree on it before the others are opened.
    allowH2: false,
    // An idle connection was checked when it was made: it must not outlive that by much, whatever the other side asks for.
    keepAliveTimeout: IDLE_MS,
    keepAliveMaxTimeout: IDLE_MS,
    // `exchange` has one time limit for all of a response.
    headersTimeout: 0,
    bodyTimeout: 0,
  };
  const pools = createPools(settings, connect_of);
  return {
    post: async (request, signal) => {
      const prepared = prepare(request);
      if ('refusal' in prepared) return { kind: 'refused', reason: prepared.refusal };
      const { origin, ...rest } = prepared;
      return pools.use(request.tenant, origin, (pool) => exchange(pool, { ...rest, signal }, options));
    },
    refusal: (url, tenant) => refusalOf(url, resolve_of(tenant), options.connect_ms),
    close: () => pools.close(),
  };
}

const IDLE_MS = 4000;

type Prepared = Dispatcher.DispatchOptions & { origin: string };

function prepare({ url, headers, body }: PostRequest): Prepared | { refusal: string } {
  const target = parseTarget(url);
  if ('refusal' in target) return target;
  if (Object.keys(headers).some((name) => name.toLowerCase() === 'host')) {
    return { refusal: 'The header "host" follows from the URL and may not be set.' };
  }
  const { origin, pathname, search } = target.url;
  return { origin, path: pathname + search, method: 'POST', headers, body };
}

async function refusalOf(text: string, resolve: Resolve, connect_ms: number): Promise<Refusal | null> {
  const target = parseTarget(text);
  if ('refusal' in target) return { kind: 'refused', reason: target.refusal };
  const { protocol, hostname } = target.url;
  const resolution = await within(connect_ms, resolve(protocol, hostname.replace(/^\[|\]$/g, '')));
  if (resolution.kind === 'addresses') return null;
  const may_pass = resolution.kind === 'failed' || resolution.kind === 'busy';
  return { kind: may_pass ? 'failed' : 'refused', reason: resolution.reason };
}

async function within(limit_ms: number, resolving: Promise<Resolution>): Promise<Resolution> {
  const { promise, resolve } = Promise.withResolvers<Resolution>();
  const late: Resolution = { kind: 'failed', reason: `The name did not resolve within ${limit_ms} ms.` };
  const timer = setTimeout(() => resolve(late), limit_ms);
  return Promise.race([resolving, promise]).finally(() => clearTimeout(timer));
}
