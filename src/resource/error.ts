/**
 * The one error class. A code is a fact about the request or the world; each HTTP mount maps codes to its own
 * statuses and envelope (http/error.ts). Anything that is not an `OverwinterError` is a bug and stays in our logs.
 */

export type ErrorCode =
  | 'invalid'
  | 'unauthorized'
  | 'forbidden'
  | 'not_found'
  | 'conflict'
  | 'idempotency_conflict'
  | 'too_large'
  | 'no_credential'
  | 'managed_unavailable'
  | 'runtime_unavailable'
  | 'sources_not_supported'
  | 'not_supported'
  | 'contended'
  | 'fenced'
  | 'rate_limited'
  | 'unavailable';

export class OverwinterError extends Error {
  readonly code: ErrorCode;
  /** The field of the request that is wrong, as a dotted path. */
  readonly param: string | undefined;

  constructor(code: ErrorCode, message: string, param?: string) {
    super(message);
    this.name = 'OverwinterError';
    this.code = code;
    this.param = param;
  }
}
