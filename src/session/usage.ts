/** Token counts, summed. The four components are disjoint; `tokens` is their sum (contract §11.2). */
import type { Usage } from '../resource/model.ts';
import type { TurnUsage } from './event.ts';

/** `complete` turns false once an estimated count is in the sum: it is then a lower bound. */
export type UsageSum = {
  input_tokens: number;
  output_tokens: number;
  cache_creation_input_tokens: number;
  cache_read_input_tokens: number;
  complete: boolean;
};

export const NO_USAGE: UsageSum = {
  input_tokens: 0,
  output_tokens: 0,
  cache_creation_input_tokens: 0,
  cache_read_input_tokens: 0,
  complete: true,
};

export function addUsage(sum: UsageSum, usage: Usage): UsageSum {
  return {
    input_tokens: sum.input_tokens + usage.input_tokens,
    output_tokens: sum.output_tokens + usage.output_tokens,
    cache_creation_input_tokens: sum.cache_creation_input_tokens + usage.cache_creation_input_tokens,
    cache_read_input_tokens: sum.cache_read_input_tokens + usage.cache_read_input_tokens,
    complete: sum.complete && usage.estimated !== true,
  };
}

export function tokens(sum: UsageSum): number {
  return sum.input_tokens + sum.output_tokens + sum.cache_creation_input_tokens + sum.cache_read_input_tokens;
}

export function turnUsage(sum: UsageSum): TurnUsage {
  const { complete, ...counts } = sum;
  return { reported: true, ...(complete ? {} : { complete: false }), ...counts, tokens: tokens(sum) };
}

/** A session's rollup on the wire (contract §11.2). */
export function sessionUsage(state: { usage: UsageSum; turns_reported: number; active_ms: number }) {
  const { complete, ...counts } = state.usage;
  return {
    active_seconds: state.active_ms / 1000,
    reported_turns: state.turns_reported,
    unreported_turns: 0,
    complete,
    ...counts,
    tokens: tokens(state.usage),
  };
}
