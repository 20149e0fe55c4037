/**
 * `say` and `ask`: the agent speaks to the user. Nothing happens outside the log, so their results are written with the response that
 * calls them, and no crash can come between.
 */
import type { ContentBlock } from '../resource/model.ts';

export type Spoken = { outcome: 'ok' | 'error'; content: string; text?: string; asks: boolean };

/** What a call of `say` or `ask` comes to; undefined for any other block. */
export function spoken(block: ContentBlock): Spoken | undefined {
  if (block.type !== 'tool_use' || (block['name'] !== 'say' && block['name'] !== 'ask')) return undefined;
  const input = block['input'];
  const text = typeof input === 'object' && input !== null && 'text' in input ? input.text : undefined;
  const asks = block['name'] === 'ask';
  if (typeof text !== 'string' || text.trim() === '') {
    return { outcome: 'error', content: 'This tool needs a non-empty "text".', asks };
  }
  return { outcome: 'ok', content: asks ? 'Your question was put to the user.' : 'Said.', text, asks };
}
