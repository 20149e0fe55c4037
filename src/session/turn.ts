/**
 * What the runner's commands write: the start, the steps and the end of a turn. Every turn ends with exactly one
 * `turn.completed`, and nothing of the turn follows it.
 */
import { eventId, turnId } from '../resource/id.ts';
import type { ContentBlock, Usage } from '../resource/model.ts';
import { summarizeInput, type ToolOutcome } from '../resource/tool.ts';
import { add, type Chain } from './chain.ts';
import type { Command } from './command.ts';
import type { TurnError, YieldReason } from './event.ts';
import { stoppedShort } from './evolve.ts';
import { next } from './next.ts';
import type { Rules } from './rules.ts';
import { spoken } from './speak.ts';
import type { ActiveTurn } from './state.ts';
import { turnUsage } from './usage.ts';

/** Something may have been billed and nobody knows what: the sum that holds this is a lower bound. */
const UNKNOWN_USAGE: Usage = {
  input_tokens: 0,
  output_tokens: 0,
  cache_creation_input_tokens: 0,
  cache_read_input_tokens: 0,
  estimated: true,
};

const BACKOFF_MS = 1000;
const BACKOFF_MAX_MS = 30_000;

/**
 * Writes what `next` asks of the log, until it asks for something that only an engine can do. A new turn is left to the
 * next `begin`, which counts its attempt.
 */
export function advance(chain: Chain, rules: Rules): undefined {
  for (;;) {
    const step = next(chain.state, chain.now, rules);
    switch (step.do) {
      case 'end_turn':
        endTurn(chain, step.reason, step.error);
        break;
      case 'request_model':
        return requestModel(chain, step.max_tokens);
      case 'archive':
        add(chain, 'session.archived', {});
        return undefined;
      case 'start_turn':
      case 'wait':
      case 'call_model':
      case 'run_tools':
      case 'hibernate':
        return undefined;
      default:
        return step satisfies never;
    }
  }
}

/**
 * A runner takes the session. A turn that another runner left goes on from its last checkpoint: what was in flight has no known
 * outcome, is said to be interrupted, and a turn that keeps killing its runners is put aside.
 */
export function beginTurn(chain: Chain, node: string, rules: Rules): void {
  const resumed = chain.state.turn;
  if (!resumed && next(chain.state, chain.now, rules).do !== 'start_turn') return;
  if (!resumed) startTurn(chain);
  const turn = chain.state.turn as ActiveTurn;
  const interrupted = resumed ? wasInterrupted(resumed) : false;
  add(chain, 'turn.attempted', { turn_id: turn.id, attempt: turn.attempt + 1, interrupted, node });
  if (!interrupted) return;
  settleInterrupted(chain, turn);
  if (turn.interruptions + 1 < rules.interruptions_max || turn.cancel_at !== null) return;
  const message = `${rules.interruptions_max} runners died in this turn; it was put aside`;
  add(chain, 'error.runtime', { code: 'runner_lost', message, retriable: false });
  endTurn(chain, 'error', { code: 'runner_lost', message, retriable: false });
}

function startTurn(chain: Chain): void {
  const { input, head, id } = chain.state;
  const turn_id = turnId(id, head + 1);
  const body = { turn_id, input_from_seq: input.first_pending, input_to_seq: input.last };
  add(chain, 'turn.started', body, { turn_id });
}

function wasInterrupted(turn: ActiveTurn): boolean {
  return turn.step.at === 'requested' || turn.step.at === 'tools';
}

function settleInterrupted(chain: Chain, turn: ActiveTurn): void {
  if (turn.step.at === 'requested') {
    add(chain, 'model.failed', {
      request: turn.step.request,
      seen: chain.state.head,
      code: 'interrupted',
      message: 'The runner ended while the model was answering; the answer is lost.',
      reason: 'interrupted',
      usage: UNKNOWN_USAGE,
    });
  }
  if (turn.step.at !== 'tools') return;
  for (const call of turn.step.calls.filter((call) => !call.repeatable)) {
    add(chain, 'tool.finished', {
      call_id: call.call_id,
      tool: call.tool,
      outcome: 'unknown',
      content:
        'The runtime was interrupted during this call. It may or may not have taken effect; check before you repeat it.',
    });
  }
}

function requestModel(chain: Chain, max_tokens: number): undefined {
  const { head, requests, model } = chain.state;
  add(chain, 'model.requested', { request: requests + 1, seen: head, max_tokens, model });
  return undefined;
}

export function modelResponded(
  chain: Chain,
  command: Extract<Command, { type: 'model_responded' }>,
  rules: Rules,
): void {
  const { outcome, request, seen, duration_ms } = command;
  if (!isAwaited(chain, request)) return;
  const { message_id, model, content, stop_reason, usage, cut } = outcome;
  add(chain, 'model.responded', {
    request,
    seen,
    message_id,
    model,
    content,
    stop_reason,
    usage,
    cut,
    duration_ms,
  });
  if (stop_reason !== 'refusal') for (const block of content) narrate(chain, block);
  const turn = chain.state.turn;
  const calls = stop_reason !== 'refusal' && content.some((block) => block.type === 'tool_use');
  if (!turn || calls || turn.cancel_at !== null) return;
  endByStopReason(chain, turn, outcome, rules);
}

/** An outcome that is reported twice, because the first report seemed lost, is written once. */
function isAwaited(chain: Chain, request: number): boolean {
  const step = chain.state.turn?.step;
  return step?.at === 'requested' && step.request === request;
}

function narrate(chain: Chain, block: ContentBlock): void {
  if (block.type === 'text' && String(block['text']).trim() !== '') {
    add(chain, 'agent.message', { text: String(block['text']) }, { level: 'progress' });
  }
  if (block.type !== 'tool_use') return;
  const [call_id, tool] = [String(block['id']), String(block['name'])];
  const speech = spoken(block);
  if (!speech) {
    return add(chain, 'tool.call', { tool, args_summary: summarizeInput(tool, block['input']), call_id });
  }
  const { outcome, content, text, asks } = speech;
  if (text !== undefined) add(chain, 'agent.message', { text, ...(asks ? { awaiting_input: true } : {}) });
  add(chain, 'tool.finished', { call_id, tool, outcome, content });
}

/** A response without tool calls ends the turn, unless it only stopped short and may go on. */
function endByStopReason(
  chain: Chain,
  turn: ActiveTurn,
  outcome: { stop_reason: string; content: ContentBlock[] },
  rules: Rules,
): void {
  const { stop_reason, content } = outcome;
  if (stoppedShort(stop_reason)) {
    if (turn.continuations <= rules.continuations_max) return;
    return endTurn(chain, 'error', {
      code: stop_reason,
      message: `the model stopped short (${stop_reason}) ${turn.continuations} times in a row`,
      retriable: true,
    });
  }
  if (stop_reason === 'refusal') {
    const message = 'the model declined to answer';
    return endTurn(chain, 'error', { code: 'refusal', message, retriable: true });
  }
  if (stop_reason === 'model_context_window_exceeded') {
    const message = 'the conversation no longer fits the context window of the model';
    return endTurn(chain, 'error', { code: stop_reason, message, retriable: false });
  }
  endTurn(chain, 'completed', undefined, finalText(content));
}

/** The text of the last response, repeated to the user when the agent neither said nor asked anything. */
function finalText(content: ContentBlock[]): string {
  return content
    .filter((block) => block.type === 'text')
    .map((block) => String(block['text']))
    .filter((text) => text.trim() !== '')
    .join('\n\n');
}

export function modelFailed(
  chain: Chain,
  command: Extract<Command, { type: 'model_failed' }>,
  rules: Rules,
): void {
  const { outcome, request, seen, pause } = command;
  const turn = chain.state.turn;
  if (!turn || !isAwaited(chain, request)) return;
  const usage = outcome.usage ?? (outcome.reason === 'aborted' ? UNKNOWN_USAGE : undefined);
  const again = outcome.reason === 'transient' && turn.failures + 1 < rules.model_failures_max;
  const retry_at = pause ? chain.now : again ? chain.now + backoff(turn.failures, command) : undefined;
  add(chain, 'model.failed', {
    request,
    seen,
    code: outcome.code,
    message: outcome.message,
    reason: outcome.reason,
    ...(usage ? { usage } : {}),
    ...(retry_at === undefined ? {} : { retry_at }),
  });
  if (retry_at !== undefined || turn.cancel_at !== null || outcome.reason === 'aborted') return;
  const retriable = outcome.reason !== 'request';
  const { code, message } = outcome;
  add(chain, 'error.model', { code, message, retriable });
  endTurn(chain, 'error', { code, message, retriable });
}

function backoff(failures: number, command: Extract<Command, { type: 'model_failed' }>): number {
  const doubled = Math.min(BACKOFF_MS * 2 ** failures, BACKOFF_MAX_MS);
  const spread = doubled * (0.5 + command.jitter / 2);
  return Math.round(Math.max(spread, Math.min(command.outcome.retry_after_ms ?? 0, 10 * BACKOFF_MAX_MS)));
}

export function toolsFinished(chain: Chain, results: { call_id: string; result: ToolOutcome }[]): void {
  for (const { call_id, result } of results) {
    const turn = chain.state.turn;
    const call =
      turn?.step.at === 'tools' ? turn.step.calls.find((pending) => pending.call_id === call_id) : undefined;
    if (!call) continue;
    const { tool } = call;
    if (result.exec) add(chain, 'exec.completed', result.exec);
    add(chain, 'tool.finished', { call_id, tool, outcome: result.outcome, content: result.content });
  }
}

/**
 * Ends the active turn. Calls still open get their synthetic results here, in the same append, so that no request can ever be
 * built on a call without a result.
 * @param final_text the last response's text; goes to the user when nothing else did.
 */
function endTurn(chain: Chain, reason: YieldReason, error?: TurnError, final_text = ''): void {
  cancelOpenCalls(chain, reason);
  const turn = chain.state.turn;
  if (!turn) return;
  const usage = turnUsage(turn.usage);
  add(chain, 'agent.result', {
    subtype: reason === 'error' ? `error_${error?.code ?? 'unknown'}` : reason,
    num_turns: turn.requests,
    model: chain.state.model,
    is_error: reason === 'error',
    duration_ms: Math.round(chain.now - turn.started_at),
    duration_api_ms: Math.round(turn.model_ms),
    usage,
  });
  const silent = reason === 'completed' && turn.result_seq === null && final_text !== '';
  if (silent) add(chain, 'agent.message', { text: final_text });
  const result_seq = silent ? chain.state.head : turn.result_seq;
  add(chain, 'turn.completed', {
    turn_id: turn.id,
    yield_reason: reason,
    outcome: reason,
    ...(result_seq === null ? {} : { result_event_id: eventId(chain.state.id, result_seq) }),
    usage,
    ...(error ? { error } : {}),
  });
}

function cancelOpenCalls(chain: Chain, reason: YieldReason): void {
  const step = chain.state.turn?.step;
  if (step?.at === 'requested') {
    add(chain, 'model.failed', {
      request: step.request,
      seen: chain.state.head,
      code: 'aborted',
      message: `the turn ended (${reason}) before the model had answered`,
      reason: 'aborted',
      usage: UNKNOWN_USAGE,
    });
  }
  if (step?.at !== 'tools') return;
  for (const call of step.calls) {
    add(chain, 'tool.finished', {
      call_id: call.call_id,
      tool: call.tool,
      outcome: 'canceled',
      content: `Not finished: the turn was ended (${reason}). If the call had begun, it may have taken effect in part.`,
    });
  }
}
