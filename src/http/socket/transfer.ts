/**
 * Bytes between a computer and the socket, no faster than either takes them. Invariant: half a file is never taken for a whole one, on
 * either side.
 */
import type { ServerResponse } from 'node:http';
import { pipeline } from 'node:stream/promises';
import type { HttpBindings } from '@hono/node-server';
import type { Logger } from '../../engine/runtime.ts';
import type { Caller } from '../authorize.ts';
import { corsHeaders } from '../cors.ts';
import { attend, type Streams } from './attend.ts';

/** What the routes stand on that transfer bytes. */
export type TransferGround = { runtime: { logger: Logger }; streams: Streams };

/** What a transfer needs of its request, whatever else is known of that. */
type Requested = {
  env: HttpBindings;
  req: { header(name: string): string | undefined };
  var: { request_id: string };
  header(name: string, value: string): void;
};

/** Whose stream it is. */
type Holder = Pick<Caller, 'id' | 'org'>;

/**
 * Begins the answer once the first bytes are there, so that a refusal is still one; what breaks off later cuts the connection.
 * @throws what `read` throws before its first byte.
 */
export async function download(
  context: Requested,
  { streams, runtime }: TransferGround,
  holder: Holder,
  headers: Record<string, string>,
  read: (signal: AbortSignal) => Promise<AsyncIterable<Uint8Array>>,
): Promise<void> {
  const { outgoing } = context.env;
  const { signal, leave } = attend(context.env, streams, holder);
  try {
    const bytes = await read(signal);
    // A file that grows or shrinks meanwhile would run over into the next answer, or borrow from it.
    outgoing.strictContentLength = true;
    outgoing.writeHead(200, {
      ...corsHeaders(context.req.header('origin')),
      ...{ 'x-request-id': context.var.request_id, ...headers },
    });
    void send(bytes, outgoing, (error) =>
      runtime.logger.debug({ err: error }, 'a download broke off'),
    ).finally(leave);
  } catch (error) {
    leave();
    throw error;
  }
}

/** Hands on the request's body. What is left of it when the work ends early is not read: the connection ends with the answer. */
export async function upload(
  context: Requested,
  { streams }: Pick<TransferGround, 'streams'>,
  holder: Holder,
  work: (bytes: AsyncIterable<Uint8Array>, signal: AbortSignal) => Promise<void>,
): Promise<void> {
  const { incoming } = context.env;
  const { signal, leave } = attend(context.env, streams, holder);
  try {
    await work(incoming, signal);
  } finally {
    leave();
    if (!incoming.readableEnded) context.header('connection', 'close');
  }
}

/** Never rejects. A pipeline that fails destroys the socket, which the reader sees as a broken transfer. */
async function send(
  bytes: AsyncIterable<Uint8Array>,
  outgoing: ServerResponse,
  failed: (error: unknown) => void,
): Promise<void> {
  await pipeline(bytes, outgoing).catch(failed);
}
