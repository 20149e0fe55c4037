/**
 * Errors of DNS, sockets, TLS and HTTP in words. Invariant: a text holds a code and a sentence of ours, never the message of the error,
 * which may hold what was sent.
 */

/** ≤ 400 characters. */
export function describeFailure(error: Error): string {
  const code = codeOf(error);
  const known = SENTENCES.find(([pattern]) => pattern.test(code))?.[1] ?? 'The request failed';
  return `${known} (${code.slice(0, CODE_CHARACTERS_MAX)}).`;
}

/** Why a name has no address, from an error of DNS; ≤ 400 characters. */
export function describeLookup(error: Error): string {
  const code = codeOf(error);
  const known = ABSENT.test(code) ? 'The name does not resolve' : 'The name could not be resolved';
  return `${known} (${code.slice(0, CODE_CHARACTERS_MAX)}).`;
}

/** The error's code; its name where it has none. */
export function codeOf(error: Error): string {
  const { code } = error as NodeJS.ErrnoException;
  return typeof code === 'string' ? code : error.name;
}

const CODE_CHARACTERS_MAX = 80;

const ABSENT = /^(ENOTFOUND|ENODATA|EBADNAME)$/;

const SENTENCES: readonly (readonly [code: RegExp, sentence: string])[] = [
  [/^ECONNREFUSED$/, 'The connection was refused'],
  [/^(ENETUNREACH|EHOSTUNREACH|EADDRNOTAVAIL|ENETDOWN|EHOSTDOWN)$/, 'The address cannot be reached'],
  [/^(ETIMEDOUT|UND_ERR_CONNECT_TIMEOUT)$/, 'The connection took too long'],
  [/^(ECONNRESET|EPIPE|UND_ERR_SOCKET)$/, 'The connection was closed before the response was whole'],
  [/^UND_ERR_(DESTROYED|CLOSED)$/, 'The server is stopping'],
  [/^UND_ERR_HEADERS_OVERFLOW$/, 'The response has too many headers'],
  [/^(HPE_|HTTPParserError)/, 'The response is not HTTP'],
  [/CERT|SELF_SIGNED|UNABLE_TO_|HOSTNAME_MISMATCH/, 'The certificate cannot be trusted'],
  [/SSL|TLS|EPROTO/, 'TLS could not be agreed'],
];
