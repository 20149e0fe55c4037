/** Header fields of a visit that is passed on: as they came, with who the visitor is. */
import type { IncomingMessage } from 'node:http';
import { pairsOf, requestFields } from '../../net/hop.ts';
import { digest, sameDigest } from '../../secret/key.ts';

/** Ours to say; `expect` has been answered by then. */
const OURS = /^(?:forwarded|x-forwarded-.*|x-real-ip|expect)$/i;

/** @param proto the scheme that visitors use. @param hides of a token that was for us: no field that bears it is passed on. @returns names and values in turn, as Node takes them. */
export function requestHeaders(
  incoming: IncomingMessage,
  proto: string,
  hides: Uint8Array | null = null,
): string[] {
  const { headers, socket } = incoming;
  const kept = requestFields(incoming).filter(
    ([name, value]) => !OURS.test(name) && !(hides && bears(value, hides)),
  );
  const forwarded = [
    ['X-Forwarded-For', socket.remoteAddress ?? ''],
    ['X-Forwarded-Host', headers.host ?? ''],
    ['X-Forwarded-Proto', proto],
  ];
  return [...kept, ...forwarded].flat();
}

/** Where a visitor may present the token of a computer's ports; often enough it is in both. */
const PRESENTED = /^(?:authorization|x-oc-preview-token)$/i;

/** Whether the visit bears the token of the digest. */
export function bearsToken({ rawHeaders }: IncomingMessage, wanted: Uint8Array): boolean {
  return pairsOf(rawHeaders).some(([name, value]) => PRESENTED.test(name) && bears(value, wanted));
}

/** As it is, or as `Bearer <token>`. */
function bears(value: string, wanted: Uint8Array): boolean {
  const token = /^Bearer +(\S+)$/i.exec(value)?.[1] ?? value;
  return sameDigest(digest(token), wanted);
}
