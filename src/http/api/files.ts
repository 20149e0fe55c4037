/** Files of a sandbox. Content is streamed both ways. */
import { RESPONSE_ALREADY_SENT } from '@hono/node-server/utils/response';
import { createRoute, z } from '@hono/zod-openapi';
import {
  deleteFile,
  listFiles,
  LIST_ENTRIES_MAX,
  makeDirectory,
  readFile,
  statFile,
  writeFile,
} from '../../engine/computers/files.ts';
import type { Computer } from '../../resource/computer/driver.ts';
import { FilePath, json, type Api } from '../api.ts';
import { within } from '../../engine/computers/audience.ts';
import type { Caller } from '../authorize.ts';
import { download, upload } from '../socket/transfer.ts';
import type { Ground } from './app.ts';
import { refusals, Waking } from './error.ts';
import { awakeHandle } from './find.ts';
import { SandboxPath } from './wire.ts';

const Entry = z
  .object({ name: z.string(), isDir: z.boolean(), size: z.int(), path: z.string() })
  .openapi('SandboxFile');

const PathQuery = z.object({ path: FilePath });
const ListQuery = z.object({ path: FilePath.default('/') });

/** With this header a client asks again by itself while a computer wakes. */
const ASYNC_WAKE = 'x-osb-async-wake';
const OCTETS = 'application/octet-stream';
const bytes = { content: { [OCTETS]: { schema: z.string().openapi({ format: 'binary' }) } } };
const request = { params: SandboxPath, query: PathQuery };
const path = '/sandboxes/{sandbox_id}/files';

export function mountFiles(api: Api, ground: Ground): void {
  mountRead(api, ground);
  mountList(api, ground);
  mountWrite(api, ground);
  mountChanges(api, ground);
}

function mountRead(api: Api, ground: Ground): void {
  api.openapi(
    createRoute({
      ...{ method: 'get', path, ...ground.admit.org('read') },
      request,
      responses: {
        200: { description: 'The bytes of the file.', ...bytes },
        204: {
          description: 'It is there, and no file: a directory, for example. Clients ask so whether it is.',
        },
        ...refusals,
      },
    }),
    async (context) => {
      const caller = context.get('caller');
      const { path } = context.req.valid('query');
      const computer = await handle(ground, context, caller, context.req.valid('param').sandbox_id);
      const entry = await statFile(computer, path);
      if (entry.type !== 'file') return context.body(null, 204);
      await sendFile(context, ground, caller, computer, { path, size: entry.size });
      return RESPONSE_ALREADY_SENT;
    },
  );
}

function mountList(api: Api, ground: Ground): void {
  api.openapi(
    createRoute({
      ...{ method: 'get', path: `${path}/list`, ...ground.admit.org('read') },
      request: { params: SandboxPath, query: ListQuery },
      responses: {
        200: json(z.array(Entry), `What is in the directory, by name; ${LIST_ENTRIES_MAX} at most.`),
        ...refusals,
      },
    }),
    async (context) => {
      const { path: directory } = context.req.valid('query');
      const computer = await handle(
        ground,
        context,
        context.get('caller'),
        context.req.valid('param').sandbox_id,
      );
      const entries = await listFiles(computer, directory);
      const below = directory.replace(/\/+$/, '');
      const rendered = entries.map(({ name, type, size }) => ({
        ...{ name, isDir: type === 'directory', size, path: `${below}/${name}` },
      }));
      return context.json(rendered, 200);
    },
  );
}

function mountWrite(api: Api, ground: Ground): void {
  api.openapi(
    createRoute({
      ...{ method: 'put', path, ...ground.admit.upload('write') },
      request: { ...request, body: bytes },
      responses: {
        204: { description: 'It is there as a whole; what was there before is replaced.' },
        ...refusals,
      },
    }),
    async (context) => {
      const caller = context.get('caller');
      const computer = await handle(ground, context, caller, context.req.valid('param').sandbox_id);
      const { path: file } = context.req.valid('query');
      await upload(context, ground, caller, (content, signal) =>
        writeFile(computer, file, content, { signal }),
      );
      return context.body(null, 204);
    },
  );
}

function mountChanges(api: Api, ground: Ground): void {
  const changes = [
    ['post', `${path}/mkdir`, makeDirectory, 'The directory is there, with all that leads to it.'],
    ['delete', path, deleteFile, 'A file, a link, or a directory with all that was in it is gone.'],
  ] as const;
  for (const [method, route, change, description] of changes) {
    api.openapi(
      createRoute({
        ...{ method, path: route, ...ground.admit.org('write') },
        request,
        responses: { 204: { description }, ...refusals },
      }),
      async (context) => {
        const computer = await handle(
          ground,
          context,
          context.get('caller'),
          context.req.valid('param').sandbox_id,
        );
        await change(computer, context.req.valid('query').path);
        return context.body(null, 204);
      },
    );
  }
}

/** The file as an answer's body, from its first byte on. */
export async function sendFile(
  context: Parameters<typeof download>[0],
  ground: Ground,
  holder: Parameters<typeof download>[2],
  computer: Computer,
  { path: file, size }: { path: string; size: number },
): Promise<void> {
  // Files of the kernel say that they are empty.
  const length = size > 0 ? { 'content-length': String(size) } : {};
  await download(context, ground, holder, { 'content-type': OCTETS, ...length }, (signal) =>
    readFile(computer, file, signal),
  );
}

type Asking = { req: { header(name: string): string | undefined } };

/** @throws Waking where the client asks again by itself, and it takes longer than one likes to wait for. */
async function handle(ground: Ground, { req }: Asking, caller: Caller, id: string): Promise<Computer> {
  const ready = awakeHandle(ground, caller, id);
  if (req.header(ASYNC_WAKE) !== '1') return await ready;
  const settled = ready.catch(() => undefined);
  if (await within(settled, ground.wake_patience_ms)) return await ready;
  throw new Waking();
}
