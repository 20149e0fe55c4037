/** Sessions for tests of the store: created and spoken to without an engine. */
import type { Command } from '../../src/session/command.ts';
import { decide } from '../../src/session/decide.ts';
import { emptyState } from '../../src/session/state.ts';
import type { Database } from '../../src/store/ground/database.ts';
import { sessionKind } from '../../src/store/kind.ts';
import { createLog, type Log } from '../../src/store/log.ts';
import type { NewDestination } from '../../src/store/webhook/destinations.ts';
import { createSession } from '../../src/store/sessions.ts';
import { AGENT, RULES } from './walk.ts';

export const ORG = 'org_000000000000000000000001';
export const AGENT_ID = 'agt_000000000000000000000001';

/** Another view of the same database, as another node has it. */
export function newLog(database: Database): Log {
  const fail = (): Promise<void> => Promise.resolve();
  return createLog(sessionKind(RULES), { database, now: Date.now, fail, held_streams_max: 1000 });
}

/** @param number makes the id. */
export async function newSession(
  database: Database,
  log: Log,
  number: number,
  destinations: NewDestination[] = [],
): Promise<string> {
  const id = `ses_${number.toString(16).padStart(24, '0')}`;
  const drafts = decide(emptyState(id), CREATE, Date.now(), RULES);
  if (drafts instanceof Error) throw drafts;
  const session = {
    ...{ id, org: ORG, agent_id: AGENT_ID, key: null, credential_id: null },
    ...{ snapshot: AGENT, limits: {}, metadata: null, create_key: null, destinations, drafts },
  };
  const created = await createSession(database, RULES, session, Date.now());
  if (created.created) log.adopt(ORG, { stream: id, ...created });
  return id;
}

const CREATE: Command = {
  ...{ type: 'create', agent: AGENT, limits: {}, credential_id: null, metadata: null, key: null },
  input: { text: 'begin', actor: { type: 'human' } },
};

export function send(log: Log, id: string, text: string, idempotency_key?: string) {
  const command: Command = {
    ...{ type: 'message', text, actor: { type: 'human' } },
    ...(idempotency_key === undefined ? {} : { idempotency_key }),
  };
  const options = idempotency_key === undefined ? {} : { idempotency_key };
  return log.append(id, options, (state) => decide(state, command, Date.now(), RULES));
}

/** As a runner with this epoch. */
export function run(log: Log, id: string, epoch: number, command: Command) {
  return log.append(id, { epoch }, (state) => decide(state, command, Date.now(), RULES));
}
