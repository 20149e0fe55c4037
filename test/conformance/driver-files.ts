/** What every driver promises of the files of its computers: kept, restored from a snapshot, or discarded. */

import { expect, test } from 'vitest';
import type { Driver } from '../../src/resource/computer/driver.ts';
import { bytesOf, freshId, runScript } from './computers.ts';
import type { WakeNew } from './driver.ts';

export function filesConform(wakeNew: WakeNew, driver: () => Driver): void {
  test('of another generation are discarded', async () => {
    const { computer, id } = await wakeNew();
    await runScript(computer, 'echo old > file');
    const again = await wakeNew({ id, from_generation: 5, generation: 6 });
    expect(again.files).toBe('empty');
    expect((await runScript(again.computer, 'ls -A /workspace')).stdout).toBe('');
  });

  test('come back from the snapshot as they were', async () => {
    const { computer, id, reference } = await wakeNew();
    await runScript(computer, ODD_FILES);
    const listed = await runScript(computer, LIST_FILES);
    expect(listed.exit_code).toBe(0);
    await computer.hibernate();
    const bytes = await bytesOf(await driver().snapshot(id, reference));
    await driver().destroy(id, reference);
    const other = await wakeNew({
      from_generation: 1,
      generation: 2,
      snapshot: async () => chunksOf(bytes),
    });
    expect(other.files).toBe('restored');
    expect(await runScript(other.computer, LIST_FILES)).toEqual(listed);
  });

  test('are preferred to the snapshot when they are of the wanted generation', async () => {
    const { computer, id } = await wakeNew();
    await runScript(computer, 'echo kept > file');
    const again = await wakeNew({ id, from_generation: 1, generation: 2, snapshot: notNeeded });
    expect(again.files).toBe('kept');
  });

  test('a restore that fails leaves nothing that counts', async () => {
    const id = freshId();
    await expect(wakeNew({ id, from_generation: 3, generation: 4, snapshot: noArchive })).rejects.toThrow();
    expect((await wakeNew({ id, from_generation: 3, generation: 4 })).files).toBe('empty');
  });

  test('of an awake computer are read without ending its processes', async () => {
    const { computer, id, reference } = await wakeNew();
    await runScript(
      computer,
      'echo kept > file; (while :; do date > changing; done) 2>/dev/null & echo $! > pid',
    );
    const bytes = await bytesOf(await driver().snapshot(id, reference));
    expect((await runScript(computer, 'kill -0 $(cat pid) && echo alive')).stdout).toBe('alive\n');
    const other = await wakeNew({
      from_generation: 1,
      generation: 2,
      snapshot: async () => chunksOf(bytes),
    });
    expect((await runScript(other.computer, 'cat file')).stdout).toBe('kept\n');
    await driver().destroy(id, reference);
  });

  test('are there after a hibernate while a snapshot is read', async () => {
    const { computer, id, reference } = await wakeNew();
    await runScript(computer, 'head -c 30000000 /dev/urandom > file');
    const content = await driver().snapshot(id, reference);
    const chunks = (content as AsyncIterable<Uint8Array>)[Symbol.asyncIterator]();
    expect((await chunks.next()).done).toBe(false);
    await computer.hibernate();
    expect(computer.alive()).toBe(false);
    await chunks.return?.();
    expect((await wakeNew({ id, from_generation: 1, generation: 2 })).files).toBe('kept');
  });

  test('a snapshot of files that are gone is null', async () => {
    expect(await driver().snapshot(freshId(), {})).toBeNull();
  });

  test('destroy removes every byte and is idempotent', async () => {
    const { computer, id, reference } = await wakeNew();
    await runScript(
      computer,
      `${ODD_FILES}; mkdir -p closed/below; touch closed/below/file; chmod 000 closed`,
    );
    await driver().destroy(id, reference);
    await driver().destroy(id, null);
    expect(computer.alive()).toBe(false);
    expect(await driver().snapshot(id, reference)).toBeNull();
    expect((await wakeNew({ id, from_generation: 1, generation: 2 })).files).toBe('empty');
  });
}

async function notNeeded(): Promise<AsyncIterable<Uint8Array>> {
  throw new Error('the snapshot was not needed');
}

async function noArchive(): Promise<AsyncIterable<Uint8Array>> {
  return chunksOf(Buffer.from('not an archive'));
}

async function* chunksOf(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes;
}

const ODD_FILES = `
cd /workspace
mkdir -p deep/er && echo text > deep/er/file && echo home > "$HOME/file"
ln -s /etc/passwd absolute-link; ln -s ../../../../etc upward-link; ln -s missing dangling
ln deep/er/file hard-link
printf x > $'new\\nline'; printf x > ' blank '; printf x > -dash
touch executable unreadable; chmod 755 executable; chmod 000 unreadable
mkdir closed-dir; echo in > closed-dir/in; chmod 000 closed-dir
truncate -s 50M sparse
mkfifo pipe
`;

const LIST_FILES = `
cd /workspace
find . "$HOME" -printf '%P|%y|%m|%l|%n' \\( -type f -printf '|%s' -o -printf '' \\) -printf '\\n' 2>/dev/null | sort
cat deep/er/file "$HOME/file"
`;
