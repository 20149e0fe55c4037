/** Agents and their numbered revisions. An agent serves its newest revision; a revision never changes. */
import { sql } from 'kysely';
import type { Limits } from '../resource/limits.ts';
import type { NewCredential } from './credentials.ts';
import type { Db } from './ground/tables.ts';

/** What a session runs, as one revision: the digest is over both. */
export type Behavior = { prompt: string; prompt_hash: string; model: string; digest: string };

export type NewAgent = Behavior & {
  id: string;
  revision_id: string;
  name: string;
  runtime: string;
  credential_id: string | null;
  limits: Limits | null;
};

export type AgentRow = {
  id: string;
  name: string;
  runtime: string;
  prompt: string;
  prompt_hash: string;
  model: string;
  revision: number;
  revision_id: string;
  revision_digest: string;
  credential_id: string | null;
  limits: Limits | null;
  created_at: Date;
  updated_at: Date;
};

/**
 * Creates the agent, its first revision and, if it brings one, its credential: all or nothing. Returns false when the org has an
 * agent of that name, which a concurrent request may just have made.
 */
export async function insertAgent(
  db: Db,
  org: string,
  agent: NewAgent,
  credential: NewCredential | undefined,
): Promise<boolean> {
  const { id, name, runtime, prompt, prompt_hash, model, digest } = agent;
  const made = await sql<{ id: string }>`
    with made as (
      insert into agent (id, org, name, runtime, prompt, prompt_hash, model, revision, credential_id, limits)
      values (${id}, ${org}, ${name}, ${runtime}, ${prompt}, ${prompt_hash}, ${model}, 1, ${agent.credential_id},
        ${agent.limits && JSON.stringify(agent.limits)}::json)
      on conflict (org, name) do nothing
      returning id
    ), revised as (
      insert into revision (id, org, agent_id, number, digest, prompt, model)
      select ${agent.revision_id}, ${org}, id, 1, ${digest}, ${prompt}, ${model} from made
    ), keyed as (
      insert into credential (id, org, provider, name, last4, sealed)
      select ${credential?.id ?? null}, ${org}, ${credential?.provider ?? null}, ${credential?.name ?? null},
        ${credential?.last4 ?? null}, ${credential?.sealed ?? null}
      from made where ${credential?.id ?? null}::text is not null
    )
    select id from made`.execute(db);
  return made.rows.length > 0;
}

export async function getAgent(db: Db, org: string, id: string): Promise<AgentRow | undefined> {
  const row = await selectAgents(db, org).where('agent.id', '=', id).executeTakeFirst();
  return row && toAgent(row);
}

export async function findAgentByName(db: Db, org: string, name: string): Promise<AgentRow | undefined> {
  const row = await selectAgents(db, org).where('agent.name', '=', name).executeTakeFirst();
  return row && toAgent(row);
}

/** Newest first. @param cursor the id of the last agent of the previous page. */
export async function listAgents(
  db: Db,
  org: string,
  page: { limit: number; cursor?: string | undefined },
): Promise<AgentRow[]> {
  let query = selectAgents(db, org).orderBy('agent.id', 'desc').limit(page.limit);
  if (page.cursor !== undefined) query = query.where('agent.id', '<', page.cursor);
  return (await query.execute()).map(toAgent);
}

export type AgentChange = {
  /** Of a new revision, where prompt or model change. */
  behavior?: Behavior & { revision_id: string };
  credential_id?: string | null;
  limits?: Limits | null;
};

/**
 * Changes an agent and, with a new behavior, adds its next revision. Returns false when the agent is no longer at
 * `expected_revision`, so that of two concurrent edits none is lost unseen.
 */
export async function updateAgent(
  db: Db,
  org: string,
  id: string,
  expected_revision: number,
  change: AgentChange,
): Promise<boolean> {
  const { behavior, credential_id, limits } = change;
  const changed = await sql<{ id: string }>`
    with changed as (
      update agent set
        prompt = coalesce(${behavior?.prompt ?? null}, prompt),
        prompt_hash = coalesce(${behavior?.prompt_hash ?? null}, prompt_hash),
        model = coalesce(${behavior?.model ?? null}, model),
        revision = revision + ${behavior ? 1 : 0}::int,
        credential_id = case when ${credential_id !== undefined}::boolean then ${credential_id ?? null} else credential_id end,
        limits = case when ${limits !== undefined}::boolean then ${limits ? JSON.stringify(limits) : null}::json else limits end,
        updated_at = clock_timestamp()
      where org = ${org} and id = ${id} and revision = ${expected_revision}
      returning id, revision
    ), revised as (
      insert into revision (id, org, agent_id, number, digest, prompt, model)
      select ${behavior?.revision_id ?? null}, ${org}, id, revision, ${behavior?.digest ?? null},
        ${behavior?.prompt ?? null}, ${behavior?.model ?? null}
      from changed where ${behavior?.revision_id ?? null}::text is not null
    )
    select id from changed`.execute(db);
  return changed.rows.length > 0;
}

function selectAgents(db: Db, org: string) {
  return db
    .selectFrom('agent')
    .innerJoin('revision', (join) =>
      join.onRef('revision.agent_id', '=', 'agent.id').onRef('revision.number', '=', 'agent.revision'),
    )
    .select([
      'agent.id',
      'agent.name',
      'agent.runtime',
      'agent.prompt',
      'agent.prompt_hash',
      'agent.model',
      'agent.revision',
      'revision.id as revision_id',
      'revision.digest as revision_digest',
      'agent.credential_id',
      'agent.limits',
      'agent.created_at',
      'agent.updated_at',
    ])
    .where('agent.org', '=', org);
}

function toAgent(row: object): AgentRow {
  return row as AgentRow;
}
