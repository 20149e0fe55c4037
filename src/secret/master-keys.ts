/**
 * The master keys of a node: given by the operator, or kept in a file of the data directory, one on each line, the first of which
 * seals. The file changes by a rename only, so whenever the process dies it holds every key that a stored value may need.
 */
import { randomBytes } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { masterKey, parseMasterKeys, sealer, type MasterKey, type Sealer } from './seal.ts';

export type MasterKeys = {
  sealer: Sealer;
  /** Ids of the keys that are kept; the first seals. */
  ids: () => string[];
  /** Puts a new key first. Where others are kept besides, a change that was begun goes on instead; given keys stay as they are. */
  renew: () => Promise<void>;
  /** Keeps these keys no longer. The process goes on opening with them, as it may hold values that it read before. */
  retire: (ids: string[]) => Promise<void>;
};

type Fail = (failpoint: string) => Promise<void>;

/** The operator's keys, which only the operator changes. */
export function givenKeys(keys: MasterKey[]): MasterKeys {
  return {
    sealer: sealer(() => keys),
    ids: () => keys.map(({ id }) => id),
    renew: () => Promise.resolve(),
    retire: () => Promise.resolve(),
  };
}

/**
 * The keys of a file, made with one key when there is none. Nobody else may write it.
 * @throws Error that does not quote the file
 */
export async function keptKeys(file: string, fail: Fail): Promise<MasterKeys> {
  // What a crash left half written; the file itself is whole.
  fs.rmSync(newName(file), { force: true });
  if (!fs.existsSync(file)) await write(file, [draw()], fail);
  let kept = parseMasterKeys(fs.readFileSync(file, 'utf8'));
  const retired: MasterKey[] = [];
  return {
    sealer: sealer(() => [...kept, ...retired]),
    ids: () => kept.map(({ id }) => id),
    renew: async () => {
      if (kept.length > 1) return;
      const renewed = [draw(), ...kept];
      await write(file, renewed, fail);
      // Only now: nothing may be sealed with a key that a power cut could take away.
      kept = renewed;
      await fail('secret.key_added');
    },
    retire: async (ids) => {
      const [gone, left] = [
        kept.filter(({ id }) => ids.includes(id)),
        kept.filter(({ id }) => !ids.includes(id)),
      ];
      if (gone.length === 0) return;
      await write(file, left, fail);
      kept = left;
      retired.push(...gone);
      await fail('secret.key_removed');
    },
  };
}

function draw(): MasterKey {
  return masterKey(randomBytes(32));
}

async function write(file: string, keys: MasterKey[], fail: Fail): Promise<void> {
  const text = keys.map(({ key }) => `${key.toString('base64')}\n`).join('');
  fs.writeFileSync(newName(file), text, { mode: 0o600, flush: true });
  await fail('secret.file_written');
  fs.renameSync(newName(file), file);
  await fail('secret.file_renamed');
  const directory = fs.openSync(path.dirname(file), 'r');
  fs.fsyncSync(directory);
  fs.closeSync(directory);
}

function newName(file: string): string {
  return `${file}.new`;
}
