/**
 * A connection to a port on the computer's loopback: an exec whose input and output are the connection.
 * Invariant: nothing is connected from outside; what the server reaches is what a process of the computer reaches.
 */

import { Duplex, PassThrough } from 'node:stream';
import { ComputerLost, ConnectionRefused, Unsupported } from '../../resource/computer/driver.ts';
import type { ExecSpec, Execution, Exit, OutputChunk } from '../../resource/computer/driver.ts';
import { CONNECTED, REFUSED_CODE, connectCommand } from './relay.ts';

/** Longer than any timer: a connection has no time limit of its own. */
const NO_LIMIT_MS = Number.MAX_SAFE_INTEGER;
const NOT_FOUND_CODE = 127;
const PORT_MAX = 65_535;

/**
 * Its end is passed on as a half-closed connection; the other side's end ends it. Destroying it ends the exec.
 * @param directory where, seen from inside, the relay is.
 */
export async function openConnection(
  exec: (spec: ExecSpec) => Execution,
  directory: string,
  port: number,
): Promise<Duplex> {
  if (!Number.isInteger(port) || port < 1 || port > PORT_MAX) throw new RangeError(`${port} is not a port`);
  const input = new PassThrough();
  input.on('error', () => {});
  const abort = new AbortController();
  const { output, exit } = exec({
    script: `exec ${connectCommand(directory, port)}`,
    cwd: '/',
    stdin: input,
    timeout_ms: NO_LIMIT_MS,
    signal: abort.signal,
  });
  const over = (): void => void input.destroy();
  exit.then(over, over);
  const chunks = output[Symbol.asyncIterator]();
  const first = await chunks.next();
  if (first.done === true) throw refusal(await exit, port, '');
  const { stream, data } = first.value;
  const said = stream === 'stderr' ? Buffer.from(data).toString() : '';
  if (stream === 'stderr' && said !== CONNECTED) throw refusal(await drained(chunks, exit), port, said);
  const connection = duplex(chunks, input, abort);
  if (stream === 'stdout') connection.push(data);
  return connection;
}

function duplex(chunks: AsyncIterator<OutputChunk>, input: PassThrough, abort: AbortController): Duplex {
  const connection = new Duplex({
    allowHalfOpen: false,
    read() {
      void pull(this, chunks);
    },
    write(chunk: Buffer, _encoding, taken) {
      input.write(chunk, () => taken());
    },
    final(ended) {
      input.end(() => ended());
    },
    destroy(error, destroyed) {
      abort.abort();
      input.destroy();
      destroyed(error);
    },
  });
  const nothing = (): Duplex => connection;
  // What Node's HTTP agent asks of the sockets that it keeps; none of it has a meaning here.
  return Object.assign(connection, {
    ...{ setKeepAlive: nothing, setNoDelay: nothing, setTimeout: nothing, ref: nothing, unref: nothing },
  });
}

async function pull(connection: Duplex, chunks: AsyncIterator<OutputChunk>): Promise<void> {
  try {
    let next = await chunks.next();
    while (next.done !== true && next.value.stream === 'stderr') next = await chunks.next();
    connection.push(next.done === true ? null : next.value.data);
  } catch (error) {
    connection.destroy(error as Error);
  }
}

async function drained(chunks: AsyncIterator<OutputChunk>, exit: Promise<Exit>): Promise<Exit> {
  await chunks.return?.();
  return await exit;
}

function refusal({ outcome, exit_code }: Exit, port: number, said: string): Error {
  if (outcome === 'lost') return new ComputerLost('the computer ended before it was connected');
  if (exit_code === REFUSED_CODE) return new ConnectionRefused(port);
  if (exit_code === NOT_FOUND_CODE) return new Unsupported('connections to a computer need perl in it');
  return new Error(`the connection to port ${port} ended ${outcome} ${exit_code}: ${said.trim()}`);
}
