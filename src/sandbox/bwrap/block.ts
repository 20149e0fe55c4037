/**
 * User namespaces in which a computer has 65,536 uids of its own, root among them: uid 0 inside is the first of the
 * host's shared block.
 * Invariant: whoever holds the descriptor can make no user namespace within, and maps no uid outside the block.
 */

import { writeFile } from 'node:fs/promises';
import { start, type Program } from '../launcher.ts';

export const BLOCK_UIDS = 65_536;

/** `file` leads to it for as long as nobody has closed it. */
export type Block = { file: string; close(): void };

const MADE_MS_MAX = 10_000;
const ANSWER_BYTES_MAX = 4096;

/** Without the last, whoever is in the namespace may write it. */
const MAPS = ['uid_map', 'gid_map', 'projid_map'];

/** Only a program started after the maps are written has the rights to set the bound. */
const BOUND = 'echo 0 >/proc/sys/user/max_user_namespaces && echo bounded; read -r _';
const HOLD = `echo made; read -r _; exec /bin/sh -c '${BOUND}'`;

/** The namespace lives as long as a descriptor of it or a process in it. `uid` owns it, which is what lets bwrap enter. */
export async function openBlock(uid: number): Promise<Block> {
  const own = ['setpriv', '--reuid', String(uid), '--regid', String(uid), '--clear-groups', '--'];
  const command = [...own, 'unshare', '--user', '/bin/sh', '-c', HOLD];
  const holder = await start(command, ['pipe', 'pipe', 'pipe']);
  const said = answers(holder);
  const timer = setTimeout(holder.kill, MADE_MS_MAX);
  try {
    await said('made');
    for (const map of MAPS) {
      await writeFile(`/proc/${holder.pid}/${map}`, `0 ${uid} ${BLOCK_UIDS}`);
    }
    holder.pipes[0]?.write('\n');
    await said('bounded');
    return { file: `/proc/${holder.pid}/ns/user`, close: holder.kill };
  } catch (error) {
    holder.kill();
    throw error;
  } finally {
    clearTimeout(timer);
  }
}

/** Resolves when the holder has said the word; rejects when it ends before. */
function answers(holder: Program): (word: string) => Promise<void> {
  let text = '';
  let ended = false;
  let look = (): void => {};
  for (const stream of [holder.pipes[1], holder.pipes[2]]) {
    stream?.on('data', (data: Buffer) => {
      text = (text + data.toString()).slice(0, ANSWER_BYTES_MAX);
      look();
    });
  }
  const end = (): void => {
    ended = true;
    look();
  };
  void holder.closed.then(end);
  return (word) =>
    new Promise((resolve, reject) => {
      look = () => {
        if (text.split('\n').includes(word)) resolve();
        else if (ended) reject(new Error(`no user namespace with a block of uids: ${text.trim()}`));
      };
      look();
    });
}
