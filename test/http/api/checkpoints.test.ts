/** Going back to a checkpoint where something comes between: it happens whole, or nothing has happened. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startComputerServer } from '../../helpers/computers.ts';
import type { Answer, TestServer } from '../../helpers/http.ts';

let server: TestServer;
/** Once the checkpoint is copied, and nothing else is done. */
let meanwhile: () => Promise<unknown>;

beforeAll(async () => {
  const fail = async (name: string): Promise<void> => {
    if (name === 'computer.rewind_copied') await meanwhile();
  };
  server = await startComputerServer({ fail });
});
afterAll(() => server.close());

async function begin(): Promise<{ id: string; checkpoint: string; copy: string }> {
  const id = (await server.ask('POST /api/sandboxes', { body: { timeout: 0 } })).json['sandboxID']!;
  const body = { name: 'x' };
  const checkpoint = (await server.ask(`POST /api/sandboxes/${id}/checkpoints`, { body })).json['id']!;
  const { generation } = await server.runtime.computer_log.state(id);
  return { id, checkpoint, copy: `computers/${id}/rewound-${generation}.tar.zst` };
}

async function restore(id: string, checkpoint: string): Promise<[number, string | undefined]> {
  const { status, json }: Answer = await server.ask(
    `POST /api/sandboxes/${id}/checkpoints/${checkpoint}/restore`,
  );
  return [status, json['code']];
}

describe('going back to a checkpoint', () => {
  it('that was deleted meanwhile is not found, and the sandbox runs on', async () => {
    const { id, checkpoint } = await begin();
    const before = await server.runtime.computer_log.state(id);
    await server.runtime.blobs.delete(`snapshots/${checkpoint}.tar.zst`);
    expect(await restore(id, checkpoint)).toEqual([404, 'not_found']);
    expect(await server.runtime.computer_log.state(id)).toEqual(before);
    expect(server.computers.awake(id)?.alive()).toBe(true);
  });

  it('needs the checkpoint no more once it is copied', async () => {
    const { id, checkpoint } = await begin();
    meanwhile = () => server.ask(`DELETE /api/sandboxes/${id}/checkpoints/${checkpoint}`);
    expect(await restore(id, checkpoint)).toEqual([204, undefined]);
    expect(server.computers.awake(id)?.alive()).toBe(true);
  });

  it('that is refused leaves no copy', async () => {
    const { id, checkpoint, copy } = await begin();
    let copied: unknown;
    meanwhile = async () => {
      copied = await server.runtime.blobs.get(copy);
      await server.computers.append(id, { type: 'begin_delete' });
    };
    expect(await restore(id, checkpoint)).toEqual([409, 'conflict']);
    expect(copied).toBeDefined();
    expect(await server.runtime.blobs.get(copy)).toBeUndefined();
    await server.ask(`DELETE /api/sandboxes/${id}`);
  });
});
