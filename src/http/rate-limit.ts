/**
 * How much one caller may ask of this node: requests per second of a key and of an org, failures per second of an address, open
 * streams of a key, of an org and of the node. What exceeds is refused with `rate_limited`; what is under way is never ended for it. Each node
 * counts for itself.
 */
import ipaddr from 'ipaddr.js';
import { RateLimiterMemory } from 'rate-limiter-flexible';
import { OverwinterError } from '../resource/error.ts';
import type { Caller } from './authorize.ts';

export type Limits = {
  /** Of one API key or client token, per second. */
  requests_per_key_max: number;
  /** Of one org, its client tokens included, per second. */
  requests_per_org_max: number;
  /** Requests of one address without a good key or token, per second. */
  failures_per_address_max: number;
  /** Of one API key or client token. */
  streams_per_key_max: number;
  streams_per_org_max: number;
  /** Of the whole node. */
  streams_max: number;
};

/** For apps that nobody calls but tests and the generator of the document. */
export const NO_LIMITS: Limits = {
  requests_per_key_max: Number.MAX_SAFE_INTEGER,
  requests_per_org_max: Number.MAX_SAFE_INTEGER,
  failures_per_address_max: Number.MAX_SAFE_INTEGER,
  streams_per_key_max: Number.MAX_SAFE_INTEGER,
  streams_per_org_max: Number.MAX_SAFE_INTEGER,
  streams_max: Number.MAX_SAFE_INTEGER,
};

/** Each throws OverwinterError `rate_limited` above the limit. */
export type RateLimit = {
  /**
   * Looks a credential up on behalf of an address; undefined is a failure. What failed in the last second and what is being looked up
   * are never more than the limit together: a lookup waits for those before it, and is not made once they have failed.
   */
  authenticate: <T>(address: string, look: () => Promise<T | undefined>) => Promise<T | undefined>;
  /** A key that is over its own limit does not use up that of its org. */
  countRequest: (caller: Pick<Caller, 'id' | 'org'>) => Promise<void>;
};

export function createRateLimit(limits: Limits): RateLimit {
  const perSecond = (points: number) => new RateLimiterMemory({ points, duration: 1 });
  const keys = perSecond(limits.requests_per_key_max);
  const orgs = perSecond(limits.requests_per_org_max);
  const attempts = createAttempts(limits.failures_per_address_max);
  return {
    authenticate: async (address, look) => {
      const end = await attempts(networkOf(address));
      let failed = false;
      try {
        const found = await look();
        failed = found === undefined;
        return found;
      } finally {
        end(failed);
      }
    },
    countRequest: async ({ id, org }) => {
      await keys.consume(id).catch(() => refuse('requests of this key'));
      await orgs.consume(org).catch(() => refuse('requests of this org'));
    },
  };
}

/** Takes a place for an attempt and returns what ends it; throws where every place is held by a failure. */
type Attempts = (network: string) => Promise<(failed: boolean) => void>;

type Held = { under_way: number; failed: number; waiting: (() => void)[] };

/** An attempt has one of `places` of its network until it ends, and for a second more if it failed. */
function createAttempts(places: number): Attempts {
  const held_by_network = new Map<string, Held>();
  const release = (network: string, held: Held): void => {
    if (held.under_way === 0 && held.failed >= places) for (const wake of held.waiting.splice(0)) wake();
    else held.waiting.shift()?.();
    if (held.under_way + held.failed + held.waiting.length === 0) held_by_network.delete(network);
  };
  const end = (network: string, held: Held, failed: boolean): void => {
    held.under_way -= 1;
    if (failed) {
      held.failed += 1;
      setTimeout(() => {
        held.failed -= 1;
        release(network, held);
      }, FAILURE_COUNTS_MS).unref();
    }
    release(network, held);
  };
  return async (network) => {
    for (;;) {
      const held = held_by_network.get(network) ?? { under_way: 0, failed: 0, waiting: [] };
      held_by_network.set(network, held);
      if (held.failed >= places) throw limited('failed attempts from this address');
      if (held.under_way + held.failed < places) {
        held.under_way += 1;
        return (failed) => end(network, held, failed);
      }
      await new Promise<void>((resolve) => held.waiting.push(resolve));
    }
  };
}

const FAILURE_COUNTS_MS = 1000;

/** Takes a place for a stream of the caller and returns what gives it back, once. */
export type StreamLimit = (caller: Pick<Caller, 'id' | 'org'>) => () => void;

/** Readers that are connected keep their place: a new one is refused (`rate_limited`) instead. */
export function createStreamLimit(limits: Limits): StreamLimit {
  /** By the ids of keys, client tokens and orgs, which no two share. */
  const open = new Map<string, number>();
  let total = 0;
  const countOf = (holder: string): number => open.get(holder) ?? 0;
  const change = (holder: string, by: 1 | -1): void => {
    const left = countOf(holder) + by;
    if (left === 0) open.delete(holder);
    else open.set(holder, left);
  };
  const changeAll = ({ id, org }: Pick<Caller, 'id' | 'org'>, by: 1 | -1): void => {
    total += by;
    change(id, by);
    change(org, by);
  };
  return (caller) => {
    if (total >= limits.streams_max) throw limited('open streams on this node');
    if (countOf(caller.org) >= limits.streams_per_org_max) throw limited('open streams of this org');
    if (countOf(caller.id) >= limits.streams_per_key_max) throw limited('open streams of this key');
    changeAll(caller, 1);
    return () => changeAll(caller, -1);
  };
}

/** Whoever has one IPv6 address has its whole /64. */
function networkOf(address: string): string {
  if (!ipaddr.isValid(address)) return address;
  const parsed = ipaddr.process(address);
  return parsed instanceof ipaddr.IPv6 ? parsed.parts.slice(0, 4).join(':') : parsed.toString();
}

function refuse(what: string): never {
  throw limited(what);
}

function limited(what: string): OverwinterError {
  return new OverwinterError('rate_limited', `too many ${what}; try again later`);
}
