/**
 * One request and its response, through a dispatcher of undici. Invariant: whatever the other side does, it ends after the times and
 * bytes of its limits, and a status that has arrived is never lost to what comes after it.
 */
import type { Dispatcher } from 'undici';
import type { SendOutcome } from '../resource/delivery.ts';
import { stoppedBy } from './connect.ts';
import { codeOf, describeFailure } from './failure.ts';

export type ExchangeLimits = {
  /** Until the request is on its way, the wait for a free connection included. */
  connect_ms: number;
  /** From then to the end of the response. */
  response_ms: number;
  /** Unix milliseconds, against which a date in `Retry-After` is measured. */
  now: () => number;
};

type Request = Dispatcher.DispatchOptions & { signal?: AbortSignal | undefined };

/** Never rejects. */
export function exchange(
  dispatcher: Dispatcher,
  { signal, ...request }: Request,
  { connect_ms, response_ms, now }: ExchangeLimits,
): Promise<SendOutcome> {
  const { promise, resolve } = Promise.withResolvers<SendOutcome>();
  const answer: Answer = { status: null, retry_after_ms: null, kept: [], read_bytes: 0 };
  let controller: Dispatcher.DispatchController | undefined;
  let is_settled = false;

  const settle = (without_status: SendOutcome): void => {
    is_settled = true;
    clearTimeout(timer);
    signal?.removeEventListener('abort', callOff);
    resolve(responded(answer) ?? without_status);
  };
  const stop = (reason: string): void => {
    settle({ kind: 'failed', reason });
    controller?.abort(new Error(reason));
  };
  const callOff = (): void => stop('The request was called off.');
  let timer = setTimeout(() => stop(`No connection within ${connect_ms} ms.`), connect_ms);
  signal?.addEventListener('abort', callOff);

  dispatcher.dispatch(request, {
    onRequestStart: (started) => {
      controller = started;
      // Settled while it waited for a connection.
      if (is_settled) return started.abort(new Error('settled'));
      clearTimeout(timer);
      timer = setTimeout(() => stop(`No response within ${response_ms} ms.`), response_ms);
    },
    onResponseStart: (_, status, headers) => begin(answer, status, headers['retry-after'], now),
    onResponseData: (_, chunk) => {
      if (read(answer, chunk) === 'enough') stop('enough');
    },
    onResponseEnd: () => settle(NO_STATUS),
    onResponseError: (_, error) => settle(outcomeOf(error)),
  });
  if (signal?.aborted) callOff();
  return promise;
}

type Answer = {
  /** Null until a final status has come. */
  status: number | null;
  retry_after_ms: number | null;
  kept: Buffer[];
  read_bytes: number;
};

const BODY_CHARACTERS_MAX = 400;
/** A character takes at most four bytes. */
const BODY_KEPT_BYTES_MAX = 4 * BODY_CHARACTERS_MAX;
/** A body that ends before this leaves its connection for the next request; a longer one loses it. */
const BODY_READ_BYTES_MAX = 16 * 1024;

const NO_STATUS: SendOutcome = { kind: 'failed', reason: 'The response had no status.' };

/** Codes of requests that undici does not send. */
const UNSENDABLE = ['UND_ERR_INVALID_ARG', 'UND_ERR_NOT_SUPPORTED', 'UND_ERR_REQ_CONTENT_LENGTH_MISMATCH'];

/** Informational responses are passed over. */
function begin(
  answer: Answer,
  status: number,
  retry_after: string | string[] | undefined,
  now: () => number,
): void {
  if (status < 200) return;
  answer.status = status;
  answer.retry_after_ms = retryAfter([retry_after].flat()[0], now);
}

function read(answer: Answer, chunk: Buffer): 'more' | 'enough' {
  const missing_bytes = BODY_KEPT_BYTES_MAX - answer.read_bytes;
  // A copy: a slice would hold the whole chunk.
  if (missing_bytes > 0) answer.kept.push(Buffer.from(chunk.subarray(0, missing_bytes)));
  answer.read_bytes += chunk.length;
  return answer.read_bytes > BODY_READ_BYTES_MAX ? 'enough' : 'more';
}

function responded({ status, retry_after_ms, kept }: Answer): SendOutcome | undefined {
  if (status === null) return undefined;
  // `stream` leaves out a character that was cut in half.
  const text = kept.length === 0 ? '' : new TextDecoder().decode(Buffer.concat(kept), { stream: true });
  const body = text.slice(0, BODY_CHARACTERS_MAX).replace(/[\ud800-\udbff]$/, '');
  return { kind: 'responded', status, retry_after_ms, body };
}

/** Seconds or an HTTP date (RFC 9110 §10.2.3), as milliseconds ≥ 0; null where it is neither. */
function retryAfter(value: string | undefined, now: () => number): number | null {
  if (value === undefined) return null;
  const wait_ms = /^\d+$/.test(value) ? Number(value) * 1000 : dateOf(value) - now();
  return Number.isNaN(wait_ms) ? null : Math.min(Math.max(0, Math.round(wait_ms)), Number.MAX_SAFE_INTEGER);
}

/** `Date.parse` alone would read `-5` as a year. */
function dateOf(value: string): number {
  return /^(Mon|Tue|Wed|Thu|Fri|Sat|Sun)/.test(value) ? Date.parse(value) : NaN;
}

function outcomeOf(error: Error): SendOutcome {
  if (UNSENDABLE.includes(codeOf(error))) {
    return { kind: 'refused', reason: 'A header of the request cannot be sent over HTTP.' };
  }
  return stoppedBy(error) ?? { kind: 'failed', reason: describeFailure(error) };
}
