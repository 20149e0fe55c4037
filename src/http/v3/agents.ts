/** Agents: create by name, read, change (contract §15.1). A change never reaches a session that exists. Org keys only. */
import { createHash } from 'node:crypto';
import { isDeepStrictEqual } from 'node:util';
import { createRoute, z } from '@hono/zod-openapi';
import type { Runtime } from '../../engine/runtime.ts';
import { providerModel } from '../../resource/agent.ts';
import { OverwinterError } from '../../resource/error.ts';
import { Limits, mergeLimits } from '../../resource/limits.ts';
import {
  findAgentByName,
  getAgent,
  insertAgent,
  listAgents,
  updateAgent,
  type AgentChange,
  type AgentRow,
  type Behavior,
} from '../../store/agents.ts';
import { getCredential, insertCredential, rotateCredential } from '../../store/credentials.ts';
import { body, idCursor, json, limit, page, renderPage, text, type Api } from '../api.ts';
import type { Admit } from '../auth.ts';
import { demand } from '../authorize.ts';
import { problems } from '../error.ts';
import { Agent, renderAgent } from '../wire.ts';
import { Key, newCredential, sealKey } from './credentials.ts';

const PROVIDER = 'anthropic';
const PROMPT_CHARACTERS_MAX = 1_000_000;

const Prompt = text(PROMPT_CHARACTERS_MAX).min(1);
const CredentialChoice = text(256).openapi({ description: '`managed` or a `cred_…` id.' });

const CreateAgent = z
  .object({
    name: text(256).min(1),
    prompt: Prompt,
    model: text(256),
    runtime: z.string().default('claude'),
    key: Key.optional(),
    credential: CredentialChoice.nullish(),
    limits: Limits.nullish(),
  })
  .openapi('CreateAgent', {
    example: { name: 'counter', prompt: 'You are a careful programmer.', model: 'anthropic/claude-sonnet-5' },
  });
type CreateAgent = z.infer<typeof CreateAgent>;

const UpdateAgent = z
  .object({
    prompt: Prompt.optional(),
    model: text(256).optional(),
    runtime: z.string().optional(),
    key: Key.optional(),
    credential: CredentialChoice.nullish(),
    limits: Limits.nullish(),
  })
  .openapi('UpdateAgent', {
    example: { prompt: 'You are a careful programmer. Be brief.', limits: { turn_seconds: 600 } },
  });
type UpdateAgent = z.infer<typeof UpdateAgent>;

const AgentPath = z.object({ agent_id: text(256) });

export function mountAgents(api: Api, runtime: Runtime, admit: Admit): void {
  api.openapi(
    createRoute({
      method: 'post',
      path: '/agents',
      ...admit.org('write'),
      request: body(CreateAgent),
      responses: {
        200: json(Agent, 'The agent of that name, which has the same configuration.'),
        201: json(Agent, 'The new agent.'),
        ...problems,
      },
    }),
    async (context) => {
      const caller = context.get('caller');
      const wanted = context.req.valid('json');
      // An inline key is a credential that is written.
      if (wanted.key !== undefined) demand(caller, 'admin');
      const { created, agent } = await create(runtime, caller.org, wanted);
      return context.json(renderAgent(agent), created ? 201 : 200);
    },
  );

  api.openapi(
    createRoute({
      method: 'get',
      path: '/agents',
      ...admit.org('read'),
      request: { query: z.object({ limit: limit(50, 100), cursor: idCursor('agt_') }) },
      responses: {
        200: json(page(Agent), 'Newest first.'),
        ...problems,
      },
    }),
    async (context) => {
      const query = context.req.valid('query');
      const rows = await listAgents(runtime.database.db, context.get('caller').org, query);
      return context.json(renderPage(rows.map(renderAgent), query.limit), 200);
    },
  );

  api.openapi(
    createRoute({
      method: 'get',
      path: '/agents/{agent_id}',
      ...admit.org('read'),
      request: { params: AgentPath },
      responses: { 200: json(Agent, 'The agent.'), ...problems },
    }),
    async (context) => {
      const agent = await agentOf(runtime, context.get('caller').org, context.req.valid('param').agent_id);
      return context.json(renderAgent(agent), 200);
    },
  );

  api.openapi(
    createRoute({
      method: 'patch',
      path: '/agents/{agent_id}',
      ...admit.org('write'),
      request: { params: AgentPath, ...body(UpdateAgent) },
      responses: { 200: json(Agent, 'The agent as it is now.'), ...problems },
    }),
    async (context) => {
      const caller = context.get('caller');
      const { agent_id } = context.req.valid('param');
      const wanted = context.req.valid('json');
      if (wanted.key !== undefined) demand(caller, 'admin');
      return context.json(renderAgent(await change(runtime, caller.org, agent_id, wanted)), 200);
    },
  );
}

/** Idempotent by name: an inline key counts only when the agent is new. */
async function create(
  runtime: Runtime,
  org: string,
  wanted: CreateAgent,
): Promise<{ created: boolean; agent: AgentRow }> {
  const { db } = runtime.database;
  const { name, prompt, model, limits, key } = wanted;
  requireRuntime(wanted.runtime);
  providerModel(model);
  await requireCredential(runtime, org, wanted);
  const earlier = await findAgentByName(db, org, name);
  if (earlier) return { created: false, agent: sameOrConflict(earlier, wanted) };
  const credential =
    key === undefined ? undefined : newCredential(runtime, org, { provider: PROVIDER, key, name });
  const agent = {
    ...{ id: runtime.newId('agent'), revision_id: runtime.newId('revision'), name, runtime: wanted.runtime },
    ...behaviorOf(prompt, model),
    credential_id: credential?.id ?? wanted.credential ?? null,
    limits: limits ?? null,
  };
  const created = await insertAgent(db, org, agent, credential);
  const stored = await findAgentByName(db, org, name);
  if (!stored) throw new OverwinterError('contended', 'the agent was changed at the same time; try again');
  return { created, agent: created ? stored : sameOrConflict(stored, wanted) };
}

async function change(runtime: Runtime, org: string, id: string, wanted: UpdateAgent): Promise<AgentRow> {
  const agent = await agentOf(runtime, org, id);
  if (wanted.runtime !== undefined && wanted.runtime !== agent.runtime) {
    throw new OverwinterError('invalid', 'the runtime of an agent never changes', 'runtime');
  }
  if (wanted.model !== undefined) providerModel(wanted.model);
  await requireCredential(runtime, org, wanted);
  const behavior = behaviorOf(wanted.prompt ?? agent.prompt, wanted.model ?? agent.model);
  const changed: AgentChange = {
    ...(behavior.digest === agent.revision_digest
      ? {}
      : { behavior: { ...behavior, revision_id: runtime.newId('revision') } }),
    ...(wanted.credential === undefined ? {} : { credential_id: wanted.credential }),
    ...(wanted.limits === undefined ? {} : { limits: wanted.limits }),
    ...(wanted.key === undefined ? {} : { credential_id: await putKey(runtime, org, agent, wanted.key) }),
  };
  if (await updateAgent(runtime.database.db, org, id, agent.revision, changed))
    return await agentOf(runtime, org, id);
  throw new OverwinterError('contended', 'the agent was changed at the same time; try again');
}

/** Rotates the agent's own credential, or gives it one. Returns the credential's id. */
async function putKey(runtime: Runtime, org: string, agent: AgentRow, key: string): Promise<string> {
  const { db } = runtime.database;
  if (agent.credential_id !== null && agent.credential_id !== 'managed') {
    const sealed = sealKey(runtime, org, agent.credential_id, key);
    const rotated = await rotateCredential(db, org, agent.credential_id, sealed);
    if (rotated) return rotated.id;
  }
  const fresh = newCredential(runtime, org, { provider: PROVIDER, key, name: agent.name });
  return (await insertCredential(db, org, fresh)).id;
}

async function agentOf(runtime: Runtime, org: string, id: string): Promise<AgentRow> {
  const agent = await getAgent(runtime.database.db, org, id);
  if (!agent) throw new OverwinterError('not_found', 'no such agent');
  return agent;
}

function requireRuntime(name: string): void {
  if (name === 'claude') return;
  throw new OverwinterError('runtime_unavailable', 'this server runs "claude" only', 'runtime');
}

async function requireCredential(runtime: Runtime, org: string, wanted: UpdateAgent): Promise<void> {
  const { key, credential } = wanted;
  if (credential === undefined || credential === null) return;
  if (key !== undefined)
    throw new OverwinterError('invalid', 'give either "key" or "credential"', 'credential');
  if (credential === 'managed') return;
  const row = await getCredential(runtime.database.db, org, credential);
  if (row?.provider === PROVIDER) return;
  // Not said back: it may be a key, put there by mistake.
  throw new OverwinterError('invalid', `there is no such ${PROVIDER} credential`, 'credential');
}

function behaviorOf(prompt: string, model: string): Behavior {
  const digest = sha256(JSON.stringify([prompt, model]));
  return { prompt, prompt_hash: sha256(prompt), model, digest };
}

function sha256(text: string): string {
  return createHash('sha256').update(text, 'utf8').digest('hex');
}

function sameOrConflict(agent: AgentRow, wanted: CreateAgent): AgentRow {
  const { prompt, model, runtime, key, credential, limits } = wanted;
  const same =
    agent.prompt === prompt &&
    agent.model === model &&
    agent.runtime === runtime &&
    isDeepStrictEqual(mergeLimits(agent.limits, null), mergeLimits(limits ?? null, null)) &&
    (key !== undefined || agent.credential_id === (credential ?? null));
  if (same) return agent;
  throw new OverwinterError('conflict', 'an agent of this name exists with another configuration', 'name');
}
