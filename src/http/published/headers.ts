/** Header fields of a visit that is passed on: as they came, with who the visitor is. */
import type { IncomingMessage } from 'node:http';
import { requestFields } from '../../net/hop.ts';

/** Ours to say; `expect` has been answered by then. */
const OURS = /^(?:forwarded|x-forwarded-.*|x-real-ip|expect)$/i;

/** @param proto the scheme that visitors use. @param hides a header that is not passed on. @returns names and values in turn, as Node takes them. */
export function requestHeaders(incoming: IncomingMessage, proto: string, hides?: string): string[] {
  const { headers, socket } = incoming;
  const kept = requestFields(incoming).filter(([name]) => !OURS.test(name) && name.toLowerCase() !== hides);
  const forwarded = [
    ['X-Forwarded-For', socket.remoteAddress ?? ''],
    ['X-Forwarded-Host', headers.host ?? ''],
    ['X-Forwarded-Proto', proto],
  ];
  return [...kept, ...forwarded].flat();
}
