/**
 * A computer's way out: a socket of the egress proxy in the directory of its awakening, which only its uid can reach.
 * Invariant: without it a computer has no way out at all; with it, no other than the proxy.
 */

import { chmod, open } from 'node:fs/promises';
import { join } from 'node:path';
import type { Egress } from '../../resource/computer/driver.ts';
import type { NetworkPolicy } from '../../resource/computer/spec.ts';
import { EGRESS_PORT, listenCommand } from './relay.ts';
import type { Identity } from '../bwrap/launch.ts';

const SOCKET = 'egress';
const PROXY = `http://127.0.0.1:${EGRESS_PORT}`;
const NO_PROXY = 'localhost,127.0.0.1,::1';

export type Outward = { close(): Promise<void> };

/** What programs look for; Node's own `fetch` does so when it is told. */
export const OUTWARD_ENVIRONMENT = {
  http_proxy: PROXY,
  https_proxy: PROXY,
  HTTP_PROXY: PROXY,
  HTTPS_PROXY: PROXY,
  no_proxy: NO_PROXY,
  NO_PROXY,
  NODE_USE_ENV_PROXY: '1',
};

/** The directory is named by a descriptor, because the path of a socket is bounded to 107 bytes. */
export async function serveOutward(
  egress: Egress,
  directory: string,
  { policy, computer, identity }: { policy: NetworkPolicy; computer: string; identity: Identity },
): Promise<Outward> {
  const handle = await open(directory);
  try {
    const path = `/proc/self/fd/${handle.fd}/${SOCKET}`;
    const served = await egress.serve(path, policy, computer);
    await chmod(path, identity.kind === 'root' ? 0o660 : 0o600);
    return {
      async close() {
        try {
          await served.close();
        } finally {
          await handle.close();
        }
      },
    };
  } catch (error) {
    await handle.close();
    throw error;
  }
}

/** What the loop does before the first exec, so that none comes before the way is open. */
export function outwardCommand(directory_inside: string): string {
  return listenCommand(directory_inside, join(directory_inside, SOCKET));
}
