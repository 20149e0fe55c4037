/**
 * Changes the master key under a running server: every stored value's data key is wrapped anew by the first key. An old key is given
 * up only when nothing is sealed with it and nothing that was sealed with it can still arrive.
 */
import { sealedPrefix, SealError } from '../../secret/seal.ts';
import {
  countSealed,
  readSealedOtherwise,
  replaceSealed,
  SEALED_TABLES,
  type SealedRow,
  type SealedTable,
} from '../../store/sealed.ts';
import type { Runtime } from '../runtime.ts';

export type Rotation = {
  /** The key that seals. */
  key_id: string;
  /** Values that this call has put under it. */
  rewrapped: number;
  /** Values that are under other keys still. */
  remaining: number;
  /** Keys that are kept besides, to open. */
  other_key_ids: string[];
};

type Rotating = Pick<Runtime, 'database' | 'master_keys' | 'logger' | 'fail'>;

const BATCH = 200;
/** Another node's values under an old key, or rows that it holds, take a further pass; what is left after so many is told. */
const PASSES_MAX = 10;

/**
 * A rotation that many may ask for: who asks while one is under way shares it.
 * @param settled resolves when requests that may have sealed with an old key are over; false when that cannot be said.
 */
export function createRotation(runtime: Rotating, settled: () => Promise<boolean>): () => Promise<Rotation> {
  let under_way: Promise<Rotation> | null = null;
  return () => (under_way ??= rotate(runtime, settled).finally(() => (under_way = null)));
}

async function rotate(runtime: Rotating, settled: () => Promise<boolean>): Promise<Rotation> {
  const { master_keys } = runtime;
  await master_keys.renew();
  const [key_id = '', ...others] = master_keys.ids();
  const quiet = await settled();
  let rewrapped = 0;
  for (let pass = 0; pass < PASSES_MAX; pass += 1) {
    let tried = 0;
    for (const table of SEALED_TABLES) {
      const done = await rewrapTable(runtime, table, key_id);
      rewrapped += done.replaced;
      tried += done.tried;
    }
    if (tried === 0) break;
  }
  const { remaining, unused } = await count(runtime, key_id, others);
  if (quiet) await master_keys.retire(unused);
  return { key_id, rewrapped, remaining, other_key_ids: master_keys.ids().slice(1) };
}

/** One pass: how many values it could put under the first key, and how many of them were still what it had read. */
async function rewrapTable(
  runtime: Rotating,
  table: SealedTable,
  key_id: string,
): Promise<{ tried: number; replaced: number }> {
  const { db } = runtime.database;
  const done = { tried: 0, replaced: 0 };
  let after = '';
  for (;;) {
    const rows = await readSealedOtherwise(db, table, sealedPrefix(key_id), { after, limit: BATCH });
    if (rows.length === 0) return done;
    const changes = rows.flatMap((row) => rewrapRow(runtime, table, row));
    done.tried += changes.length;
    if (changes.length > 0) done.replaced += await replaceSealed(db, table, changes);
    await runtime.fail('secret.rewrapped');
    after = rows.at(-1)!.id;
  }
}

function rewrapRow(
  { master_keys, logger }: Rotating,
  table: SealedTable,
  { id, org, sealed }: SealedRow,
): { id: string; from: string; to: string }[] {
  try {
    const to = master_keys.sealer.rewrap(sealed, { org, table, id, column: 'sealed' });
    return to === null ? [] : [{ id, from: sealed, to }];
  } catch (error) {
    if (!(error instanceof SealError)) throw error;
    logger.error({ err: error, table, id }, 'a sealed value cannot be put under another master key');
    return [];
  }
}

/** What is not under the first key, and the other keys under which there is nothing. */
async function count(
  { database }: Rotating,
  key_id: string,
  others: string[],
): Promise<{ remaining: number; unused: string[] }> {
  const prefixes = [key_id, ...others].map(sealedPrefix);
  const tables = await Promise.all(SEALED_TABLES.map((table) => countSealed(database.db, table, prefixes)));
  return {
    remaining: tables.reduce((sum, { all, of }) => sum + all - of[0]!, 0),
    unused: others.filter((_, index) => tables.every(({ of }) => of[index + 1] === 0)),
  };
}
