/** A receiver of webhooks on loopback: keeps what arrives, and answers as the test says. */
import { once } from 'node:events';
import http from 'node:http';
import type { AddressInfo } from 'node:net';

export type Received = { path: string; headers: Record<string, string>; body: string };

/** What to answer: a status, or more, or nothing at all for as long as the promise lasts. */
type Reply = { status: number; headers?: Record<string, string>; body?: string };
type Answer = (received: Received, count: number) => Reply | number | Promise<Reply | number>;

export type Receiver = {
  url: string;
  received: Received[];
  /** Replaces the answer from now on. */
  answer: (answer: Answer) => void;
  close: () => Promise<void>;
};

export async function startReceiver(first: Answer = () => 204): Promise<Receiver> {
  let answer = first;
  const received: Received[] = [];
  const server = http.createServer((request, response) => {
    void (async () => {
      let body = '';
      for await (const chunk of request.setEncoding('utf8')) body += String(chunk);
      const one = { path: request.url ?? '', headers: request.headers as Record<string, string>, body };
      received.push(one);
      const reply = await answer(one, received.length);
      const { status, headers = {}, body: text = '' } = typeof reply === 'number' ? { status: reply } : reply;
      response.writeHead(status, headers).end(text);
    })().catch(() => response.destroy());
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    received,
    answer: (next) => void (answer = next),
    close: async () => {
      server.closeAllConnections();
      server.close();
      await once(server, 'close');
    },
  };
}
