/** The two grounds of the store's tests: each call opens a database of its own on one of them. */
import fs from 'node:fs';
import { once } from 'node:events';
import net, { type AddressInfo } from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { randomBytes } from 'node:crypto';
import pg from 'pg';
import { inject } from 'vitest';
import { openDatabase, type Database, type Ground } from '../../src/store/ground/database.ts';

export const GROUNDS = ['embedded', 'postgres'] as const;

export type TestGround = {
  url: string | undefined;
  open: () => Promise<Database>;
  drop: () => Promise<void>;
};

/** A fresh, empty database; `open` may be called several times on postgres: several nodes on one database. */
export async function testGround(kind: (typeof GROUNDS)[number]): Promise<TestGround> {
  return kind === 'embedded' ? embeddedGround() : await postgresGround();
}

/** The prebuilt data directory of the run is copied: making one takes seconds. */
function embeddedGround(): TestGround {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'overwinter-test-'));
  fs.cpSync(inject('embedded_template'), directory, { recursive: true });
  const ground: Ground = { kind: 'embedded', directory };
  return {
    url: undefined,
    open: () => openDatabase(ground),
    drop: () => fs.promises.rm(directory, { recursive: true, force: true }),
  };
}

async function postgresGround(): Promise<TestGround> {
  const admin_url = inject('postgres_url');
  const name = `test_${randomBytes(6).toString('hex')}`;
  const admin = new pg.Client({ connectionString: admin_url });
  await admin.connect();
  await admin.query(`create database ${name}`);
  const url = new URL(admin_url);
  url.pathname = `/${name}`;
  const ground: Ground = { kind: 'postgres', url: url.href, migration_url: url.href };
  return {
    url: url.href,
    open: () => openDatabase(ground),
    drop: async () => {
      await admin.query(`drop database if exists ${name} with (force)`);
      await admin.end();
    },
  };
}

/** A TCP proxy before a database. Taken away, its port refuses as that of a database that is down. */
export type TcpProxy = {
  port: number;
  /** Listens again, on the same port. */
  open: () => Promise<void>;
  /** Cuts every connection and refuses new ones. */
  close: () => Promise<void>;
};

/** @param port where it leads, on 127.0.0.1. */
export async function startTcpProxy(port: number): Promise<TcpProxy> {
  const sockets = new Set<net.Socket>();
  const keep = (socket: net.Socket): void => {
    sockets.add(socket);
    socket.on('error', () => undefined);
    socket.once('close', () => sockets.delete(socket));
  };
  const server = net.createServer((near) => {
    const far = net.connect(port, '127.0.0.1');
    keep(near);
    keep(far);
    near.pipe(far).pipe(near);
  });
  const listen = async (at: number): Promise<void> => {
    await once(server.listen(at, '127.0.0.1'), 'listening');
  };
  await listen(0);
  const own = (server.address() as AddressInfo).port;
  return {
    port: own,
    open: () => listen(own),
    close: async () => {
      const closed = once(server, 'close');
      server.close();
      for (const socket of sockets) socket.destroy();
      await closed;
    },
  };
}
