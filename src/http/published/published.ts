/**
 * Programs in computers under URLs of their own: `p-<id>.<domain>` leads to one published port. Invariant: such a request never reaches
 * the API, whatever it asks for; the name alone decides.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Duplex } from 'node:stream';
import type { Computers } from '../../engine/computers/computers.ts';
import type { Runtime } from '../../engine/runtime.ts';
import { ComputerLost, ConnectionRefused, Unsupported } from '../../resource/computer/driver.ts';
import { expectLegal } from '../../resource/computer/life.ts';
import { OverwinterError } from '../../resource/error.ts';
import { findPort, type PublishedPortRow } from '../../store/computer/ports.ts';
import { exchange } from './exchange.ts';
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
const LABEL = /^p-[^.]*$/;

/**
 * @param template a URL whose host begins with `*.`, as the setting has it.
 * @param id `cpp_…`
 */
export function portUrl(template: string, id: string): string {
  return template.replace('*', `p-${id.slice('cpp_'.length)}`).replace(/\/$/, '');
}

export function createPublishedPorts(
  runtime: Runtime,
  computers: Computers,
  options: PublishedOptions,
): PublishedPorts {
  const { visits_max = VISITS_MAX, first_byte_ms = FIRST_BYTE_MS, signal } = options;
  const visits = new Map<string, number>();

  async function visit(incoming: IncomingMessage, outgoing: ServerResponse): Promise<void> {
    const port = await findPort(runtime.database.db, idOf(incoming, domainOf(options.url())) ?? '');
    if (!port) return say(outgoing, 404, NO_SUCH_PORT);
    const { computer_id } = port;
    const count = visits.get(computer_id) ?? 0;
    if (count >= visits_max) return say(outgoing, 503, 'Too many visitors at once; try again.');
    visits.set(computer_id, count + 1);
    try {
      const connection = await connect(port);
      if (outgoing.destroyed || signal.aborted) return void connection.destroy();
      const proto = new URL(options.url().replace('*', 'p')).protocol.slice(0, -1);
      await exchange(connection, incoming, outgoing, { proto, first_byte_ms, signal });
    } finally {
      const left = (visits.get(computer_id) ?? 0) - 1;
      if (left > 0) visits.set(computer_id, left);
      else visits.delete(computer_id);
    }
  }

  async function connect({ computer_id, port }: PublishedPortRow): Promise<Duplex> {
    const { status } = await runtime.computer_log.state(computer_id, 'held');
    if (status !== 'running' && options.auto_resume) {
      expectLegal(status, 'start');
      await computers.start(computer_id);
    }
    return await (await computers.use(computer_id)).connect(port);
  }

  return {
    wants: (incoming) => labelOf(incoming, domainOf(options.url())) !== undefined,
    visit: (incoming, outgoing) => {
      visit(incoming, outgoing).catch((error: unknown) => refuse(runtime, outgoing, error));
    },
  };
}

/** `apps.example.com` of `https://*.apps.example.com:8443`. */
function domainOf(template: string): string {
  return new URL(template.replace('*.', '')).hostname.toLowerCase();
}

/** The first label of the host, where the host is one that a port could have. */
function labelOf({ headers }: IncomingMessage, domain: string): string | undefined {
  const host = (headers.host ?? '').toLowerCase().replace(/:\d*$/, '').replace(/\.$/, '');
  if (!host.endsWith(`.${domain}`)) return undefined;
  const label = host.slice(0, -domain.length - 1);
  return LABEL.test(label) ? label : undefined;
}

function idOf(incoming: IncomingMessage, domain: string): string | undefined {
  const hex = /^p-([0-9a-f]{24})$/.exec(labelOf(incoming, domain) ?? '')?.[1];
  return hex === undefined ? undefined : `cpp_${hex}`;
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
