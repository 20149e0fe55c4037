/**
 * Bytes between a computer and the socket, no faster than either takes them. Invariant: half a file is never taken for a whole one, on
 * either side.
 */
import type { ServerResponse } from 'node:http';
import { pipeline } from 'node:stream/promises';
import type { Context } from 'hono';
import type { Env } from '../api.ts';
import type { Caller } from '../authorize.ts';
import { corsHeaders } from '../cors.ts';
import type { Ground } from './app.ts';

/**
 * Begins the answer once the first bytes are there, so that a refusal is still one; what breaks off later cuts the connection.
 * @throws what `read` throws before its first byte.
 */
export async function download(
  context: Context<Env & { Variables: { caller: Caller } }>,
  { streams, runtime }: Pick<Ground, 'streams' | 'runtime'>,
  headers: Record<string, string>,
  read: (signal: AbortSignal) => Promise<AsyncIterable<Uint8Array>>,
): Promise<void> {
  const { outgoing } = context.env;
  const caller = context.get('caller');
  const leave = streams.enter(caller);
  const gone = new AbortController();
  outgoing.once('close', () => gone.abort());
  if (outgoing.destroyed) gone.abort();
  const unwatch = streams.revocations.watch(caller.id, () => outgoing.destroy());
  const done = (): void => {
    unwatch();
    leave();
  };
  try {
    const bytes = await read(gone.signal);
    // A file that grows or shrinks meanwhile would run over into the next answer, or borrow from it.
    outgoing.strictContentLength = true;
    outgoing.writeHead(200, {
      ...corsHeaders(context.req.header('origin')),
      ...{ 'x-request-id': context.var.request_id, ...headers },
    });
    void send(bytes, outgoing, (error) =>
      runtime.logger.debug({ err: error }, 'a download broke off'),
    ).finally(done);
  } catch (error) {
    done();
    throw error;
  }
}

/** Hands on the request's body. What is left of it when the work ends early is not read: the connection ends with the answer. */
export async function upload(
  context: Context<Env & { Variables: { caller: Caller } }>,
  { streams }: Pick<Ground, 'streams'>,
  work: (bytes: AsyncIterable<Uint8Array>, signal: AbortSignal) => Promise<void>,
): Promise<void> {
  const { incoming, outgoing } = context.env;
  const caller = context.get('caller');
  const leave = streams.enter(caller);
  const gone = new AbortController();
  const hungUp = (): void => gone.abort();
  outgoing.once('close', hungUp);
  if (outgoing.destroyed) hungUp();
  const unwatch = streams.revocations.watch(caller.id, () => outgoing.destroy());
  try {
    await work(incoming, gone.signal);
  } finally {
    unwatch();
    leave();
    outgoing.off('close', hungUp);
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
