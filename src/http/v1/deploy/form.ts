/** Forms with a file, read from the socket as they come: fields are small and few, the file goes to whoever keeps it. */
import type { IncomingMessage } from 'node:http';
import type { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { Busboy, type BusboyInstance } from '@fastify/busboy';
import { OverwinterError } from '../../../resource/error.ts';

export type Form<File> = { fields: Record<string, string>; file: File | undefined };

const LIMITS = { fields: 32, fieldSize: 1024 * 1024, files: 1, headerPairs: 64, headerSize: 16_384 };

/**
 * @param name the field that the file comes in; others' files are passed over.
 * @param keep is given its bytes; what it throws ends the request. What it has kept is the caller's, also when this throws later.
 * @throws OverwinterError `invalid` for what is no such form.
 */
export async function readForm<File>(
  incoming: IncomingMessage,
  name: string,
  keep: (bytes: Readable) => Promise<File>,
): Promise<Form<File>> {
  const busboy = open(incoming);
  const fields: Record<string, string> = {};
  let kept: Promise<File> | undefined;
  let given: Readable | undefined;
  busboy.on('field', (field, value, _, is_cut) => {
    if (is_cut) busboy.destroy(new OverwinterError('too_large', `the field "${field}" is too large`, field));
    else fields[field] = value;
  });
  busboy.on('file', (field, bytes) => {
    // It breaks with the form, be it that nobody reads it, or not yet.
    bytes.on('error', () => undefined);
    if (field === name) {
      given = bytes;
      kept = keep(bytes);
      kept.catch((error: Error) => busboy.destroy(error));
    } else bytes.resume();
  });
  for (const limit of ['partsLimit', 'filesLimit', 'fieldsLimit'] as const)
    busboy.on(limit, () => busboy.destroy(new OverwinterError('invalid', 'the form has too many parts')));
  try {
    await pipeline(incoming, busboy);
  } catch (error) {
    // Its reader would wait for ever.
    given?.destroy(error as Error);
    await kept?.catch(() => undefined);
    if (error instanceof OverwinterError || error === incoming.errored) throw error;
    throw new OverwinterError('invalid', 'the form breaks off, or is no multipart/form-data');
  }
  return { fields, file: await kept };
}

function open(incoming: IncomingMessage): BusboyInstance {
  const { 'content-type': type = '' } = incoming.headers;
  try {
    if (!/^multipart\/form-data\b/i.test(type)) throw new Error('another type');
    return new Busboy({ headers: { ...incoming.headers, 'content-type': type }, limits: LIMITS });
  } catch {
    throw new OverwinterError('invalid', 'the body must be multipart/form-data with a boundary');
  }
}
