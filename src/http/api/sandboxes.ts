/** Sandboxes: make, also from a checkpoint, list, read, kill. */
import { randomBytes } from 'node:crypto';
import { createRoute, z } from '@hono/zod-openapi';
import { createComputer, deleteComputer, type CreateComputer } from '../../engine/computers/owner.ts';
import type { ComputerState } from '../../resource/computer/life.ts';
import { TEMPLATES } from '../../resource/computer/spec.ts';
import { OverwinterError } from '../../resource/error.ts';
import { digest } from '../../secret/key.ts';
import { listComputers } from '../../store/computer/computers.ts';
import type { Keeping } from '../../store/computer/keeping.ts';
import { body, json, limit, text, type Api } from '../api.ts';
import type { Ground } from './app.ts';
import { refusals } from './error.ts';
import { findSandbox, withKeeping } from './find.ts';
import { domainOf } from '../published/host.ts';
import { renderSandbox, Sandbox, SandboxPath, SIZES, Timeout, Variables } from './wire.ts';

/** As the clients' documentation has it; the clients themselves say 0. */
const TIMEOUT_S = 300;
const METADATA_MAX = 64;
const TOKEN_BYTES = 32;

const PreviewAuth = z.object({
  scheme: z.literal('bearer').default('bearer'),
  token: text(256).min(1).default('auto').openapi({ description: '`auto`, or 16 characters at least.' }),
});

const besides = {
  timeout: Timeout.default(TIMEOUT_S),
  envs: Variables.optional().openapi({ description: 'Of every command in it; kept sealed.' }),
  metadata: z
    .record(text(64), text(1024))
    .refine((metadata) => Object.keys(metadata).length <= METADATA_MAX, `must be ${METADATA_MAX} at most`)
    .optional(),
  previewAuth: PreviewAuth.optional(),
  secretStore: z.unknown().optional().openapi({ description: 'Not supported.' }),
  mounts: z.unknown().optional().openapi({ description: 'Not supported.' }),
};

const Create = z
  .object({
    templateID: text(64).default('base').openapi({ description: '`base`, a template or an image.' }),
    ...{ ...SIZES, ...besides },
    burst: z.boolean().optional().openapi({ description: 'Not supported.' }),
    sandboxFamily: z.unknown().optional().openapi({ description: 'Not supported.' }),
    image: z.unknown().optional().openapi({ description: 'Not supported.' }),
    snapshot: z.unknown().optional().openapi({ description: 'Not supported.' }),
    webhooks: z.array(z.unknown()).optional().openapi({ description: 'Not supported.' }),
  })
  .openapi('CreateSandbox', { example: { templateID: 'base', timeout: 0, cpuCount: 1, memoryMB: 1024 } });

const FromCheckpoint = z
  .object({ ...SIZES, ...besides })
  .openapi('SandboxFromCheckpoint', { example: { timeout: 0 } });

const Made = Sandbox.extend({
  previewAuthToken: z
    .string()
    .optional()
    .openapi({ description: 'What visitors of its preview URLs must bear; said this once.' }),
}).openapi('CreatedSandbox');

const CheckpointPath = z.object({ checkpoint_id: text(64) });
const ListQuery = z.object({ limit: limit(50, 200) });
const KillQuery = z.object({ deleteSecretStore: z.enum(['true', 'false']).optional() });

const SENTENCES: Record<string, string> = {
  secretStore: 'secret stores are not served: give variables with envs, which are kept sealed',
  mounts: 'mounts are not served: put files into the sandbox',
  burst: 'there is one kind of computer here: burst is not served',
  sandboxFamily: 'there is one kind of computer here: families are not served',
  image: 'images are not built here: give the name of an installed one as templateID',
  snapshot: 'prebuilt snapshots are not served: make a checkpoint and a sandbox from it',
  webhooks: 'webhooks of sandboxes are not served',
};

export function mountSandboxes(api: Api, ground: Ground): void {
  mountCreate(api, ground);
  mountFromCheckpoint(api, ground);
  mountList(api, ground);
  mountOne(api, ground);
}

function mountCreate(api: Api, ground: Ground): void {
  api.openapi(
    createRoute({
      ...{ method: 'post', path: '/sandboxes', ...ground.admit.org('write') },
      request: body(Create),
      responses: { 201: json(Made, 'It runs, or is in `error` and says why.'), ...refusals },
    }),
    async (context) => {
      const asked = context.req.valid('json');
      expectServed(asked);
      const made = await make(ground, context.get('caller').org, asked, templateOf(ground, asked.templateID));
      return context.json(made, 201);
    },
  );
}

function mountFromCheckpoint(api: Api, ground: Ground): void {
  api.openapi(
    createRoute({
      ...{ method: 'post', path: '/sandboxes/from-checkpoint/{checkpoint_id}', ...ground.admit.org('write') },
      request: { params: CheckpointPath, ...body(FromCheckpoint) },
      responses: { 201: json(Made, 'A new one with the files of the checkpoint.'), ...refusals },
    }),
    async (context) => {
      const asked = context.req.valid('json');
      expectServed(asked);
      const snapshot_id = context.req.valid('param').checkpoint_id;
      return context.json(await make(ground, context.get('caller').org, asked, { snapshot_id }), 201);
    },
  );
}

function mountList(api: Api, ground: Ground): void {
  const { runtime, admit, ports_url } = ground;
  api.openapi(
    createRoute({
      ...{ method: 'get', path: '/sandboxes', ...admit.org('read') },
      request: { query: ListQuery },
      responses: { 200: json(z.array(Sandbox), 'Newest first, without those that are gone.'), ...refusals },
    }),
    async (context) => {
      const { org } = context.get('caller');
      const states = await listComputers(runtime.database.db, org, context.req.valid('query'));
      const found = await withKeeping(runtime, org, states);
      const domain = domainOf(ports_url());
      return context.json(
        found.map(({ state, keeping }) => renderSandbox(state, keeping, domain)),
        200,
      );
    },
  );
}

function mountOne(api: Api, ground: Ground): void {
  const { runtime, computers, admit, ports_url } = ground;
  const path = '/sandboxes/{sandbox_id}';
  api.openapi(
    createRoute({
      ...{ method: 'get', path, ...admit.org('read') },
      request: { params: SandboxPath },
      responses: { 200: json(Sandbox, 'The sandbox; also one that is gone.'), ...refusals },
    }),
    async (context) => {
      const { org } = context.get('caller');
      const state = await findSandbox(ground, org, context.req.valid('param').sandbox_id);
      const [found] = await withKeeping(runtime, org, [state]);
      return context.json(renderSandbox(state, found!.keeping, domainOf(ports_url())), 200);
    },
  );

  api.openapi(
    createRoute({
      ...{ method: 'delete', path, ...admit.org('write') },
      request: { params: SandboxPath, query: KillQuery },
      responses: { 204: { description: 'Nothing of it is left.' }, ...refusals },
    }),
    async (context) => {
      if (context.req.valid('query').deleteSecretStore === 'true') throw notServed('secretStore');
      const state = await findSandbox(
        ground,
        context.get('caller').org,
        context.req.valid('param').sandbox_id,
      );
      await deleteComputer(computers, state);
      return context.body(null, 204);
    },
  );
}

type Asked = z.infer<typeof FromCheckpoint>;

async function make(
  { runtime, computers, ports_url }: Ground,
  org: string,
  asked: Asked,
  from: Pick<CreateComputer, 'image' | 'template_id' | 'snapshot_id'>,
): Promise<z.infer<typeof Made>> {
  const { cpuCount: vcpus, memoryMB: ram_mb, diskMB: disk_size_mb, envs: env, timeout } = asked;
  const token = tokenOf(asked.previewAuth);
  const keeping: Keeping = {
    idle_timeout_s: timeout,
    metadata: asked.metadata ?? null,
    preview_digest: token === undefined ? null : digest(token),
  };
  const wanted = { vcpus, ram_mb, disk_size_mb, ...from };
  const state: ComputerState = await createComputer(runtime, computers, org, wanted, { keeping, env });
  const made = renderSandbox(state, keeping, domainOf(ports_url()));
  return { ...made, ...(token !== undefined && { previewAuthToken: token }) };
}

/** @throws OverwinterError `invalid` */
function tokenOf(asked: z.infer<typeof PreviewAuth> | undefined): string | undefined {
  if (asked === undefined) return undefined;
  if (asked.token === 'auto') return makeToken();
  if (asked.token.length >= 16) return asked.token;
  throw new OverwinterError(
    'invalid',
    '"previewAuth.token": must be "auto" or have 16 characters at least',
    'previewAuth.token',
  );
}

/** What visitors of preview URLs bear. */
export function makeToken(): string {
  return randomBytes(TOKEN_BYTES).toString('base64url');
}

/** @throws OverwinterError `invalid` */
function templateOf({ runtime }: Ground, name: string): Pick<CreateComputer, 'image' | 'template_id'> {
  if (name === 'base' || name === 'default') return {};
  if (TEMPLATES.some(({ id }) => id === name)) return { template_id: name };
  const images = runtime.images.get(runtime.driver.name) ?? [];
  if (images.includes(name)) return { image: name };
  const known = ['base', ...TEMPLATES.map(({ id }) => id), ...images].join(', ');
  throw new OverwinterError(
    'invalid',
    `"templateID": there is no such template; there are: ${known}`,
    'templateID',
  );
}

/** @throws OverwinterError `not_supported` for what has no meaning here. */
function expectServed(asked: object): void {
  for (const [field, value] of Object.entries(asked)) {
    const asks = Array.isArray(value) ? value.length > 0 : Boolean(value);
    if (asks && Object.hasOwn(SENTENCES, field)) throw notServed(field);
  }
}

function notServed(field: string): OverwinterError {
  return new OverwinterError('not_supported', `"${field}": ${SENTENCES[field]}`, field);
}
