/**
 * Programs in computers under URLs of their own: `p-<id>.<domain>` and `<computer>-p<port>.<domain>` lead to one published port,
 * `d-<id>.<domain>` to that of the release that serves. Invariant: such a request never reaches the API, whatever it asks for; the name
 * alone decides.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Computers } from '../../engine/computers/computers.ts';
import type { Runtime } from '../../engine/runtime.ts';
import { createVisits } from '../../engine/computers/publish.ts';
import { ComputerLost, ConnectionRefused, Unsupported } from '../../resource/computer/driver.ts';
import { OverwinterError } from '../../resource/error.ts';
import { findPort, type PortName } from '../../store/computer/ports.ts';
import { exchange } from './exchange.ts';
import { bearsToken } from './headers.ts';
import { domainOf, withoutPort } from './host.ts';
import { say } from './say.ts';

export type PublishedPorts = {
  /** Whether the request is for a program in a computer, be the port published or not. */
  wants: (incoming: IncomingMessage) => boolean;
  /** Answers it; an upgrade comes with a response that its connection was given to. */
  visit: (incoming: IncomingMessage, outgoing: ServerResponse) => void;
};

export type PublishedOptions = {
  /** Asked at each request: the port of this server is known late. */
  url: () => string;
  /** Whether a visit starts a stopped computer. */
  auto_resume: boolean;
  /** Aborted when the server stops. */
  signal: AbortSignal;
  /** Visits of one computer at once. */
  visits_max?: number;
  first_byte_ms?: number;
};

/** For a server without any. */
export const NO_PORTS: PublishedPorts = {
  wants: () => false,
  visit: (_incoming, outgoing) => say(outgoing, 404, NO_SUCH_PORT),
};

const VISITS_MAX = 64;
const FIRST_BYTE_MS = 60_000;
const NO_SUCH_PORT = 'No port of a computer is published here.';
const NO_TOKEN = 'A token is needed here: Authorization: Bearer <token>, or X-OC-Preview-Token.';
/** Of a port by its own name, by its deployment's, and by its computer's. */
const LABEL = /^(?:p-[^.]*|d-[0-9a-f]{24}|cmp[_-][0-9a-f]{24}-p\d{1,5})$/;

/**
 * @param template a URL whose host begins with `*.`, as the setting has it.
 * @param id `cpp_…`
 */
export function portUrl(template: string, id: string): string {
  return template.replace('*', `p-${id.slice('cpp_'.length)}`).replace(/\/$/, '');
}

/** @param id `dep_…` */
export function deploymentUrl(template: string, id: string): string {
  return template.replace('*', `d-${id.slice('dep_'.length)}`).replace(/\/$/, '');
}

export function createPublishedPorts(
  runtime: Runtime,
  computers: Computers,
  options: PublishedOptions,
): PublishedPorts {
  const { visits_max = VISITS_MAX, first_byte_ms = FIRST_BYTE_MS, signal } = options;
  const visits = new Map<string, number>();
  const visits_of = createVisits(runtime, computers, options.auto_resume);

  async function visit(incoming: IncomingMessage, outgoing: ServerResponse): Promise<void> {
    const which = portOf(incoming, options.url());
    const port = which && (await findPort(runtime.database.db, which));
    if (!port) return say(outgoing, 404, NO_SUCH_PORT);
    const { computer_id, preview_digest: hides } = port;
    if (hides !== null && !bearsToken(incoming, hides)) return say(outgoing, 401, NO_TOKEN);
    const count = visits.get(computer_id) ?? 0;
    if (count >= visits_max) return say(outgoing, 503, 'Too many visitors at once; try again.');
    visits.set(computer_id, count + 1);
    try {
      const connection = await visits_of.connect(port);
      if (outgoing.destroyed || signal.aborted) return void connection.destroy();
      const proto = new URL(options.url().replace('*', 'p')).protocol.slice(0, -1);
      await exchange(connection, incoming, outgoing, { proto, first_byte_ms, signal, hides });
    } finally {
      const left = (visits.get(computer_id) ?? 0) - 1;
      if (left > 0) visits.set(computer_id, left);
      else visits.delete(computer_id);
    }
  }

  return {
    wants: (incoming) => labelOf(incoming, options.url()) !== undefined,
    visit: (incoming, outgoing) => {
      visit(incoming, outgoing).catch((error: unknown) => refuse(runtime, outgoing, error));
    },
  };
}

/** The first label of the host, where the host is one that a port could have. */
function labelOf({ headers }: IncomingMessage, ports_url: string): string | undefined {
  const domain = withoutPort(domainOf(ports_url));
  const host = withoutPort((headers.host ?? '').toLowerCase()).replace(/\.$/, '');
  if (!host.endsWith(`.${domain}`)) return undefined;
  const label = host.slice(0, -domain.length - 1);
  return LABEL.test(label) ? label : undefined;
}

function portOf(incoming: IncomingMessage, ports_url: string): PortName | undefined {
  const label = labelOf(incoming, ports_url) ?? '';
  const hex = /^p-([0-9a-f]{24})$/.exec(label)?.[1];
  if (hex !== undefined) return { id: `cpp_${hex}` };
  const deployment = /^d-([0-9a-f]{24})$/.exec(label)?.[1];
  if (deployment !== undefined) return { deployment_id: `dep_${deployment}` };
  const [, computer, port] = /^cmp[_-]([0-9a-f]{24})-p(\d{1,5})$/.exec(label) ?? [];
  return computer === undefined ? undefined : { computer_id: `cmp_${computer}`, port: Number(port) };
}

function refuse(runtime: Runtime, outgoing: ServerResponse, error: unknown): void {
  if (error instanceof ConnectionRefused)
    return say(outgoing, 502, 'Nothing listens on this port of the computer.');
  if (error instanceof Unsupported || error instanceof ComputerLost)
    return say(outgoing, 502, 'The computer cannot be reached.');
  if (error instanceof OverwinterError && error.code === 'conflict')
    return say(outgoing, 409, 'The computer does not run.');
  if (error instanceof OverwinterError) return say(outgoing, 503, 'The computer cannot be reached now.');
  runtime.logger.error({ err: error }, 'a visit of a published port failed');
  return say(outgoing, 500, 'The server failed.');
}
