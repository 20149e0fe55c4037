/** Sessions: create, list, read, cancel, archive, result (contract §7.2, §13). Org keys only. */
import { createRoute, z } from '@hono/zod-openapi';
import { archiveSession, createSession, mintClientToken } from '../../engine/sessions.ts';
import type { DestinationSpec } from '../../engine/destinations.ts';
import type { Runtime } from '../../engine/runtime.ts';
import { submit } from '../../engine/submit.ts';
import { OverwinterError } from '../../resource/error.ts';
import { DESTINATIONS_MAX } from '../../resource/destination.ts';
import { Limits } from '../../resource/limits.ts';
import { getSession, listSessions } from '../../store/sessions.ts';
import { body, idCursor, json, limit, nextCursor, text, TimeQuery, type Api } from '../api.ts';
import type { Admit } from '../auth.ts';
import { problems } from '../error.ts';
import { renderSession, Session } from '../wire.ts';
import { DestinationFields } from './destinations.ts';
import { Envelope, InputText, toInput } from './input.ts';

const METADATA_BYTES_MAX = 16 * 1024;

const Metadata = z
  .record(z.string(), z.unknown())
  .refine(
    (value) => Buffer.byteLength(JSON.stringify(value)) <= METADATA_BYTES_MAX,
    'exceeds 16 KiB as JSON',
  );

const Unsupported = z.array(z.unknown()).optional();

const CreateSession = z
  .object({
    agent: text(256),
    input: z.union([InputText, Envelope]),
    model: text(256).optional(),
    key: text(256).min(1).optional(),
    metadata: Metadata.nullish(),
    limits: Limits.nullish(),
    webhook: z
      .string()
      .max(2048)
      .nullish()
      .openapi({ description: 'A URL: one destination with all defaults, before the first event.' }),
    destinations: z.array(DestinationFields).max(DESTINATIONS_MAX).nullish(),
    sources: Unsupported.openapi({ description: 'Not served: refused with `sources_not_supported`.' }),
  })
  .openapi('CreateSession', {
    example: {
      agent: 'agt_000000000000000000000000',
      input: 'How many primes are there below 100?',
      metadata: { ticket: 42 },
      limits: { tokens: 200_000 },
    },
  });

const Created = z.object({ session: Session, client_token: z.string() });
const SessionPath = z.object({ session_id: z.string() });
const Affected = z.object({ session: Session });

const ListQuery = z.object({
  status: Session.shape.status.optional(),
  agent: text(256).optional(),
  key: text(256).optional(),
  after: TimeQuery.optional().openapi({ description: 'Created after this time.' }),
  before: TimeQuery.optional().openapi({ description: 'Created before this time.' }),
  limit: limit(50, 100),
  cursor: idCursor('ses_'),
});

export function mountSessions(api: Api, runtime: Runtime, admit: Admit): void {
  mountCreate(api, runtime, admit);
  mountReads(api, runtime, admit);
  mountEnds(api, runtime, admit);
}

function mountCreate(api: Api, runtime: Runtime, admit: Admit): void {
  api.openapi(
    createRoute({
      method: 'post',
      path: '/sessions',
      ...admit.org('write'),
      request: {
        ...body(CreateSession),
        headers: z.object({ 'idempotency-key': text(256).min(1).optional() }),
      },
      responses: {
        200: json(Created, 'A replay: the session that an earlier request made.'),
        201: json(Created, 'The session, with its first turn queued.'),
        ...problems,
      },
    }),
    async (context) => {
      const request = context.req.valid('json');
      refuseUnsupported(request);
      const caller = context.get('caller');
      const { input, metadata, limits, agent, model, key } = request;
      const made = await createSession(runtime, caller.org, {
        ...{ agent, model, key, idempotency_key: context.req.valid('header')['idempotency-key'] },
        input: toInput(typeof input === 'string' ? { text: input } : input, caller),
        metadata: metadata ?? undefined,
        limits: limits ?? undefined,
        destinations: destinationsOf(request),
      });
      const { token } = await mintClientToken(runtime, caller, made.id);
      const session = await wireSession(runtime, caller.org, made.id);
      return context.json({ session, client_token: token }, made.created ? 201 : 200);
    },
  );
}

function mountReads(api: Api, runtime: Runtime, admit: Admit): void {
  api.openapi(
    createRoute({
      method: 'get',
      path: '/sessions',
      ...admit.org('read'),
      request: { query: ListQuery },
      responses: {
        200: json(z.object({ data: z.array(Session), next_cursor: z.string().nullable() }), 'Newest first.'),
        ...problems,
      },
    }),
    async (context) => {
      const { after, before, ...filter } = context.req.valid('query');
      const rows = await listSessions(runtime.database.db, context.get('caller').org, {
        ...filter,
        after,
        before,
      });
      return context.json(
        { data: rows.map(renderSession), next_cursor: nextCursor(rows, filter.limit) },
        200,
      );
    },
  );

  api.openapi(
    createRoute({
      method: 'get',
      path: '/sessions/{session_id}',
      ...admit.session('read'),
      request: { params: SessionPath },
      responses: { 200: json(Session, 'The session.'), ...problems },
    }),
    (context) => context.json(renderSession(context.get('session')), 200),
  );

  api.openapi(
    createRoute({
      method: 'get',
      path: '/sessions/{session_id}/sources',
      ...admit.session('read'),
      request: { params: SessionPath },
      responses: { 200: json(z.array(z.object({ name: z.string() })), 'Always empty.'), ...problems },
    }),
    (context) => context.json([], 200),
  );
}

function mountEnds(api: Api, runtime: Runtime, admit: Admit): void {
  api.openapi(
    createRoute({
      method: 'post',
      path: '/sessions/{session_id}/cancel',
      ...admit.session('write'),
      request: { params: SessionPath },
      responses: {
        202: json(Affected, 'The active turn, if any, ends at its next checkpoint.'),
        ...problems,
      },
    }),
    async (context) => {
      const { id } = context.get('session');
      await submit(runtime, id, { type: 'cancel' });
      return context.json({ session: await wireSession(runtime, context.get('caller').org, id) }, 202);
    },
  );

  api.openapi(
    createRoute({
      method: 'post',
      path: '/sessions/{session_id}/archive',
      ...admit.session('write'),
      request: { params: SessionPath },
      responses: {
        202: json(Affected, 'Archived, or about to be once the active turn has ended.'),
        ...problems,
      },
    }),
    async (context) => {
      const { id } = context.get('session');
      await archiveSession(runtime, id);
      return context.json({ session: await wireSession(runtime, context.get('caller').org, id) }, 202);
    },
  );
}

function refuseUnsupported(request: z.infer<typeof CreateSession>): void {
  if (request.sources !== undefined && request.sources.length > 0) {
    throw new OverwinterError('sources_not_supported', 'this server checks out no sources', 'sources');
  }
}

/** Those of the request, and the one that the shorthand `webhook` stands for. */
function destinationsOf({ webhook, destinations }: z.infer<typeof CreateSession>): DestinationSpec[] {
  const named = (destinations ?? []).map((spec, index) => ({ ...spec, param: `destinations.${index}.url` }));
  if (webhook === undefined || webhook === null) return named;
  if (named.length >= DESTINATIONS_MAX)
    throw new OverwinterError('invalid', `with "webhook" there are over ${DESTINATIONS_MAX}`, 'destinations');
  return [...named, { ...DestinationFields.parse({ url: webhook }), param: 'webhook' }];
}

async function wireSession(runtime: Runtime, org: string, id: string): Promise<z.infer<typeof Session>> {
  const row = await getSession(runtime.database.db, org, id);
  if (!row) throw new OverwinterError('not_found', 'no such session');
  return renderSession(row);
}
