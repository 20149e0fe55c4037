/** Tar archives, compressed with gzip or not, as entries. */
import { ReadableStream } from 'node:stream/web';
import { createTarDecoder, type TarHeader } from 'modern-tar';
import { OverwinterError } from '../resource/error.ts';
import { contentOf, shown, unusable, type Entry } from './entry.ts';

const TYPES: Record<string, Entry['type']> = {
  ...{ file: 'file', directory: 'directory', symlink: 'symlink', link: 'link' },
};

/** @param bytes of the archive, not compressed. */
export async function* tarEntries(bytes: AsyncIterable<Uint8Array>): AsyncGenerator<Entry> {
  const { readable, writable } = createTarDecoder({ strict: true });
  const fed = ReadableStream.from(bytes).pipeTo(writable);
  // Said where entries are read; here it would end the process.
  fed.catch(() => undefined);
  let is_any = false;
  try {
    for await (const { header, body } of readable as unknown as AsyncIterable<Read>) {
      is_any = true;
      yield entryOf(header, body);
    }
    await fed;
  } catch (error) {
    if (error instanceof OverwinterError) throw error;
    throw unusable(is_any ? 'breaks off, or is damaged' : 'is no readable tar archive');
  }
}

type Read = { header: TarHeader; body: AsyncIterable<Uint8Array> };

function entryOf(
  { name, type = 'file', linkname = '', mode = 0, size, pax = {} }: TarHeader,
  body: Read['body'],
): Entry {
  const is_sparse = Object.keys(pax).some((key) => key.startsWith('GNU.sparse.'));
  if (is_sparse) throw unusable(`holds "${shown(name)}" as a sparse file: pack it without that`);
  return {
    ...{ name, type: TYPES[type] ?? 'other', target: linkname },
    executable: (mode & 0o100) !== 0,
    size: type === 'file' ? size : 0,
    content: contentOf(body),
  };
}
