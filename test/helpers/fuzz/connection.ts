/**
 * An HTTP/1.1 client that sends any bytes at all and reads one answer at a time. Invariant: a connection is used again only after an
 * answer of known length to a request that was whole.
 */
import net from 'node:net';

export type Answer = { status: number; headers: Map<string, string>; body: Buffer; took_ms: number };

/** `closed`: the server hung up without an answer. `silent`: none came in time. */
export type Outcome = Answer | 'closed' | 'silent';

export type Sending = {
  bytes: Buffer;
  method: string;
  /** Whether one request and nothing else is in `bytes`; else the connection is thrown away afterwards. */
  whole: boolean;
  /** How long to wait for an answer. */
  patience_ms: number;
};

export type Connection = {
  send: (sending: Sending) => Promise<Outcome>;
  close: () => void;
};

export function connectTo(port: number): Connection {
  let socket: net.Socket | undefined;

  async function send(sending: Sending): Promise<Outcome> {
    const reused = socket !== undefined;
    socket ??= await open(port);
    const outcome = await exchange(socket, sending);
    if (!isReusable(outcome, sending)) close();
    // An idle connection may be closed by the server in the moment in which we send.
    return outcome === 'closed' && reused ? await send(sending) : outcome;
  }

  function close(): void {
    socket?.destroy();
    socket = undefined;
  }

  return { send, close };
}

function isReusable(outcome: Outcome, { whole }: Sending): boolean {
  if (!whole || typeof outcome === 'string') return false;
  return outcome.headers.get('connection') !== 'close' && !isStream(outcome.headers);
}

async function open(port: number): Promise<net.Socket> {
  return await new Promise((resolve, reject) => {
    const socket = net.connect({ port, host: '127.0.0.1', noDelay: true }, () => {
      socket.off('error', reject);
      socket.on('error', () => undefined);
      resolve(socket);
    });
    socket.once('error', reject);
  });
}

async function exchange(socket: net.Socket, sending: Sending): Promise<Outcome> {
  const { promise, resolve } = Promise.withResolvers<Outcome>();
  const began = performance.now();
  const chunks: Buffer[] = [];
  const finish = (ended: boolean): void => {
    const answer = parse(Buffer.concat(chunks), sending.method, ended);
    if (answer) resolve({ ...answer, took_ms: performance.now() - began });
    else if (ended) resolve('closed');
  };
  const onData = (chunk: Buffer): void => {
    chunks.push(chunk);
    finish(false);
  };
  const onClose = (): void => finish(true);
  const timer = setTimeout(() => resolve('silent'), sending.patience_ms);
  socket.on('data', onData).once('close', onClose);
  if (socket.destroyed) finish(true);
  else socket.write(sending.bytes);
  const outcome = await promise;
  clearTimeout(timer);
  socket.off('data', onData).off('close', onClose);
  return outcome;
}

type Parsed = Omit<Answer, 'took_ms'>;

/** The answer that begins `bytes`, once it is whole; of an event stream, once its headers are. */
function parse(bytes: Buffer, method: string, ended: boolean): Parsed | undefined {
  const end = bytes.indexOf('\r\n\r\n');
  if (end < 0) return undefined;
  const [status_line = '', ...lines] = bytes.subarray(0, end).toString('latin1').split('\r\n');
  const status = Number(/^HTTP\/1\.[01] (\d{3})/.exec(status_line)?.[1]);
  const rest = bytes.subarray(end + 4);
  if (status >= 100 && status < 200) return parse(rest, method, ended);
  const headers = new Map(lines.map((line) => headerOf(line)));
  const body = bodyOf(rest, { status, headers, method, ended });
  return body && { status, headers, body };
}

function headerOf(line: string): [string, string] {
  const colon = line.indexOf(':');
  return [line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim()];
}

type Frame = { status: number; headers: Map<string, string>; method: string; ended: boolean };

function bodyOf(rest: Buffer, { status, headers, method, ended }: Frame): Buffer | undefined {
  if (method === 'HEAD' || status === 204 || status === 304 || isStream(headers)) return Buffer.alloc(0);
  if (headers.get('transfer-encoding') === 'chunked') return dechunk(rest);
  const length = headers.get('content-length');
  if (length === undefined) return ended ? rest : undefined;
  return rest.length >= Number(length) ? rest.subarray(0, Number(length)) : undefined;
}

function isStream(headers: Map<string, string>): boolean {
  return headers.get('content-type') === 'text/event-stream';
}

function dechunk(bytes: Buffer): Buffer | undefined {
  const chunks: Buffer[] = [];
  for (let at = 0; ;) {
    const line_end = bytes.indexOf('\r\n', at);
    if (line_end < 0) return undefined;
    const size = Number.parseInt(bytes.subarray(at, line_end).toString('latin1'), 16);
    const from = line_end + 2;
    if (bytes.length < from + size + 2) return undefined;
    if (size === 0) return Buffer.concat(chunks);
    chunks.push(bytes.subarray(from, from + size));
    at = from + size + 2;
  }
}
