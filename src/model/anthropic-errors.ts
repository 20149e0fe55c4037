/**
 * What an error of the provider means for us: may it be repeated, does it need the operator, or is the request at fault.
 * Invariant: no text that leaves here is longer than `MESSAGE_CHARACTERS_MAX` or holds the key.
 */
import { APIConnectionError, APIError } from '@anthropic-ai/sdk';
import type { ModelOutcome } from '../resource/model.ts';

export type Failure = Extract<ModelOutcome, { kind: 'failed' }>;

/** The failure that `error`, thrown before any event of the stream, stands for. */
export function requestFailure(error: unknown, api_key: string): Failure {
  if (error instanceof APIConnectionError) return failure('transient', 'connection', causes(error), api_key);
  if (!(error instanceof APIError)) return failure('request', 'invalid_request', causes(error), api_key);
  const found = describe(error);
  const retry_after_ms = retryAfter(error.headers);
  const failed = failure(
    reasonOf(error, found),
    found.type ?? `http_${error.status}`,
    found.message,
    api_key,
  );
  return retry_after_ms === undefined ? failed : { ...failed, retry_after_ms };
}

/** The failure that `error` stands for where it broke a stream; undefined: the stream ended before its message did. */
export function streamFailure(error: unknown, api_key: string): Failure {
  if (error instanceof APIError && !(error instanceof APIConnectionError)) {
    const found = describe(error);
    if (found.type !== undefined) {
      return failure(REASON_OF_TYPE.get(found.type) ?? 'transient', found.type, found.message, api_key);
    }
  }
  const message = error === undefined ? 'The stream ended before the message did.' : causes(error);
  return failure('transient', 'cut_stream', message, api_key);
}

/** A failure whose texts do not hold `api_key`. */
export function failure(reason: Failure['reason'], code: string, message: string, api_key: string): Failure {
  // Redacted before it is shortened: half a key at the end would not be found.
  const safe_message = redact(message, api_key).slice(0, MESSAGE_CHARACTERS_MAX);
  return { kind: 'failed', reason, code: redact(code, api_key), message: safe_message };
}

const MESSAGE_CHARACTERS_MAX = 500;

const REASON_OF_TYPE = new Map<string, Failure['reason']>([
  ['authentication_error', 'credential'],
  ['permission_error', 'credential'],
  ['billing_error', 'credential'],
  ['invalid_request_error', 'request'],
  ['not_found_error', 'request'],
  ['request_too_large', 'request'],
]);

const CREDENTIAL_STATUSES = [401, 402, 403];
const TRANSIENT_STATUSES = [408, 409, 429];
/** Sent with 429, but no waiting of minutes helps: the operator must raise a limit. */
const SPEND_LIMITS = ['contract_spend_limit_reached', 'enforced_spend_limit_reached'];

type Description = { type: string | undefined; message: string };

/** The type and message of the provider's envelope; of a body without one, the body. */
function describe(error: APIError): Description {
  const envelope: { error?: { type?: unknown; message?: unknown } } | null | undefined = error.error;
  const inner = envelope?.error;
  const type = typeof inner?.type === 'string' ? inner.type : undefined;
  const message = typeof inner?.message === 'string' ? inner.message : error.message;
  return { type, message: error.requestID ? `${message} (${error.requestID})` : message };
}

function reasonOf(error: APIError, found: Description): Failure['reason'] {
  const status = error.status ?? 0;
  const is_billing =
    found.type === 'billing_error' || (status === 400 && /credit balance/i.test(found.message));
  if (is_billing || CREDENTIAL_STATUSES.includes(status)) return 'credential';
  if (SPEND_LIMITS.includes(error.errorCode ?? '')) return 'credential';
  return TRANSIENT_STATUSES.includes(status) || status >= 500 ? 'transient' : 'request';
}

/** Milliseconds to wait, ≥ 0. A date is measured against the response's own `date`, so the two clocks are one. */
function retryAfter(headers: Headers | undefined): number | undefined {
  const milliseconds = numberIn(headers?.get('retry-after-ms'));
  if (milliseconds !== undefined) return bounded(milliseconds);
  const text = headers?.get('retry-after');
  const seconds = numberIn(text);
  if (seconds !== undefined) return bounded(seconds * 1000);
  const wait = Date.parse(text ?? '') - Date.parse(headers?.get('date') ?? '');
  return Number.isFinite(wait) ? bounded(wait) : undefined;
}

function numberIn(text: string | null | undefined): number | undefined {
  return text != null && /^-?\d+(\.\d+)?$/.test(text.trim()) ? Number(text) : undefined;
}

function bounded(wait_ms: number): number {
  return Math.min(Math.max(0, Math.round(wait_ms)), Number.MAX_SAFE_INTEGER);
}

/** The message of an error and of what caused it: `fetch failed` alone says nothing. */
function causes(error: unknown): string {
  const messages: string[] = [];
  for (let at = error; at instanceof Error && messages.length < 4; at = at.cause) messages.push(at.message);
  return messages.filter((message) => message !== '').join(': ') || 'The provider could not be reached.';
}

function redact(text: string, api_key: string): string {
  return api_key === '' ? text : text.replaceAll(api_key, '[redacted]');
}
