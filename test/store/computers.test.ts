/** What the making of a computer asks of the database, and what becomes of its row once nothing of the computer is left. */
import type { KyselyPlugin } from 'kysely';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { findComputer, forgetComputer } from '../../src/store/computer/computers.ts';
import { readSealedEnv } from '../../src/store/computer/keeping.ts';
import { listPorts } from '../../src/store/computer/ports.ts';
import { startComputerServer } from '../helpers/computers.ts';
import type { TestServer } from '../helpers/http.ts';

let server: TestServer;
beforeAll(async () => {
  server = await startComputerServer();
});
afterAll(() => server.close());

async function make(): Promise<string> {
  const id = (await server.ask('POST /api/sandboxes', { body: { envs: { A: 'b' } } })).json['sandboxID']!;
  await server.ask(`POST /api/sandboxes/${id}/preview`, { body: { port: 8000 } });
  return id;
}

it('is started without a look at the log that was just begun', async () => {
  const { database } = server.runtime;
  const { db } = database;
  const read: string[] = [];
  database.db = db.withPlugin({
    transformQuery: ({ node }) => {
      if (node.kind === 'SelectQueryNode') read.push(JSON.stringify(node.from));
      return node;
    },
    transformResult: ({ result }) => Promise.resolve(result),
  });
  const { status, json } = await server.ask('POST /v1/computers', { body: {} });
  database.db = db;
  expect([status, json['status']]).toEqual([201, 'running']);
  expect(read.filter((from) => from.includes('"stream"'))).toEqual([]);
  expect(read).not.toEqual([]);
});

it('is forgotten in one statement, and no other with it', async () => {
  const [gone, other] = [await make(), await make()];
  const { db } = server.runtime.database;
  let statements = 0;
  const counting: KyselyPlugin = {
    transformQuery: ({ node }) => {
      statements += 1;
      return node;
    },
    transformResult: ({ result }) => Promise.resolve(result),
  };
  const { name } = (await findComputer(db, server.org.id, gone))!;
  await forgetComputer(db.withPlugin(counting), gone, new Date());
  expect(statements).toBe(1);
  expect(await listPorts(db, server.org.id, [gone, other])).toMatchObject([{ computer_id: other }]);
  expect([await readSealedEnv(db, gone), await readSealedEnv(db, other)]).toEqual([
    undefined,
    expect.objectContaining({ org: server.org.id }),
  ]);
  expect(await findComputer(db, server.org.id, name)).toBeUndefined();
});
