/**
 * Signatures of URLs that open one thing for one purpose until a time. A signature is a sealed value that is bound to all of it, so it
 * needs no key of its own and is good as long as the master key that it was made with is kept.
 */
import { createHash } from 'node:crypto';
import { SealError, type Sealer } from './seal.ts';

export type Link = {
  org: string;
  /** The resource, by its id. */
  id: string;
  purpose: 'download' | 'upload';
  path: string;
  /** In seconds since the epoch. */
  expires: number;
};

/** @param key_id the API key on whose behalf it is made, which the signature tells. */
export function signLink(sealer: Sealer, link: Link, key_id: string): string {
  return Buffer.from(sealer.seal(key_id, placeOf(link))).toString('base64url');
}

/** The API key on whose behalf the link was made; undefined for one that we did not make. Its time is not looked at. */
export function openLink(sealer: Sealer, link: Link, signature: string): string | undefined {
  try {
    return sealer.open(Buffer.from(signature, 'base64url').toString(), placeOf(link));
  } catch (error) {
    if (error instanceof SealError) return undefined;
    throw error;
  }
}

function placeOf({ org, id, purpose, path, expires }: Link) {
  const what = createHash('sha256').update(path).digest('hex');
  return { org, table: 'link', id, column: `${purpose} ${expires} ${what}` };
}
