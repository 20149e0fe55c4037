/** What a webhook's URL may look like, before anything is resolved. Invariant: no text of a refusal holds a path or a query. */

export type Target = { url: URL } | { refusal: string };

/** The URL as WHATWG reads it, which turns every notation of an IPv4 address into the dotted one; or why it may not be sent to. */
export function parseTarget(text: string): Target {
  if (text.length > URL_CHARACTERS_MAX) return TOO_LONG;
  if (UNSEEN.test(text)) {
    return { refusal: 'The URL holds a blank, a backslash or a control character.' };
  }
  const url = URL.parse(text);
  if (url === null) return { refusal: 'This is not a URL.' };
  if (url.href.length > URL_CHARACTERS_MAX) return TOO_LONG;
  if (!PROTOCOLS.includes(url.protocol)) return { refusal: 'The URL must begin with https://.' };
  if (url.username !== '' || url.password !== '') {
    return { refusal: 'The URL must not hold a user name or password.' };
  }
  if (url.hostname.replace(/\.$/, '').length > NAME_CHARACTERS_MAX) {
    return { refusal: `The host's name is longer than ${NAME_CHARACTERS_MAX} characters.` };
  }
  return { url };
}

/** Of the URL as it is written, and as it is stored and sent, where one character may have become twelve. */
const URL_CHARACTERS_MAX = 2048;
const TOO_LONG: Target = { refusal: `The URL is longer than ${URL_CHARACTERS_MAX} characters.` };

/** Of DNS (RFC 1035 §2.3.4), without the dot at the end. */
const NAME_CHARACTERS_MAX = 253;

/** `http:` is settled once the addresses are known. */
const PROTOCOLS = ['https:', 'http:'];

/** The parser drops or rewrites these, so that what a reader sees is not what is sent to. */
// oxlint-disable-next-line no-control-regex
const UNSEEN = /[\u0000-\u0020\u007f-\u009f\\\s]/;
