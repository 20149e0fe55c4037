/**
 * Every rule about what may be asked of a session, and what a command writes. Pure: state, command and time in; the
 * events to append, or a refusal, out. A finished model or tool outcome is never dropped.
 */
import { OverwinterError } from '../resource/error.ts';
import { COMPUTER_NOTE, TOOL_DEFINITIONS } from '../resource/tool.ts';
import { add, startChain, type Chain, type DraftOptions } from './chain.ts';
import type { Command, Input } from './command.ts';
import type { Draft } from './event.ts';
import type { Rules } from './rules.ts';
import type { SessionState } from './state.ts';
import { advance, beginTurn, modelFailed, modelResponded, toolsFinished } from './turn.ts';

/** @param now ms since the epoch, by the database's clock. */
export function decide(
  state: SessionState,
  command: Command,
  now: number,
  rules: Rules,
): Draft[] | OverwinterError {
  if (command.type !== 'create' && state.head === 0) {
    return new OverwinterError('not_found', 'no such session');
  }
  const chain = startChain(state, now);
  const refusal = apply(chain, command, rules);
  return refusal ?? chain.drafts;
}

function apply(chain: Chain, command: Command, rules: Rules): OverwinterError | undefined {
  switch (command.type) {
    case 'create':
      return create(chain, command);
    case 'message':
      return message(chain, command);
    case 'cancel':
      return requestCancel(chain, false);
    case 'archive':
      return archive(chain);
    case 'begin':
      beginTurn(chain, command.node, rules);
      return advance(chain, rules);
    case 'advance':
      return advance(chain, rules);
    case 'model_responded':
      modelResponded(chain, command, rules);
      return command.pause ? undefined : advance(chain, rules);
    case 'model_failed':
      modelFailed(chain, command, rules);
      return command.pause ? undefined : advance(chain, rules);
    case 'tools_finished':
      toolsFinished(chain, command.results);
      return command.pause ? undefined : advance(chain, rules);
    case 'computer_changed':
      add(chain, command.change.type, command.change.body);
      return undefined;
    default:
      return command satisfies never;
  }
}

function create(chain: Chain, command: Extract<Command, { type: 'create' }>): OverwinterError | undefined {
  if (chain.state.head > 0) return new OverwinterError('conflict', 'the session exists');
  const { agent, limits, credential_id, metadata, key, input } = command;
  add(chain, 'session.created', {
    agent,
    limits,
    credential_id,
    tools: TOOL_DEFINITIONS,
    system_note: COMPUTER_NOTE,
    metadata,
    key,
  });
  return message(chain, input);
}

function message(chain: Chain, input: Input): OverwinterError | undefined {
  if (chain.state.archived || chain.state.archive_after_turn) {
    return new OverwinterError('conflict', 'the session is archived and read-only');
  }
  const options: DraftOptions = { actor: input.actor, turn_id: null, source: input.source ?? 'client' };
  if (input.refs) options.refs = input.refs;
  if (input.idempotency_key !== undefined) options.idempotency_key = input.idempotency_key;
  const body = input.raw === undefined ? { text: input.text } : { text: input.text, raw: input.raw };
  add(chain, 'user.message', body, options);
  return undefined;
}

/** A cancel with nothing running, or asked twice, writes nothing and is fine. */
function requestCancel(chain: Chain, archiving: boolean): undefined {
  const turn = chain.state.turn;
  if (!turn) return undefined;
  if (turn.cancel_at !== null && !(archiving && !chain.state.archive_after_turn)) return undefined;
  add(chain, 'cancel.requested', { turn_id: turn.id, archive: archiving }, { actor: { type: 'human' } });
  return undefined;
}

/** With a turn active the archiving waits for its end, which the cancel bounds. */
function archive(chain: Chain): undefined {
  if (chain.state.archived) return undefined;
  if (chain.state.turn) return requestCancel(chain, true);
  add(chain, 'session.archived', {}, { actor: { type: 'human' } });
  return undefined;
}
