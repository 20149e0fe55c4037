/**
 * What a stream of message events adds up to. Invariant: a block counts as complete only after its `content_block_stop`, and
 * then holds exactly what the provider sent. Events and deltas of unknown types are never an error.
 */
import type { ContentBlock, Usage } from '../resource/model.ts';

/** A message as far as it has streamed. */
export type Answer = {
  message_id: string | undefined;
  model: string | undefined;
  stop_reason: string | undefined;
  /** `message_stop` was seen. */
  finished: boolean;
  blocks: Map<number, OpenBlock>;
  usage: Usage | undefined;
  /** Characters of text, thinking and tool input, for the estimate where the final usage never came. */
  characters: number;
};

type OpenBlock = {
  block: ContentBlock;
  /** The input of a tool call as it streams; its JSON is whole only at the block's end. */
  input_json: string;
  state: 'open' | 'complete' | 'unusable';
};

export function emptyAnswer(): Answer {
  return {
    message_id: undefined,
    model: undefined,
    stop_reason: undefined,
    finished: false,
    blocks: new Map(),
    usage: undefined,
    characters: 0,
  };
}

/** Folds one raw event into `answer`, in place. Returns the text that it added, if any. Total: a malformed event adds nothing. */
export function foldEvent(answer: Answer, raw_event: unknown): string | undefined {
  const event = asRecord(raw_event);
  switch (event['type']) {
    case 'message_start':
      return startMessage(answer, asRecord(event['message']));
    case 'content_block_start':
      return startBlock(answer, event['index'], event['content_block']);
    case 'content_block_delta':
      return addDelta(answer, event['index'], asRecord(event['delta']));
    case 'content_block_stop':
      return stopBlock(answer, event['index']);
    case 'message_delta':
      return endMessage(answer, event);
    case 'message_stop':
      answer.finished = true;
      return undefined;
    default:
      return undefined;
  }
}

/** The complete blocks in order. Dropped: what had not ended, and tool calls whose input is not a JSON object. */
export function completeBlocks(answer: Answer): ContentBlock[] {
  const ordered = [...answer.blocks].sort(([a], [b]) => a - b).map(([, open]) => open);
  const last = ordered.at(-1);
  const kept = ordered.filter((open) => isKept(answer, open, open === last)).map((open) => open.block);
  const distinct = kept.filter(
    (block, index) => !kept.slice(0, index).some((other) => isSameCall(other, block)),
  );
  return distinct.map(wellFormed);
}

/** Blocks are kept as they came, but for lone surrogates: the API would refuse them in every later request. */
function wellFormed(block: ContentBlock): ContentBlock {
  const text = JSON.stringify(block);
  if (!text.includes('\\ud')) return block;
  const repaired: unknown = JSON.parse(text, (_key, value: unknown) =>
    typeof value === 'string' ? value.toWellFormed() : value,
  );
  return repaired as ContentBlock;
}

/** A second call with the id of a first could never be given a result of its own. */
function isSameCall(a: ContentBlock, b: ContentBlock): boolean {
  return a.type === 'tool_use' && b.type === 'tool_use' && a['id'] === b['id'];
}

/** Usage of a stream that did not finish: what was reported, and at least a token for 4 streamed characters. */
export function estimatedUsage(answer: Answer): Usage | undefined {
  if (answer.usage === undefined) return undefined;
  const output_tokens = Math.max(
    answer.usage.output_tokens,
    Math.ceil(answer.characters / CHARACTERS_PER_TOKEN),
  );
  return { ...answer.usage, output_tokens, estimated: true };
}

const CHARACTERS_PER_TOKEN = 4;
const LENGTH_STOPS = ['max_tokens', 'model_context_window_exceeded'];
const USAGE_FIELDS = [
  'input_tokens',
  'output_tokens',
  'cache_creation_input_tokens',
  'cache_read_input_tokens',
] as const;

function startMessage(answer: Answer, message: Record<string, unknown>): undefined {
  answer.message_id = asText(message['id']);
  answer.model = asText(message['model']);
  answer.usage = mergeUsage(NO_USAGE, asRecord(message['usage']));
}

function startBlock(answer: Answer, index: unknown, content_block: unknown): undefined {
  const block = asRecord(content_block);
  const type = asText(block['type']);
  if (typeof index !== 'number' || type === undefined) return;
  answer.characters += (asText(block['text']) ?? '').length;
  answer.blocks.set(index, { block: { ...block, type }, input_json: '', state: 'open' });
}

function addDelta(answer: Answer, index: unknown, delta: Record<string, unknown>): string | undefined {
  const open = answer.blocks.get(index as number);
  if (open?.state !== 'open') return undefined;
  const { block } = open;
  switch (delta['type']) {
    case 'text_delta':
      block['text'] = (asText(block['text']) ?? '') + streamed(answer, delta['text']);
      return asText(delta['text']);
    case 'thinking_delta':
      block['thinking'] = (asText(block['thinking']) ?? '') + streamed(answer, delta['thinking']);
      return undefined;
    case 'signature_delta':
      block['signature'] = delta['signature'];
      return undefined;
    case 'citations_delta':
      block['citations'] = [
        ...(Array.isArray(block['citations']) ? block['citations'] : []),
        delta['citation'],
      ];
      return undefined;
    case 'input_json_delta':
      open.input_json += streamed(answer, delta['partial_json']);
      return undefined;
    default:
      // Without its delta a block we do not know is not what was sent; sending it back could be refused for good.
      if (!TEXTS.has(block.type)) open.state = 'unusable';
      return undefined;
  }
}

function streamed(answer: Answer, piece: unknown): string {
  const text = asText(piece) ?? '';
  answer.characters += text.length;
  return text;
}

function stopBlock(answer: Answer, index: unknown): undefined {
  const open = answer.blocks.get(index as number);
  if (open?.state !== 'open') return;
  if (open.input_json !== '') open.block['input'] = parseJson(open.input_json);
  const takes_input = open.block.type === 'tool_use' || open.input_json !== '';
  const is_usable = (!takes_input || isObject(open.block['input'])) && hasItsTexts(open.block);
  open.state = is_usable ? 'complete' : 'unusable';
}

/** Without them every later request that sends the block back would be refused. */
const TEXTS = new Map([
  ['text', ['text']],
  ['thinking', ['thinking', 'signature']],
  ['redacted_thinking', ['data']],
  ['tool_use', ['id', 'name']],
]);

/** As the provider's own requests must have it. */
const CALL_ID = /^[a-zA-Z0-9_-]+$/;

function hasItsTexts(block: ContentBlock): boolean {
  const fields = TEXTS.get(block.type) ?? [];
  if (!fields.every((field) => typeof block[field] === 'string')) return false;
  return block.type !== 'tool_use' || (CALL_ID.test(String(block['id'])) && block['name'] !== '');
}

function endMessage(answer: Answer, event: Record<string, unknown>): undefined {
  answer.stop_reason = asText(asRecord(event['delta'])['stop_reason']) ?? answer.stop_reason;
  answer.usage = mergeUsage(answer.usage ?? NO_USAGE, asRecord(event['usage']));
}

/** A call that stands last and empty where the length ran out was cut before its input began; it only looks complete. */
function isKept(answer: Answer, open: OpenBlock, is_last: boolean): boolean {
  const ran_out = is_last && LENGTH_STOPS.includes(answer.stop_reason ?? '');
  const is_bare_call = 'input' in open.block && open.input_json === '';
  return open.state === 'complete' && !(ran_out && is_bare_call);
}

const NO_USAGE: Usage = {
  input_tokens: 0,
  output_tokens: 0,
  cache_creation_input_tokens: 0,
  cache_read_input_tokens: 0,
};

/** Counts are totals of the whole message: a later one replaces, an absent or null one leaves what was. */
function mergeUsage(usage: Usage, reported: Record<string, unknown>): Usage {
  const merged = { ...usage };
  for (const field of USAGE_FIELDS) {
    const count = reported[field];
    if (Number.isSafeInteger(count) && (count as number) >= 0) merged[field] = count as number;
  }
  return merged;
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function asRecord(value: unknown): Record<string, unknown> {
  return isObject(value) ? value : {};
}

function asText(value: unknown): string | undefined {
  return typeof value === 'string' ? value : undefined;
}
