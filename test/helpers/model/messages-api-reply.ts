/**
 * What the stand-in answers, as data, and the events of the Messages protocol that say it. Invariant: events are a function of
 * reply, request and usage, so that the same conversation streams the same bytes.
 */
import { signThinking } from './messages-api-validator.ts';

export type MessagesRequest = {
  model: string;
  max_tokens: number;
  system?: unknown;
  tools?: Record<string, unknown>[];
  messages: { role: string; content: string | Record<string, unknown>[] }[];
  stream?: boolean;
  [field: string]: unknown;
};

/** A block of an answer; any type. A `tool_use` without `id` gets the next of its conversation. */
type ReplyBlock = { type: string; [field: string]: unknown };

export type IssuedUsage = {
  input_tokens: number;
  output_tokens: number;
  cache_creation_input_tokens: number;
  cache_read_input_tokens: number;
};

/** One answer. Everything is optional: an empty reply is an empty `end_turn`. Event counts include pings. */
export type Reply = {
  content?: ReplyBlock[];
  /** Default: `tool_use` where the content calls a tool, else `end_turn`. */
  stop_reason?: string;
  /** Overrides of the usage that is computed from the text's length. */
  usage?: Partial<IssuedUsage>;
  /** The length of a delta; default 16 characters. */
  delta_characters?: number;
  /** Awaited before event `index` is sent, and once more, with the number of events, before the body ends. */
  gate?: (index: number) => Promise<void> | void;
  /** Destroys the connection after so many events; what had been sent may be lost with it, as in life. */
  cut_after_events?: number;
  /** Ends the body cleanly after so many events; all of them arrive. */
  end_after_events?: number;
  /** Sends an `error` event after so many events, and ends. */
  sse_error_after?: { events: number; type: string; message: string };
  /** Answers with this status and error envelope instead. */
  error?: { status: number; type: string; message: string; headers?: Record<string, string> };
  /** A recorded body, sent as it is, in place of events made from `content`. */
  raw_sse?: string;
};

export function text(content: string): ReplyBlock {
  return { type: 'text', text: content };
}

export function toolUse(name: string, input: Record<string, unknown>, id?: string): ReplyBlock {
  return id === undefined ? { type: 'tool_use', name, input } : { type: 'tool_use', id, name, input };
}

/** A thinking block with a signature that the stand-in accepts back. */
export function thinking(content: string): ReplyBlock {
  return { type: 'thinking', thinking: content, signature: signThinking(content) };
}

export function reply(...content: ReplyBlock[]): Reply {
  return { content };
}

/** The message that `reply` gives to `request`, whole. */
export function messageOf(reply: Reply, request: MessagesRequest, id: string, usage: IssuedUsage): Message {
  const content = withIds(reply.content ?? [], request);
  const has_call = content.some((block) => block.type === 'tool_use');
  return {
    id,
    type: 'message',
    role: 'assistant',
    model: request.model,
    content,
    stop_reason: reply.stop_reason ?? (has_call ? 'tool_use' : 'end_turn'),
    stop_sequence: null,
    usage,
  };
}

export type Message = {
  id: string;
  type: 'message';
  role: 'assistant';
  model: string;
  content: ReplyBlock[];
  stop_reason: string;
  stop_sequence: null;
  usage: IssuedUsage;
};

/** The server-sent events, each as the text of one frame, that stream `message`. */
export function eventsOf(message: Message, delta_characters = 16): string[] {
  const start = { ...message, content: [], stop_reason: null, usage: { ...message.usage, output_tokens: 1 } };
  const { stop_reason, stop_sequence, usage } = message;
  return [
    frame('message_start', { message: start }),
    frame('ping', {}),
    ...message.content.flatMap((block, index) => blockEvents(block, index, delta_characters)),
    frame('message_delta', { delta: { stop_reason, stop_sequence }, usage }),
    frame('message_stop', {}),
  ];
}

/** One server-sent event: `event:` and `data:` lines and the empty line. */
export function frame(event: string, data: Record<string, unknown>): string {
  return `event: ${event}\ndata: ${JSON.stringify({ type: event, ...data })}\n\n`;
}

/** Output tokens of an answer: one for 4 characters. */
export function outputTokens(content: ReplyBlock[]): number {
  const characters = content.map((block) => streamedText(block).join('').length);
  return Math.max(1, Math.ceil(characters.reduce((sum, length) => sum + length, 0) / 4));
}

function blockEvents(block: ReplyBlock, index: number, delta_characters: number): string[] {
  const deltas = deltasOf(block, delta_characters);
  return [
    frame('content_block_start', { index, content_block: startOf(block) }),
    ...deltas.map((delta) => frame('content_block_delta', { index, delta })),
    frame('content_block_stop', { index }),
  ];
}

/** The block as its start event shows it: without what the deltas bring. */
function startOf(block: ReplyBlock): ReplyBlock {
  if (block.type === 'text') return { ...block, text: '' };
  if (block.type === 'thinking') return { ...block, thinking: '', signature: '' };
  return block.type === 'tool_use' ? { ...block, input: {} } : block;
}

function deltasOf(block: ReplyBlock, characters: number): ReplyBlock[] {
  const pieces = streamedText(block).flatMap((streamed) => split(streamed, characters));
  switch (block.type) {
    case 'text':
      return pieces.map((piece) => ({ type: 'text_delta', text: piece }));
    case 'thinking':
      return [
        ...pieces.map((piece) => ({ type: 'thinking_delta', thinking: piece })),
        { type: 'signature_delta', signature: block['signature'] },
      ];
    case 'tool_use':
      return ['', ...pieces].map((piece) => ({ type: 'input_json_delta', partial_json: piece }));
    default:
      return [];
  }
}

function streamedText(block: ReplyBlock): string[] {
  if (block.type === 'text') return [String(block['text'])];
  if (block.type === 'thinking') return [String(block['thinking'])];
  return block.type === 'tool_use' ? [JSON.stringify(block['input'])] : [];
}

function split(streamed: string, characters: number): string[] {
  const pieces: string[] = [];
  // By code points: half a surrogate pair does not survive UTF-8.
  const points = Array.from(streamed);
  for (let at = 0; at < points.length; at += characters)
    pieces.push(points.slice(at, at + characters).join(''));
  return pieces;
}

/** Ids are counted within the conversation, so they do not depend on what other conversations do at the time. */
function withIds(content: ReplyBlock[], request: MessagesRequest): ReplyBlock[] {
  let count = request.messages.flatMap((message) => callsOf(message.content)).length;
  return content.map((block) => {
    if (block.type !== 'tool_use' || block['id'] !== undefined) return block;
    count += 1;
    return { ...block, id: `toolu_${String(count).padStart(6, '0')}` };
  });
}

function callsOf(content: string | Record<string, unknown>[]): Record<string, unknown>[] {
  return typeof content === 'string' ? [] : content.filter((block) => block['type'] === 'tool_use');
}
