/** How bytes go through a proxy: ends, pauses, breaks and silence. Invariant: the servers of `streams` listen on every address. */
import { once } from 'node:events';
import type net from 'node:net';
import { connect, dial, get, listen, send, serve, shorten, until, type Proxy } from './world.ts';

const MEBIBYTE = Buffer.alloc(1024 * 1024, 'x');
const POURED = 64;
const poured = { mebibytes: 0 };
const heard = { text: '' };

/** 7000 keeps its side open, 7001 answers at the end of what it is sent, 7002 ends first, 7003 pours, 7004 is silent, 7005 and up break their answers. */
export async function streams(): Promise<void> {
  await listen(7001, (socket) => {
    let text = '';
    socket.on('data', (chunk: Buffer) => (text += chunk.toString()));
    socket.on('end', () => socket.end(`got ${text}`));
  });
  await listen(7002, (socket) => {
    socket.end('bye');
    socket.on('data', (chunk: Buffer) => (heard.text += chunk.toString()));
    socket.on('end', () => (heard.text += '.'));
  });
  await listen(7003, (socket) => void pour(socket));
  await listen(7004, (socket) => void socket.resume().on('end', () => socket.end()));
  await listen(7000, (socket) => void socket.resume());
  for (const [index, text] of BROKEN.entries()) {
    await listen(7005 + index, (socket) => void socket.once('data', () => socket.end(text)));
  }
}

const BROKEN = [
  'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf',
  'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n',
  'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n',
  'SSH-2.0-OpenSSH\r\n\r\n',
  'HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n',
  `HTTP/1.1 200 OK\r\nX: ${'y'.repeat(100_000)}\r\n\r\n`,
  '',
  'HTTP/1.1 200 OK\r\nX: y\nContent-Length: 0\r\nX: \x01\r\n\r\n',
];

async function pour(socket: net.Socket): Promise<void> {
  for (poured.mebibytes = 0; poured.mebibytes < POURED; poured.mebibytes++) {
    if (!socket.write(MEBIBYTE)) await once(socket, 'drain');
  }
  socket.end();
}

export async function halfClosed(open: Proxy): Promise<Record<string, unknown>> {
  const first = await connect(open, 'public.test:7001');
  first.socket.end('all of it');
  await first.ended;
  const second = await connect(open, 'public.test:7002');
  await second.ended;
  second.socket.end('still here');
  await until(() => heard.text.endsWith('.'));
  return { client_ends: first.said().split('\r\n\r\n')[1], server_ends: heard.text };
}

export async function heldBack(open: Proxy): Promise<Record<string, unknown>> {
  const { socket } = await connect(open, 'public.test:7003');
  socket.pause();
  // Time for all of it to pass, were it not held: others ask and are answered meanwhile.
  for (let round = 0; round < 300; round += 1) await get(open, 'http://public.test/');
  const held_at = poured.mebibytes;
  let got = 0;
  socket.on('data', (chunk: Buffer) => (got += chunk.length));
  socket.resume();
  await once(socket, 'end');
  socket.destroy();
  return { held_at, poured: poured.mebibytes, passed_whole: got > (POURED - 1) * MEBIBYTE.length };
}

export async function cutAndBroken(open: Proxy): Promise<Record<string, unknown>> {
  const ask = (port: number) =>
    send(
      open,
      `GET http://public.test:${port}/ HTTP/1.1\r\nHost: public.test:${port}\r\nConnection: close\r\n\r\n`,
    );
  const cut = [await ask(7005), await ask(7006)];
  const broken: string[] = [];
  for (let index = 2; index < BROKEN.length; index++) broken.push(shorten(await ask(7005 + index)));
  const is_cut = (text: string): boolean => text.includes('half') && !text.endsWith('0\r\n\r\n');
  return { cut: cut.map(is_cut), broken };
}

export async function slow(): Promise<Record<string, unknown>> {
  const hasty = await serve({ mode: 'open' }, { bounds: { idle_ms: 1500, headers_ms: 1500 } });
  const half = await send(hasty, 'GET http://public.test/ HTTP/1.1\r\nHost: pub');
  const nothing = await send(hasty, '');
  const waits = await get(hasty, 'http://public.test:7004/');
  const tunnel = await connect(hasty, 'public.test:7004');
  await tunnel.ended;
  await hasty.close();
  const forgetful = await serve({ mode: 'open' }, { bounds: { half_open_idle_ms: 300, connections_max: 1 } });
  const left = await connect(forgetful, 'public.test:7000');
  left.socket.destroy();
  let after_left = '';
  while (!after_left.startsWith('200')) after_left = await get(forgetful, 'http://public.test/');
  await forgetful.close();
  return {
    slow_headers: shorten(half),
    slow_nothing: shorten(nothing),
    slow_answer: waits,
    idle: tunnel.answer,
    after_left,
  };
}

/** Everything that is open when the computer ends. */
export async function ended(): Promise<Record<string, unknown>> {
  const proxy = await serve();
  const tunnel = await connect(proxy, 'public.test:7004');
  const waiting = dial(proxy);
  waiting.socket.write('GET http://public.test:7004/ HTTP/1.1\r\nHost: public.test:7004\r\n\r\n');
  const looking_up = dial(proxy);
  looking_up.socket.write('CONNECT silent.test:443 HTTP/1.1\r\nHost: silent.test\r\n\r\n');
  const silent = dial(proxy);
  await once(silent.socket, 'connect');
  await proxy.close();
  await Promise.all([tunnel.ended, waiting.ended, looking_up.ended, silent.ended]);
  const again = dial(proxy);
  await again.ended;
  await proxy.close();
  return { ended: [waiting.said(), looking_up.said(), silent.said(), again.said()] };
}
