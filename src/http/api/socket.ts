/** WebSockets of sandboxes. Their clients can set no header, so the key comes in the URL: `?api_key=`. */
import type { Context } from 'hono';
import type { Env } from '../api.ts';
import { credentialOf } from '../auth.ts';
import { framesOf, serveClient, type Client } from '../socket/client.ts';
import { acceptSocket, expectUpgrade } from '../socket/upgrade.ts';
import { OverwinterError } from '../../resource/error.ts';
import type { Ground } from './app.ts';

/**
 * Opens the WebSocket to what `find` finds for the caller's org; whatever refuses it answers in plain HTTP.
 * @throws OverwinterError
 */
export async function serveSocket(
  context: Context<Env>,
  { admit, runtime, streams }: Ground,
  parse: Client['parse'],
  find: (org: string) => Promise<Client['shell']>,
): Promise<void> {
  expectUpgrade(context.env);
  const key = credentialOf(context) ?? context.req.query('api_key') ?? context.req.query('token');
  if (key === undefined)
    throw new OverwinterError('unauthorized', 'a valid API key is needed: ?api_key=<key>');
  const address = context.env.incoming.socket.remoteAddress ?? '';
  const holder = await admit.key(address, key, 'write');
  const shell = await find(holder.org);
  const leave = streams.enter(holder);
  try {
    const socket = acceptSocket(context.env);
    void serveClient({
      ...{ socket, frames: framesOf(socket), shell, parse, holder, key: null, ends_shell: false },
      ...{
        revocations: streams.revocations,
        warn: (fields, message) => runtime.logger.warn(fields, message),
      },
    }).finally(leave);
  } catch (error) {
    leave();
    throw error;
  }
}
