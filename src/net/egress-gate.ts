/**
 * What a computer may reach: by name, by port, by address. Invariant: a name that the policy leaves out is not even asked for, and no
 * policy leads to an address that is not public or is this machine's own, unless the operator opened it.
 */
import { isIP, type Socket } from 'node:net';
import type { NetworkPolicy } from '../resource/computer/spec.ts';
import type { Networks } from './address.ts';
import { createConnect, stoppedBy } from './connect.ts';
import { describeFailure } from './failure.ts';
import { createResolve, type Resolve } from './resolve.ts';

/** One line for the client. */
export type Refusal = { status: 400 | 403 | 502 | 503 | 504; reason: string };

/** `hostname` is as WHATWG's URL writes it, without brackets. */
export type Target = { hostname: string; port: number };

/** A connection, made to a checked address. Never rejects. */
export type Gate = (target: Target) => Promise<Socket | Refusal>;

type Reaching = Exclude<NetworkPolicy, { mode: 'off' }>;

/** Each has a resolver of its own: lookups of one computer do not keep another's waiting. */
export function createGate(policy: Reaching, allowed: Networks, connect_ms: number): Gate {
  const connect = createConnect(outward(createResolve(allowed)), connect_ms);
  const passes = policy.mode === 'open' ? () => true : hostMatcher(policy.hosts);
  const forbid = (reason: string): Refusal => ({
    status: 403,
    reason: `The computer's network policy "${policy.mode}" forbids it: ${reason}`,
  });
  return async ({ hostname, port }) => {
    if (port === SMTP_PORT) return forbid('port 25 is closed.');
    if (!passes(hostname)) return forbid(`${hostname} is not among its hosts.`);
    const { promise, resolve } = Promise.withResolvers<Socket | Refusal>();
    connect({ protocol: 'http:', hostname, port: String(port) }, (error, socket) => {
      if (error === null) return resolve(socket);
      const stopped = stoppedBy(error);
      if (stopped?.kind === 'refused') return resolve(forbid(stopped.reason));
      resolve({ status: 502, reason: stopped?.reason ?? describeFailure(error) });
    });
    return promise;
  };
}

/** Whether a host is of the list: exactly, or below a `*.domain`. Case, a dot at the end and the spelling of IDN do not matter. */
export function hostMatcher(hosts: readonly string[]): (hostname: string) => boolean {
  const exact = new Set(hosts.filter((host) => !host.startsWith('*.')).map(canonical));
  const parents = hosts.filter((host) => host.startsWith('*.')).map((host) => `.${bare(host.slice(2))}`);
  return (hostname) => {
    const name = bare(hostname);
    if (exact.has(name)) return true;
    return isIP(name) === 0 && parents.some((parent) => name.length > parent.length && name.endsWith(parent));
  };
}

/** Mail from a machine of the operator's would be taken for the operator's. */
const SMTP_PORT = 25;

/** An entry as a target would be written that leads there. */
function canonical(host: string): string {
  return bare(URL.parse(`http://${host}/`)?.hostname ?? host);
}

function bare(host: string): string {
  return host.toLowerCase().replace(/\.$/, '');
}

/** Asked as for https, which may go to any public address; what is inside the connection is the computer's affair. */
function outward(resolve: Resolve): Resolve {
  return (_, hostname) => resolve('https:', hostname);
}
