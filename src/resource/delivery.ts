/**
 * A delivery: one event owed to one destination, and what becomes of it after an attempt (contract §12.3, §12.4). At least once, in
 * no promised order.
 */

/** `failed` will be tried again; `dead_letter` is the end unless somebody asks for it again. */
export const DELIVERY_STATUSES = ['pending', 'delivering', 'delivered', 'failed', 'dead_letter'] as const;
export type DeliveryStatus = (typeof DELIVERY_STATUSES)[number];

export type DeliveryRules = {
  /** How long to wait after the first attempt, the second, …; the last one repeats. */
  delays_ms: readonly number[];
  /** Since the delivery was written or last asked for again. */
  attempts_max: number;
  /** The same: how long it is tried at most. */
  age_ms_max: number;
};

/** What came of an attempt to send. */
export type SendOutcome =
  | {
      kind: 'responded';
      status: number;
      retry_after_ms: number | null;
      /** Its first 400 characters. A redirect is a response. */
      body: string;
    }
  /** The URL, a header or an address may not be sent to: it stays so. */
  | { kind: 'refused'; reason: string }
  /** DNS, connection, TLS, time: it may be tried again. */
  | { kind: 'failed'; reason: string }
  /** Nothing was sent, as this node has too much to do. */
  | { kind: 'busy'; reason: string };

export type Verdict =
  | { status: 'delivered' }
  | { status: 'failed'; retry_in_ms: number }
  | { status: 'dead_letter' };

/**
 * The circuit breaker of an endpoint: after so many failures in a row it lets one probe through at a time, ever more rarely. `probe_ms` is
 * longer than a probe may take.
 */
export const BREAKER = { failures: 5, first_ms: 10_000, max_ms: 300_000, probe_ms: 30_000 };

/** For what this node could not even try. */
const BUSY_MS = 1000;
const RETRY_AFTER_MS_MAX = 24 * 3600 * 1000;
/** Deliveries that failed together do not come back together. */
const JITTER = 0.2;

/**
 * 2xx is delivered. 429, 5xx and whatever kept an answer from coming is tried again; any other answer will not get better. What was not
 * tried counts as no attempt and is tried soon.
 * @param attempts how many were made by now, this one included, since the delivery was written or asked for again.
 * @param random in 0..1.
 */
export function judge(outcome: SendOutcome, attempts: number, rules: DeliveryRules, random: number): Verdict {
  if (outcome.kind === 'responded' && outcome.status >= 200 && outcome.status < 300)
    return { status: 'delivered' };
  if (outcome.kind === 'busy') return { status: 'failed', retry_in_ms: Math.round(BUSY_MS * (1 + random)) };
  if (!mayImprove(outcome) || attempts >= rules.attempts_max) return { status: 'dead_letter' };
  const delay_ms = rules.delays_ms[Math.min(attempts, rules.delays_ms.length) - 1] ?? 0;
  const asked_ms = outcome.kind === 'responded' ? (outcome.retry_after_ms ?? 0) : 0;
  return {
    status: 'failed',
    retry_in_ms: Math.round(
      Math.max(delay_ms * (1 + JITTER * random), Math.min(asked_ms, RETRY_AFTER_MS_MAX)),
    ),
  };
}

/** What an attempt says of its endpoint: it works, it fails, or nothing, as no request got there. */
export function endpointVerdict(outcome: SendOutcome): 'works' | 'fails' | 'unknown' {
  if (outcome.kind === 'refused' || outcome.kind === 'busy') return 'unknown';
  return mayImprove(outcome) ? 'fails' : 'works';
}

function mayImprove(outcome: SendOutcome): boolean {
  if (outcome.kind === 'responded') return outcome.status === 429 || outcome.status >= 500;
  return outcome.kind === 'failed';
}
