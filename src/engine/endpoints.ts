/**
 * How much this node sends to each endpoint at once. An endpoint begins with a few requests in flight, gets one more with each that
 * comes back, and falls to one with a failure: whoever hangs holds little. A bound on requests per second keeps a backlog from
 * becoming a flood.
 */
import type { EndpointSlots } from '../store/webhook/claim.ts';

type Endpoint = {
  org: string;
  origin: string;
  in_flight: number;
  window: number;
  /** Requests that it may have at once, at `counted_at_ms`; it earns more with time. */
  allowance: number;
  counted_at_ms: number;
  /** When its last request came back. */
  rested_at_ms: number;
};

export type Endpoints = {
  /** What an endpoint may take that `slots` does not name. */
  slots_default: number;
  slots: () => EndpointSlots[];
  started: (org: string, origin: string) => void;
  ended: (org: string, origin: string, failed: boolean) => void;
  /** In how many ms an endpoint that has had its share may have more; null when none waits. */
  more_in_ms: () => number | null;
};

const WINDOW_START = 4;
/** An allowance that was not used adds up for so long. */
const SAVING_MS = 100;
/** How long what was learned of an endpoint is kept, and of how many. */
const REST_MS = 60_000;
const ENDPOINTS_MAX = 10_000;

/** @param monotonic a clock in ms. */
export function createEndpoints(
  bounds: { window_max: number; per_second_max: number },
  monotonic: () => number,
): Endpoints {
  const endpoints = new Map<string, Endpoint>();
  const per_ms = bounds.per_second_max / 1000;
  const allowance_max = Math.max(1, per_ms * SAVING_MS);
  const window_start = Math.min(WINDOW_START, bounds.window_max);

  function of(org: string, origin: string): Endpoint {
    const key = `${org} ${origin}`;
    const known = endpoints.get(key);
    if (known) return known;
    const now = monotonic();
    const fresh = {
      ...{ org, origin, in_flight: 0, window: window_start },
      ...{ allowance: allowance_max, counted_at_ms: now, rested_at_ms: now },
    };
    endpoints.set(key, fresh);
    return fresh;
  }

  function left({ allowance, counted_at_ms }: Endpoint): number {
    return Math.min(allowance_max, allowance + (monotonic() - counted_at_ms) * per_ms);
  }

  function forget(): void {
    for (const [key, { in_flight, rested_at_ms }] of endpoints) {
      const rests =
        in_flight === 0 && (monotonic() - rested_at_ms > REST_MS || endpoints.size > ENDPOINTS_MAX);
      if (rests) endpoints.delete(key);
    }
  }

  return {
    slots_default: Math.min(window_start, Math.floor(allowance_max)),
    slots: () => {
      forget();
      return [...endpoints.values()].map((endpoint) => {
        const { org, origin, in_flight, window } = endpoint;
        const slots = Math.max(0, Math.floor(Math.min(window - in_flight, left(endpoint))));
        return { org, origin, in_flight, slots };
      });
    },
    started: (org, origin) => {
      const endpoint = of(org, origin);
      endpoint.allowance = left(endpoint) - 1;
      endpoint.counted_at_ms = monotonic();
      endpoint.in_flight += 1;
    },
    ended: (org, origin, failed) => {
      const endpoint = of(org, origin);
      endpoint.in_flight -= 1;
      endpoint.rested_at_ms = monotonic();
      endpoint.window = failed ? 1 : Math.min(endpoint.window + 1, bounds.window_max);
    },
    more_in_ms: () => {
      const waiting = [...endpoints.values()].map(left).filter((allowance) => allowance < 1);
      return waiting.length === 0 ? null : Math.ceil((1 - Math.max(...waiting)) / per_ms);
    },
  };
}
