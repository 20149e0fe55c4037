/** What a visitor is told where no program answers: a line of plain text. */
import type { ServerResponse } from 'node:http';

/** Nothing is written into an answer that has begun: it is cut off instead. */
export function say(outgoing: ServerResponse, status: number, sentence: string): void {
  if (outgoing.headersSent) return void outgoing.destroy();
  const body = `${sentence}\n`;
  outgoing.writeHead(status, {
    'content-type': 'text/plain; charset=utf-8',
    'content-length': Buffer.byteLength(body),
    'cache-control': 'no-store',
    ...(status === 503 && { 'retry-after': '1' }),
    // The visitor may still be sending what nobody reads.
    connection: 'close',
  });
  outgoing.end(body);
}
