/**
 * What people ask of a session as a whole: create it, speak to it, archive it, give a browser access to it. Every function takes
 * a session that its caller was found to own.
 */
import { createHash, randomBytes } from 'node:crypto';
import { providerModel, type AgentSnapshot } from '../resource/agent.ts';
import { canonicalJson } from '../resource/canonical-json.ts';
import { OverwinterError } from '../resource/error.ts';
import { mergeLimits, type Limits } from '../resource/limits.ts';
import { makeClientToken } from '../secret/key.ts';
import type { Input } from '../session/command.ts';
import { decide } from '../session/decide.ts';
import { emptyState, status, type SessionState, type SessionStatus } from '../session/state.ts';
import { getAgent, type AgentRow } from '../store/agents.ts';
import { insertClientToken, type Scope } from '../store/client-tokens.ts';
import { getCredential, getDefaultCredential } from '../store/credentials.ts';
import { findCreated, type CreateKey } from '../store/idempotency.ts';
import { createSession as insertSession } from '../store/sessions.ts';
import { prepareDestinations, type DestinationSpec } from './destinations.ts';
import type { Runtime } from './runtime.ts';
import { submit } from './submit.ts';

export type CreateParams = {
  agent: string;
  input: Input;
  /** `provider/model`, instead of the agent's. */
  model?: string | undefined;
  /** Get-or-create, per org. */
  key?: string | undefined;
  /** For creates without a key: the `Idempotency-Key` of the request. */
  idempotency_key?: string | undefined;
  metadata?: Record<string, unknown> | undefined;
  limits?: Limits | undefined;
  destinations?: DestinationSpec[] | undefined;
};

const PROVIDER = 'anthropic';
const ARCHIVE_WAIT_MS = 2000;
const TOKEN_TTL_S = { min: 60, default: 3600, max: 86_400 };

/**
 * Creates a session with its first input, or finds the one that an earlier create with the same key made (contract §5, §7.3). The
 * model, limits and credential are settled here, for the life of the session.
 * @throws OverwinterError `not_found` (agent), `invalid`, `no_credential`, `managed_unavailable`, `idempotency_conflict`.
 */
export async function createSession(
  runtime: Runtime,
  org: string,
  params: CreateParams,
): Promise<{ id: string; created: boolean }> {
  const { database, log, rules } = runtime;
  const create_key = createKey(params);
  const earlier = create_key && (await findCreated(database.db, org, create_key, 'key'));
  if (earlier) return { id: earlier, created: false };
  const agent = await getAgent(database.db, org, params.agent);
  if (!agent) throw new OverwinterError('not_found', 'no such agent', 'agent');
  const snapshot = snapshotOf(agent, params.model);
  const limits = mergeLimits(agent.limits, params.limits ?? null);
  const credential_id = await resolveCredential(runtime, org, agent);
  const id = runtime.newId('session');
  const { key = null, metadata = null, input, destinations = [] } = params;
  const now = runtime.now();
  const command = { type: 'create', agent: snapshot, limits, credential_id, metadata, key, input } as const;
  const drafts = decide(emptyState(id), command, now, rules);
  if (drafts instanceof OverwinterError) throw drafts;
  const { prompt: _, ...rest } = snapshot;
  const session = {
    id,
    org,
    agent_id: agent.id,
    key,
    credential_id,
    snapshot: rest,
    limits,
    metadata,
    create_key,
    destinations: await prepareDestinations(runtime, org, destinations),
    drafts,
  };
  const result = await insertSession(database, rules, session, now);
  if (!result.created) return result;
  log.adopt(org, { stream: id, ...result });
  await runtime.fail('session.created');
  return { id, created: true };
}

function createKey(params: CreateParams): CreateKey | null {
  const { key, idempotency_key, metadata: _, destinations: _ignored, ...body } = params;
  if (key === undefined && idempotency_key === undefined) return null;
  const { actor: _actor, ...input } = body.input;
  const body_sha256 = createHash('sha256')
    .update(canonicalJson({ ...body, input, key }))
    .digest();
  if (key !== undefined) return { route: 'sessions.key', key, body_sha256 };
  return { route: 'sessions', key: idempotency_key as string, body_sha256 };
}

function snapshotOf(agent: AgentRow, model_override: string | undefined): AgentSnapshot {
  const { id, name, prompt, prompt_hash, runtime, revision, limits } = agent;
  const model = model_override ?? agent.model;
  providerModel(model);
  return { agent_id: id, name, prompt, prompt_hash, model, runtime, revision, limits };
}

/** The agent's choice, else the org's default key, else the server's own (contract §7.3). */
async function resolveCredential(runtime: Runtime, org: string, agent: AgentRow): Promise<string> {
  const { db } = runtime.database;
  const managed = runtime.managed_key !== undefined;
  if (agent.credential_id === 'managed') {
    if (managed) return 'managed';
    throw new OverwinterError(
      'managed_unavailable',
      'this server has no model key of its own (ANTHROPIC_API_KEY)',
    );
  }
  const own = agent.credential_id === null ? undefined : await getCredential(db, org, agent.credential_id);
  if (own?.provider === PROVIDER) return own.id;
  const fallback = await getDefaultCredential(db, org, PROVIDER);
  if (fallback !== undefined) return fallback;
  if (managed) return 'managed';
  throw new OverwinterError(
    'no_credential',
    `there is no ${PROVIDER} key: give the agent one, set a default credential, or set ANTHROPIC_API_KEY on the server`,
  );
}

export type Sent = {
  replayed: boolean;
  event: { id: string; seq: number };
  session: { id: string; status: SessionStatus; head: number };
};

/**
 * Puts a message into the session; it never interrupts a running turn (contract §10). The same idempotency key with the same text
 * answers with the first event.
 * @throws OverwinterError `conflict` (archived), `idempotency_conflict`, `contended`, `unavailable`.
 */
export async function sendMessage(runtime: Runtime, session: string, input: Input): Promise<Sent> {
  const options = input.idempotency_key === undefined ? {} : { idempotency_key: input.idempotency_key };
  const { state, rows, replay } = await submit(runtime, session, { type: 'message', ...input }, options);
  if (replay && textOf(replay.body) !== input.text) {
    throw new OverwinterError(
      'idempotency_conflict',
      'the idempotency key was used with another text',
      'idempotency_key',
    );
  }
  const { id, seq } = replay ?? rows[0]!;
  const { head } = state;
  return {
    replayed: replay !== undefined,
    event: { id, seq },
    session: { id: session, status: status(state), head },
  };
}

function textOf(body: string): unknown {
  return (JSON.parse(body) as { text?: unknown }).text;
}

/** Ends the session for good (contract §13). With a turn active, waits a moment for its end; `archived` comes with it. */
export async function archiveSession(runtime: Runtime, session: string): Promise<void> {
  const { state } = await submit(runtime, session, { type: 'archive' });
  if (!state.archived) await waitFor(runtime, session, (state) => state.archived, ARCHIVE_WAIT_MS);
}

/** Resolves when the session's state satisfies, or after `timeout_ms` all the same. */
async function waitFor(
  runtime: Runtime,
  session: string,
  satisfies: (state: SessionState) => boolean,
  timeout_ms: number,
): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const check = async (): Promise<void> => {
    const state = await runtime.log.state(session).catch(() => undefined);
    if (state && satisfies(state)) resolve();
  };
  const timer = setTimeout(resolve, timeout_ms);
  const unwatch = runtime.follow.watch(session, () => void check());
  void check();
  await promise;
  clearTimeout(timer);
  unwatch();
}

/**
 * A new client token of the session (contract §2.4).
 * @param ttl_s is brought into 60..86,400; default 3,600.
 */
export async function mintClientToken(
  runtime: Runtime,
  { org, id: minted_by }: { org: string; id: string },
  session: string,
  wanted: { scopes?: Scope[] | undefined; ttl_s?: number | undefined } = {},
): Promise<{ id: string; token: string; scopes: Scope[]; expires_at: Date }> {
  const ttl_s = Math.round(
    Math.min(Math.max(wanted.ttl_s ?? TOKEN_TTL_S.default, TOKEN_TTL_S.min), TOKEN_TTL_S.max),
  );
  const scopes = [...new Set(wanted.scopes ?? (['read', 'steer'] as const))];
  const { token, digest } = makeClientToken(randomBytes);
  const id = runtime.newId('client_token');
  const expires_at = await insertClientToken(runtime.database.db, org, {
    id,
    session_id: session,
    digest,
    ...{ scopes, ttl_s, minted_by },
  });
  return { id, token, scopes, expires_at };
}
