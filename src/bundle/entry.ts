/** What an uploaded archive holds, one entry after the other, whatever its format. */
import { OverwinterError } from '../resource/error.ts';

export type Entry = {
  /** As the archive has it. */
  name: string;
  /** `other`: devices, pipes, and what else no program's folder has. */
  type: 'file' | 'directory' | 'symlink' | 'link' | 'other';
  /** Of a link. */
  target: string;
  executable: boolean;
  /** Bytes of content; that many are to be read of it before the next entry is asked for. */
  size: number;
  content: AsyncIterable<Uint8Array>;
};

export const FIELD = 'code_bundle';

export function unusable(sentence: string): OverwinterError {
  return new OverwinterError('invalid', `the bundle ${sentence}`, FIELD);
}

/** Text of the archive as a sentence can bear it. */
export function shown(name: string): string {
  return name
    .toWellFormed()
    .replaceAll(/[\p{Cc}\p{Cf}"]/gu, '?')
    .slice(0, 100);
}

/** The bytes of an entry. Whatever breaks while they are read is the archive's fault. */
export async function* contentOf(bytes: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  try {
    yield* bytes;
  } catch (error) {
    throw error instanceof OverwinterError ? error : unusable('breaks off, or is damaged');
  }
}
