/**
 * Terminals over WebSockets (contract §6): straight to a computer with a key, or to a shell with a connect token. What the shell shows
 * goes out in binary frames: bytes as they are, so that a character cut in two is whole again wherever they are put together, and
 * nothing that a program prints can be taken for a message of ours.
 */
import type { HttpBindings } from '@hono/node-server';
import { RESPONSE_ALREADY_SENT } from '@hono/node-server/utils/response';
import type { WebSocket } from 'ws';
import type { Holder } from '../../engine/computers/connect-tokens.ts';
import { getComputer } from '../../engine/computers/owner.ts';
import type { Shell } from '../../engine/computers/shell.ts';
import type { Runtime } from '../../engine/runtime.ts';
import { OverwinterError } from '../../resource/error.ts';
import { findUsable } from '../../store/api-keys.ts';
import type { Api } from '../api.ts';
import { credentialOf, type Admit } from '../auth.ts';
import type { StreamLimit } from '../rate-limit.ts';
import type { Revocations } from '../revocations.ts';
import { framesOf, hangUpStopping, refuseClient, serveClient } from '../socket/client.ts';
import { parseMessage, tokenOf, type Frame } from '../socket/message.ts';
import { noTerminal, openShell, type ShellGround } from '../socket/shell.ts';
import { acceptSocket, expectUpgrade } from '../socket/upgrade.ts';

/** Connections that have not said yet who they are. */
const STRANGERS_MAX = 256;
const INTRODUCTION_MS = 10_000;

type TerminalOptions = ShellGround & {
  revocations: Revocations;
  /** Each connection has a place among the caller's streams. */
  enter: StreamLimit;
  /** Aborted when the server stops. */
  signal: AbortSignal;
};

/** What a connection straight to a computer asks for. */
type Asked = { computer_id: string; resume: boolean };
type Opened = { holder: Holder; shell: Shell };

export function mountTerminalSockets(
  api: Api,
  runtime: Runtime,
  admit: Admit,
  options: TerminalOptions,
): void {
  const introduce = createIntroduction(options.signal);
  const { revocations } = options;
  const warn: Runtime['logger']['warn'] = (fields, message) => runtime.logger.warn(fields, message);

  async function open(bindings: HttpBindings, key: string, asked: Asked): Promise<Opened> {
    const holder = await admit.key(addressOf(bindings), key, 'write');
    const computer = await getComputer(runtime, holder.org, asked.computer_id);
    return { holder, shell: await openShell(options, holder.org, computer, asked.resume) };
  }

  /** Who presents a key in the headers is refused in plain HTTP. */
  async function connectByHeader(bindings: HttpBindings, key: string, asked: Asked): Promise<void> {
    const { holder, shell } = await open(bindings, key, asked);
    try {
      const [socket, leave] = accept(bindings, holder);
      const client = {
        ...{ socket, frames: framesOf(socket), shell, holder, key, ends_shell: true },
        parse: parseMessage,
      };
      void serveClient({ ...client, revocations, warn }).finally(leave);
    } catch (error) {
      shell.end('closed');
      throw error;
    }
  }

  /** A place among the streams of the caller first: without one there is no WebSocket. */
  function accept(bindings: HttpBindings, holder: Holder): [socket: WebSocket, leave: () => void] {
    const leave = options.enter(holder);
    try {
      return [acceptSocket(bindings), leave];
    } catch (error) {
      leave();
      throw error;
    }
  }

  /** The first message must be the key; from here on what is wrong is said over the WebSocket. */
  async function connectByMessage(bindings: HttpBindings, asked: Asked): Promise<void> {
    const { socket, frames, key } = introduce(bindings);
    let leave = (): void => undefined;
    try {
      const { holder, shell } = await open(bindings, await key, asked);
      leave = enterOrEnd(options, holder, shell);
      const client = { socket, frames, shell, holder, key: null, ends_shell: true, parse: parseMessage };
      await serveClient({ ...client, revocations, warn });
    } catch (error) {
      refuseClient(socket, error, warn);
    } finally {
      leave();
    }
  }

  async function redeem(bindings: HttpBindings, shell: Shell | undefined, token: string): Promise<Holder> {
    const holder = await admit.attempt(addressOf(bindings), async () => {
      const found = shell?.tokens.redeem(token);
      return found && (await findUsable(runtime.database, [found.id])).has(found.id) ? found : undefined;
    });
    if (holder) return holder;
    throw shell
      ? new OverwinterError(
          'unauthorized',
          'the connect token is not valid, or not any more; ask for a new one',
        )
      : noTerminal();
  }

  // For any method: the document, which has a place for every other route, has none for WebSockets.
  api.all('/computers/:computer_id/terminal', async (context) => {
    expectUpgrade(context.env);
    const resume = context.req.query('resume') === 'true';
    const asked = { computer_id: context.req.param('computer_id'), resume };
    const key = credentialOf(context);
    if (key === undefined) await connectByMessage(context.env, asked);
    else await connectByHeader(context.env, key, asked);
    return RESPONSE_ALREADY_SENT;
  });

  api.all('/terminals/:terminal_id/connect', async (context) => {
    expectUpgrade(context.env);
    const shell = options.terminals.find(context.req.param('terminal_id'));
    const holder = await redeem(context.env, shell, context.req.query('token') ?? '');
    const [socket, leave] = accept(context.env, holder);
    const client = {
      socket,
      frames: framesOf(socket),
      shell: shell!,
      holder,
      key: null,
      ends_shell: false,
      parse: parseMessage,
    };
    void serveClient({ ...client, revocations, warn }).finally(leave);
    return RESPONSE_ALREADY_SENT;
  });
}

type Introduced = { socket: WebSocket; frames: AsyncIterator<Frame>; key: Promise<string> };

/** Opens WebSockets to strangers, a bounded number of them, who must say who they are within a bounded time. */
function createIntroduction(signal: AbortSignal): (bindings: HttpBindings) => Introduced {
  let strangers = 0;
  return (bindings) => {
    if (strangers >= STRANGERS_MAX)
      throw new OverwinterError('rate_limited', 'too many connections have not said who they are');
    const socket = acceptSocket(bindings);
    const frames = framesOf(socket);
    strangers += 1;
    const key = readKey(socket, frames, signal).finally(() => (strangers -= 1));
    return { socket, frames, key };
  };
}

/** @throws OverwinterError `unauthorized` */
async function readKey(
  socket: WebSocket,
  frames: AsyncIterator<Frame>,
  signal: AbortSignal,
): Promise<string> {
  const stop = (): void => hangUpStopping(socket);
  const late = Promise.withResolvers<undefined>();
  const timer = setTimeout(() => late.resolve(undefined), INTRODUCTION_MS);
  signal.addEventListener('abort', stop, { once: true });
  try {
    const first = await Promise.race([frames.next(), late.promise]);
    const token = first && !first.done ? tokenOf(first.value) : undefined;
    if (token !== undefined) return token;
    throw new OverwinterError(
      'unauthorized',
      'the first message must be {"token":"<API key>"}, within 10 seconds',
    );
  } finally {
    clearTimeout(timer);
    signal.removeEventListener('abort', stop);
  }
}

function enterOrEnd({ enter }: TerminalOptions, holder: Holder, shell: Shell): () => void {
  try {
    return enter(holder);
  } catch (error) {
    shell.end('closed');
    throw error;
  }
}

function addressOf({ incoming }: HttpBindings): string {
  return incoming.socket.remoteAddress ?? '';
}
