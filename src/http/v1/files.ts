/**
 * Files of a running computer (ours: the contract has none): read, write, list, make, delete, and whole directories as tar. Paths are
 * absolute, or from the home directory on. Content is streamed both ways.
 */
import { RESPONSE_ALREADY_SENT } from '@hono/node-server/utils/response';
import { createRoute, z } from '@hono/zod-openapi';
import type { Context } from 'hono';
import {
  deleteFile,
  listFiles,
  LIST_ENTRIES_MAX,
  makeDirectory,
  readArchive,
  readFile,
  statFile,
  writeArchive,
  writeFile,
  type FileEntry,
} from '../../engine/computers/files.ts';
import { getComputer } from '../../engine/computers/owner.ts';
import type { Computer } from '../../resource/computer/driver.ts';
import { body, FilePath, json, type Api, type Env } from '../api.ts';
import type { Caller } from '../authorize.ts';
import { Time } from '../wire.ts';
import type { Ground } from './app.ts';
import { details } from './error.ts';
import { download, upload } from '../socket/transfer.ts';
import { ComputerPath } from './wire.ts';

const File = z
  .object({
    name: z.string(),
    path: z.string(),
    type: z.enum(['file', 'directory', 'symlink', 'other']),
    size_bytes: z.int(),
    mode: z.string().openapi({ description: 'Octal.', example: '644' }),
    modified_at: Time,
  })
  .openapi('File');

const Listing = z.object({ path: z.string(), files: z.array(File), count: z.int() });
const MakeDirectory = z.object({ path: FilePath }).openapi('MakeDirectory', { example: { path: 'deep/er' } });
const Removed = z.object({ path: z.string(), deleted: z.literal(true) });
const PathQuery = z.object({ path: FilePath });
const WriteQuery = z.object({
  path: FilePath,
  mode: z
    .string()
    .regex(/^[0-7]{3,4}$/, 'must be octal, as in 644')
    .optional(),
});

const bytes = (type: string) => ({
  content: { [type]: { schema: z.string().openapi({ format: 'binary' }) } },
});
const content = { body: bytes('application/octet-stream') };
const OCTETS = 'application/octet-stream';
const TAR = 'application/x-tar';

export function mountFiles(api: Api, ground: Ground): void {
  mountReads(api, ground);
  mountWrites(api, ground);
  mountArchives(api, ground);
}

function mountReads(api: Api, ground: Ground): void {
  const { open } = ground;
  api.openapi(
    createRoute({
      method: 'get',
      path: '/computers/{computer_id}/files',
      ...open('read'),
      request: { params: ComputerPath, query: PathQuery },
      responses: { 200: { description: 'The bytes of the file.', ...bytes(OCTETS) }, ...details },
    }),
    async (context) => {
      const { path } = context.req.valid('query');
      const computer = await running(context, ground, context.req.valid('param').computer_id, 'as it is');
      const { size, type } = await statFile(computer, path);
      // Files of the kernel say that they are empty.
      const length = type === 'file' && size > 0 ? { 'content-length': String(size) } : {};
      await download(
        context,
        ground,
        context.get('caller'),
        { 'content-type': OCTETS, ...length },
        (signal) => readFile(computer, path, signal),
      );
      return RESPONSE_ALREADY_SENT;
    },
  );

  api.openapi(
    createRoute({
      method: 'get',
      path: '/computers/{computer_id}/files/list',
      ...open('read'),
      request: { params: ComputerPath, query: PathQuery },
      responses: {
        200: json(Listing, `What is in the directory, by name; ${LIST_ENTRIES_MAX} at most.`),
        ...details,
      },
    }),
    async (context) => {
      const { path } = context.req.valid('query');
      const computer = await running(context, ground, context.req.valid('param').computer_id, 'as it is');
      const entries = await listFiles(computer, path);
      const files = entries.map((entry) => render(entry, `${path.replace(/\/+$/, '')}/${entry.name}`));
      return context.json({ path, files, count: files.length }, 200);
    },
  );
}

function mountWrites(api: Api, ground: Ground): void {
  const { open } = ground;
  api.openapi(
    createRoute({
      method: 'put',
      path: '/computers/{computer_id}/files',
      ...ground.upload('write'),
      request: { params: ComputerPath, query: WriteQuery, ...content },
      responses: {
        200: json(File, 'It is there as a whole; what was there before is replaced.'),
        ...details,
      },
    }),
    async (context) => {
      const { path, mode } = context.req.valid('query');
      const computer = await running(context, ground, context.req.valid('param').computer_id);
      await upload(context, ground, context.get('caller'), (bytes, signal) =>
        writeFile(computer, path, bytes, { mode, signal }),
      );
      return context.json(render(await statFile(computer, path), path), 200);
    },
  );

  api.openapi(
    createRoute({
      method: 'post',
      path: '/computers/{computer_id}/files/mkdir',
      ...open('write'),
      request: { params: ComputerPath, ...body(MakeDirectory) },
      responses: { 200: json(File, 'The directory, with all that leads to it.'), ...details },
    }),
    async (context) => {
      const { path } = context.req.valid('json');
      const computer = await running(context, ground, context.req.valid('param').computer_id);
      await makeDirectory(computer, path);
      return context.json(render(await statFile(computer, path), path), 200);
    },
  );

  api.openapi(
    createRoute({
      method: 'delete',
      path: '/computers/{computer_id}/files',
      ...open('write'),
      request: { params: ComputerPath, query: PathQuery },
      responses: {
        200: json(Removed, 'A file, a link, or a directory with all that was in it.'),
        ...details,
      },
    }),
    async (context) => {
      const { path } = context.req.valid('query');
      await deleteFile(await running(context, ground, context.req.valid('param').computer_id), path);
      return context.json({ path, deleted: true } as const, 200);
    },
  );
}

function mountArchives(api: Api, ground: Ground): void {
  const { open } = ground;
  api.openapi(
    createRoute({
      method: 'get',
      path: '/computers/{computer_id}/archive',
      ...open('read'),
      request: { params: ComputerPath, query: PathQuery },
      responses: { 200: { description: 'The directory as tar.', ...bytes(TAR) }, ...details },
    }),
    async (context) => {
      const { path } = context.req.valid('query');
      const computer = await running(context, ground, context.req.valid('param').computer_id, 'as it is');
      await download(context, ground, context.get('caller'), { 'content-type': TAR }, (signal) =>
        readArchive(computer, path, signal),
      );
      return RESPONSE_ALREADY_SENT;
    },
  );

  api.openapi(
    createRoute({
      method: 'put',
      path: '/computers/{computer_id}/archive',
      ...ground.upload('write'),
      request: { params: ComputerPath, query: PathQuery, body: bytes(TAR) },
      responses: { 200: json(File, 'The directory that the archive was unpacked into.'), ...details },
    }),
    async (context) => {
      const { path } = context.req.valid('query');
      const computer = await running(context, ground, context.req.valid('param').computer_id);
      await upload(context, ground, context.get('caller'), (bytes, signal) =>
        writeArchive(computer, path, bytes, signal),
      );
      return context.json(render(await statFile(computer, path), path), 200);
    },
  );
}

type FileContext = Context<Env & { Variables: { caller: Caller } }>;

/** @param as a read takes it as it is: what reads starts no processes. */
async function running(
  context: FileContext,
  { runtime, computers }: Ground,
  name: string,
  as?: 'as it is',
): Promise<Computer> {
  const { id } = await getComputer(runtime, context.get('caller').org, name);
  return await computers.use(id, as);
}

function render(entry: FileEntry, path: string): z.infer<typeof File> {
  const { name, type, size, mode, modified_at } = entry;
  return { name, path, type, size_bytes: size, mode, modified_at: modified_at.toISOString() };
}
