/**
 * Connections of undici to checked addresses. Invariant: a name is resolved once for a connection, and the socket goes to an address of
 * that answer; what the name resolves to a moment later does not matter.
 */
import type { Socket } from 'node:net';
import { buildConnector } from 'undici';
import type { Resolution, Resolve } from './resolve.ts';

/** What a connection that was not made means for the request; carried by its error. */
export type Stopped = { kind: 'refused' | 'failed' | 'busy'; reason: string };

type Dial = { resolve: Resolve; connectors: buildConnector.connector[]; is_open: () => boolean };

/** @param connect_ms for resolving, TCP and TLS together, whatever number of addresses is tried. */
export function createConnect(resolve: Resolve, connect_ms: number): buildConnector.connector {
  const connectors = Array.from({ length: ADDRESSES_TRIED_MAX }, (_, index) =>
    buildConnector({ ...CONNECTOR, timeout: Math.ceil(connect_ms / (index + 1)) }),
  );
  return (options, callback) => {
    let is_open = true;
    const settle = (result: Socket | Error): void => {
      if (!is_open) return discard(result);
      is_open = false;
      clearTimeout(timer);
      if (result instanceof Error) callback(result, null);
      else callback(null, result);
    };
    const late = stopped({ kind: 'failed', reason: `No connection within ${connect_ms} ms.` });
    const timer = setTimeout(() => settle(late), connect_ms);
    void dial(options, { resolve, connectors, is_open: () => is_open }).then(settle);
  };
}

/** What the connector meant by `error`; undefined where the error is another's. */
export function stoppedBy(error: Error): Stopped | undefined {
  return (error as { stopped?: Stopped }).stopped;
}

/** Of an answer, so many are tried, each with an equal share of the time. All are checked. */
const ADDRESSES_TRIED_MAX = 4;

/** No TLS session is kept: every handshake shows its certificate, as Node does not compare the name again on a resumed one. */
const CONNECTOR = { maxCachedSessions: 0, allowH2: false, rejectUnauthorized: true };

/** Never rejects. */
async function dial(
  options: buildConnector.Options,
  { resolve, connectors, is_open }: Dial,
): Promise<Socket | Error> {
  const resolution = await resolve(options.protocol, options.hostname);
  if (resolution.kind !== 'addresses') return stopped(stopOf(resolution));
  const tried = resolution.addresses.slice(0, ADDRESSES_TRIED_MAX);
  const connector = connectors[tried.length - 1]!;
  let last: Socket | Error = stopped({ kind: 'failed', reason: 'No connection was made.' });
  for (const address of tried) {
    if (!is_open()) return last;
    last = await connectTo(address, options, connector);
    if (!(last instanceof Error)) return last;
  }
  return last;
}

/** The name stays what is asked for in the handshake and what the certificate must name; only the way there is fixed. */
function connectTo(
  address: string,
  options: buildConnector.Options,
  connector: buildConnector.connector,
): Promise<Socket | Error> {
  const secure = options.protocol === 'https:' && address !== options.hostname;
  const named = secure ? { servername: options.hostname.replace(/\.$/, '') } : {};
  return new Promise((resolve) => {
    connector({ ...options, ...named, hostname: address }, (error, socket) => resolve(error ?? socket));
  });
}

/** A name that does not exist may come to exist before the next attempt. */
function stopOf({ kind, reason }: Exclude<Resolution, { kind: 'addresses' }>): Stopped {
  return { kind: kind === 'absent' ? 'failed' : kind, reason };
}

function stopped({ kind, reason }: Stopped): Error {
  return Object.assign(new Error(reason), { stopped: { kind, reason } });
}

function discard(result: Socket | Error): void {
  if (!(result instanceof Error)) result.destroy();
}
