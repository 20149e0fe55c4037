/**
 * Destinations of webhooks: of one session, as the contract has them (§12.1), and, beyond it, of an agent or of the whole org. The
 * routes are the same below each of the three.
 */
import { createRoute, z } from '@hono/zod-openapi';
import type { Context } from 'hono';
import {
  changeDestination,
  createDestination,
  findDestination,
  replayToDestination,
  testDestination,
} from '../../engine/destinations.ts';
import type { Runtime } from '../../engine/runtime.ts';
import {
  DestinationLevel,
  TESTS_AT_ONCE_MAX,
  TypePatterns,
  type DestinationScope,
} from '../../resource/destination.ts';
import { OverwinterError } from '../../resource/error.ts';
import { isId } from '../../resource/id.ts';
import { getAgent } from '../../store/agents.ts';
import { listDeliveries } from '../../store/webhook/deliveries.ts';
import {
  deleteDestination,
  listDestinations,
  type DestinationRow,
} from '../../store/webhook/destinations.ts';
import { getSession, type SessionRow } from '../../store/sessions.ts';
import { body, json, nextCursor, type Api } from '../api.ts';
import type { Admit } from '../auth.ts';
import type { Caller } from '../authorize.ts';
import { problems } from '../error.ts';
import { Time } from '../wire.ts';
import { DeliveryPage, DeliveryQuery, renderDelivery } from './deliveries.ts';

const Secret = z
  .string()
  .min(1)
  .max(256)
  .regex(/^[\x20-\x7e]+$/, 'must be printable ASCII')
  .openapi({ description: '`whsec_<base64>` as Standard Webhooks has it, or any text. Never shown again.' });

/** What may be said of a destination when it is made; the contract's defaults. */
export const DestinationFields = z.object({
  url: z.string().max(2048),
  level: DestinationLevel.default('user'),
  types: TypePatterns.default(null),
  include_raw: z.boolean().default(false),
  enabled: z.boolean().default(true),
  secret: Secret.nullish().openapi({
    description: 'Signs what is sent; without it deliveries are unsigned.',
  }),
});

const CreateDestination = DestinationFields.openapi('CreateDestination', {
  example: {
    url: 'https://example.com/hook',
    secret: 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw',
    types: ['turn.*'],
  },
});

const UpdateDestination = z
  .object({
    url: z.string().max(2048).optional(),
    level: DestinationLevel.optional(),
    types: TypePatterns.optional(),
    include_raw: z.boolean().optional(),
    enabled: z.boolean().optional(),
    secret: Secret.nullable().optional().openapi({
      description: 'Rotates: for a day the old one signs beside the new. Null: unsigned from now on.',
    }),
  })
  .openapi('UpdateDestination', { example: { level: 'progress', types: null } });

const Destination = z
  .object({
    id: z.string(),
    session: z.string().nullable(),
    agent: z.string().nullable(),
    kind: z.literal('webhook'),
    url: z.string(),
    level: DestinationLevel,
    types: z.array(z.string()).nullable(),
    include_raw: z.boolean(),
    enabled: z.boolean(),
    has_secret: z.boolean(),
    created_after_seq: z.int(),
    endpoint: z
      .object({ origin: z.string(), failures: z.int(), held_until: Time.nullable() })
      .openapi({ description: 'How the receiver fares: failures in a row, and until when it is spared.' }),
    created_at: Time,
    updated_at: Time,
  })
  .openapi('Destination');

function renderDestination(row: DestinationRow): z.infer<typeof Destination> {
  const { id, stream, agent_id, url, level, types, include_raw, enabled, has_secret } = row;
  return {
    ...{ id, session: stream, agent: agent_id, kind: 'webhook', url, level, types, include_raw, enabled },
    ...{ has_secret, created_after_seq: row.created_after_seq },
    endpoint: {
      origin: row.origin,
      failures: row.failures,
      held_until: row.open_until?.toISOString() ?? null,
    },
    created_at: row.created_at.toISOString(),
    updated_at: row.updated_at.toISOString(),
  };
}

const TestResult = z
  .object({
    ok: z.boolean(),
    response_code: z.int().nullable(),
    response_body: z.string().nullable(),
    error: z.string().nullable(),
  })
  .openapi('DestinationTest');

const Replay = z
  .object({
    from_seq: z.int().min(1).max(Number.MAX_SAFE_INTEGER).default(1),
    session: z
      .string()
      .optional()
      .openapi({ description: 'Whose events; below a session it is that session.' }),
  })
  .openapi('ReplayEvents', { example: { from_seq: 1, session: 'ses_000000000000000000000000' } });

const Replayed = z.object({
  queued: z.int().openapi({ description: 'How many deliveries are due by it.' }),
  next_seq: z
    .int()
    .nullable()
    .openapi({ description: 'Where to go on, when one call did not reach the newest event.' }),
});

/** Where destinations are, whose they are there, and who may ask. */
type Place = {
  path: string;
  params: z.ZodObject;
  admission: (scope: 'read' | 'write') => ReturnType<Admit['org']>;
  scope: (context: Context, org: string) => Promise<DestinationScope>;
};

export function mountDestinations(api: Api, runtime: Runtime, admit: Admit): void {
  const places: Place[] = [
    {
      path: '/sessions/{session_id}/destinations',
      params: z.object({ session_id: z.string() }),
      // What it sets besides the caller only `scope` reads.
      admission: (scope) => admit.session(scope) as unknown as ReturnType<Admit['org']>,
      scope: (context) =>
        Promise.resolve({ kind: 'session', stream: (context.get('session') as SessionRow).id }),
    },
    {
      path: '/agents/{agent_id}/destinations',
      params: z.object({ agent_id: z.string() }),
      admission: (scope) => admit.org(scope),
      scope: async (context, org) => {
        const id = context.req.param('agent_id') ?? '';
        const agent = isId('agent', id) ? await getAgent(runtime.database.db, org, id) : undefined;
        if (!agent) throw new OverwinterError('not_found', 'no such agent');
        return { kind: 'agent', agent_id: agent.id };
      },
    },
    {
      path: '/destinations',
      params: z.object({}),
      admission: (scope) => admit.org(scope),
      scope: () => Promise.resolve({ kind: 'org' }),
    },
  ];
  const oneTest = boundTests();
  for (const place of places) {
    mountList(api, runtime, place);
    mountOne(api, runtime, place);
    mountTest(api, runtime, place, oneTest);
    mountUses(api, runtime, place);
  }
}

async function asked(
  context: Context,
  place: Place,
): Promise<{ org: string; scope: DestinationScope; id: string }> {
  const { org } = context.get('caller') as Caller;
  return { org, scope: await place.scope(context, org), id: context.req.param('destination_id') ?? '' };
}

function mountList(api: Api, runtime: Runtime, place: Place): void {
  const { path, params, admission } = place;
  api.openapi(
    createRoute({
      method: 'post',
      path,
      ...admission('write'),
      request: { params, ...body(CreateDestination) },
      responses: { 201: json(Destination, 'The destination. It gets the events that follow.'), ...problems },
    }),
    async (context) => {
      const { org, scope } = await asked(context, place);
      const made = await createDestination(runtime, org, scope, context.req.valid('json'));
      return context.json(renderDestination(made), 201);
    },
  );

  api.openapi(
    createRoute({
      method: 'get',
      path,
      ...admission('read'),
      request: { params },
      responses: {
        200: json(
          z.object({ data: z.array(Destination), next_cursor: z.null() }),
          'All of them, newest first.',
        ),
        ...problems,
      },
    }),
    async (context) => {
      const { org, scope } = await asked(context, place);
      const rows = await listDestinations(runtime.database.db, org, scope);
      return context.json({ data: rows.map(renderDestination), next_cursor: null }, 200);
    },
  );
}

function mountOne(api: Api, runtime: Runtime, place: Place): void {
  const { admission } = place;
  const path = `${place.path}/{destination_id}`;
  const params = place.params.extend({ destination_id: z.string() });
  api.openapi(
    createRoute({
      method: 'get',
      path,
      ...admission('read'),
      request: { params },
      responses: { 200: json(Destination, 'The destination.'), ...problems },
    }),
    async (context) => {
      const { org, scope, id } = await asked(context, place);
      return context.json(renderDestination(await findDestination(runtime, org, scope, id)), 200);
    },
  );

  api.openapi(
    createRoute({
      method: 'patch',
      path,
      ...admission('write'),
      request: { params, ...body(UpdateDestination) },
      responses: { 200: json(Destination, 'The destination as it is now.'), ...problems },
    }),
    async (context) => {
      const { org, scope, id } = await asked(context, place);
      const changed = await changeDestination(runtime, org, scope, id, context.req.valid('json'));
      return context.json(renderDestination(changed), 200);
    },
  );

  api.openapi(
    createRoute({
      method: 'delete',
      path,
      ...admission('write'),
      request: { params },
      responses: { 204: { description: 'Gone. What it was still owed is given up.' }, ...problems },
    }),
    async (context) => {
      const { org, scope, id } = await asked(context, place);
      await findDestination(runtime, org, scope, id);
      await deleteDestination(runtime.database.db, org, scope, id);
      return context.body(null, 204);
    },
  );
}

function mountTest(api: Api, runtime: Runtime, place: Place, oneTest: OneTest): void {
  const { admission } = place;
  const path = `${place.path}/{destination_id}`;
  const params = place.params.extend({ destination_id: z.string() });
  api.openapi(
    createRoute({
      method: 'post',
      path: `${path}/test`,
      ...admission('write'),
      request: { params },
      responses: { 200: json(TestResult, 'What the receiver made of a `webhook.test`.'), ...problems },
    }),
    async (context) => {
      const { org, scope, id } = await asked(context, place);
      const destination = await findDestination(runtime, org, scope, id);
      return context.json(await oneTest(org, () => testDestination(runtime, destination)), 200);
    },
  );
}

type OneTest = <T>(org: string, test: () => Promise<T>) => Promise<T>;

/** A test may take half a minute of somebody's server: an org has few under way on a node. */
function boundTests(): OneTest {
  const under_way = new Map<string, number>();
  return async (org, test) => {
    const count = under_way.get(org) ?? 0;
    if (count >= TESTS_AT_ONCE_MAX) throw new OverwinterError('rate_limited', 'too many tests are under way');
    under_way.set(org, count + 1);
    try {
      return await test();
    } finally {
      const left = under_way.get(org)! - 1;
      if (left === 0) under_way.delete(org);
      else under_way.set(org, left);
    }
  };
}

function mountUses(api: Api, runtime: Runtime, place: Place): void {
  const { admission } = place;
  const path = `${place.path}/{destination_id}`;
  const params = place.params.extend({ destination_id: z.string() });
  api.openapi(
    createRoute({
      method: 'post',
      path: `${path}/replay`,
      ...admission('write'),
      request: { params, ...body(Replay) },
      responses: { 202: json(Replayed, 'The events that it wants are due again.'), ...problems },
    }),
    async (context) => {
      const { org, scope, id } = await asked(context, place);
      const destination = await findDestination(runtime, org, scope, id);
      const { from_seq, session } = context.req.valid('json');
      const whose = await sessionOf(runtime, org, scope, session);
      return context.json(await replayToDestination(runtime, destination, whose, from_seq), 202);
    },
  );

  api.openapi(
    createRoute({
      method: 'get',
      path: `${path}/deliveries`,
      ...admission('read'),
      request: { params, query: DeliveryQuery.omit({ destination: true }) },
      responses: { 200: json(DeliveryPage, 'Newest first.'), ...problems },
    }),
    async (context) => {
      const { org, scope, id } = await asked(context, place);
      await findDestination(runtime, org, scope, id);
      const filter = context.req.valid('query');
      const rows = await listDeliveries(runtime.database.db, org, null, { ...filter, destination: id });
      return context.json(
        { data: rows.map(renderDelivery), next_cursor: nextCursor(rows, filter.limit) },
        200,
      );
    },
  );
}

/** The session whose events are replayed: the path's, or the named one, if the destination is for it. */
async function sessionOf(
  runtime: Runtime,
  org: string,
  scope: DestinationScope,
  named: string | undefined,
): Promise<SessionRow> {
  const id = scope.kind === 'session' ? scope.stream : named;
  if (id === undefined) throw new OverwinterError('invalid', '"session" is needed: whose events', 'session');
  const session = isId('session', id) ? await getSession(runtime.database.db, org, id) : undefined;
  if (!session || (scope.kind === 'agent' && session.agent_id !== scope.agent_id))
    throw new OverwinterError('not_found', 'no such session', 'session');
  return session;
}
