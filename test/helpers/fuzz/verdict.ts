/** What every answer of the server must be, whatever was asked. */
import type { ErrorCode } from '../../../src/resource/error.ts';
import type { Answer, Outcome } from './connection.ts';
import type { Case } from './requests.ts';

/** `timeout` is the listener's own, for a request that does not arrive. */
const TYPES: Record<ErrorCode | 'timeout', true> = {
  invalid: true,
  unauthorized: true,
  forbidden: true,
  not_found: true,
  conflict: true,
  idempotency_conflict: true,
  too_large: true,
  no_credential: true,
  managed_unavailable: true,
  runtime_unavailable: true,
  sources_not_supported: true,
  not_supported: true,
  contended: true,
  fenced: true,
  rate_limited: true,
  unavailable: true,
  timeout: true,
};

/** What no answer may show: headers that a request tried to inject, and the insides of the server. */
const FORBIDDEN_HEADERS = ['set-cookie', 'x-injected'];
const INSIDES = /node_modules|node:internal|\bat \w+ \(|\.ts:\d+|select .* from |relation "/;

/** What is wrong with the outcome; undefined = nothing. */
export function faultOf({ must_answer, method }: Case, outcome: Outcome): string | undefined {
  if (typeof outcome === 'string') return must_answer ? `no answer: ${outcome}` : undefined;
  const { status, headers } = outcome;
  const injected = FORBIDDEN_HEADERS.find((name) => headers.has(name));
  if (injected !== undefined) return `the header ${injected} came back`;
  if (!(status >= 200 && status < 300) && !(status >= 400 && status < 500)) return `status ${status}`;
  if (status < 300) return faultOfSuccess(outcome, method);
  if (method === 'HEAD') return undefined;
  return faultOfRefusal(outcome);
}

function faultOfSuccess({ headers, body }: Answer, method: string): string | undefined {
  const is_json = headers.get('content-type')?.startsWith('application/json') === true;
  if (!is_json || method === 'HEAD') return undefined;
  return parse(body) === undefined ? 'a success that is not JSON' : undefined;
}

function faultOfRefusal({ status, headers, body }: Answer): string | undefined {
  const text = body.toString();
  const parsed = parse(body) as { error?: Record<string, unknown> | string; detail?: unknown } | undefined;
  if (headers.get('content-type')?.startsWith('application/json') !== true)
    return `${status} without JSON: ${text.slice(0, 100)}`;
  if (status === 429 && !/^\d+$/.test(headers.get('retry-after') ?? '')) return '429 without Retry-After';
  if (INSIDES.test(text)) return `${status} shows insides: ${text.slice(0, 200)}`;
  if (typeof parsed?.detail === 'string') return faultOfDetail(status, headers, parsed);
  if (typeof parsed?.error === 'string') return faultOfSentence(status, headers, parsed);
  const { type, message, request_id } = parsed?.error ?? {};
  if (typeof type !== 'string' || !Object.hasOwn(TYPES, type))
    return `${status} with the type ${String(type)}`;
  if (typeof message !== 'string' || message === '') return `${status} without a message`;
  if (!/^req_[0-9a-f]{24}$/.test(String(request_id)))
    return `${status} with the request id ${String(request_id)}`;
  if (headers.get('x-request-id') !== request_id) return `${status} with two request ids`;
  return undefined;
}

/** The envelope of `/v1`. */
function faultOfDetail(status: number, headers: Answer['headers'], parsed: object): string | undefined {
  const names = Object.keys(parsed).sort().join();
  if (names !== (status === 422 ? 'detail,errors,status_code' : 'detail')) return `${status} with ${names}`;
  const known = /^req_[0-9a-f]{24}$/.test(headers.get('x-request-id') ?? '');
  return known ? undefined : `${status} without a request id`;
}

/** The envelope of `/api`. */
function faultOfSentence(status: number, headers: Answer['headers'], parsed: object): string | undefined {
  const { error, code, ...rest } = parsed as Record<string, unknown>;
  if (error === '' || typeof code !== 'string' || !Object.hasOwn(TYPES, code))
    return `${status} with the code ${String(code)}`;
  if (Object.keys(rest).length > 0) return `${status} with ${Object.keys(rest).join()}`;
  const known = /^req_[0-9a-f]{24}$/.test(headers.get('x-request-id') ?? '');
  return known ? undefined : `${status} without a request id`;
}

function parse(body: Buffer): unknown {
  try {
    return JSON.parse(body.toString());
  } catch {
    return undefined;
  }
}
