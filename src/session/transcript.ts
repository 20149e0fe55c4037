/**
 * What the model sees: a pure function of the log prefix. Each request extends the one before it element by element (until
 * `context.compacted`), ends in a user message, and gives every `tool_use` its `tool_result` in the next message.
 */
import { providerModel } from '../resource/agent.ts';
import type { ContentBlock, Message, ModelRequest } from '../resource/model.ts';
import type { EventBody, SessionEvent } from './event.ts';
import { stoppedShort } from './evolve.ts';

export type Transcript = {
  model: string;
  system: ContentBlock[];
  tools: Record<string, unknown>[];
  /** Messages that some request has already carried: never changed again, only followed. */
  messages: Message[];
  /** The user message under construction; a request seals it. */
  open: ContentBlock[];
  /** Input that no turn has taken yet. */
  waiting: { seq: number; text: string }[];
  /** The calls of the last response, in order, with the results there are. `sent_as`: an id that no other call of the request has. */
  calls: { id: string; sent_as: string; result: ContentBlock | null }[];
  /** The ids under which calls are sent. */
  call_ids: Set<string>;
  /** Said to the model after the results: news of the runtime, or that it should go on. */
  notes: string[];
  /** The inputs of the calls of the last response, by call id. */
  inputs: Map<string, unknown>;
};

/** @param events `session.created`, then the events from the state's `context_from_seq`, in order. */
export function transcript(events: Iterable<SessionEvent>): Transcript {
  const transcript = emptyTranscript();
  for (const event of events) extend(transcript, event);
  return transcript;
}

/** The request that the last `model.requested` stands for. */
export function modelRequest(transcript: Transcript, max_tokens: number): ModelRequest {
  const { model, system, tools, messages } = transcript;
  return { model, max_tokens, system, tools, messages };
}

export function emptyTranscript(): Transcript {
  return {
    model: '',
    system: [],
    tools: [],
    messages: [],
    open: [],
    waiting: [],
    calls: [],
    call_ids: new Set(),
    notes: [],
    inputs: new Map(),
  };
}

/** Adds one event, in place: a long session's transcript is built once and then grows with its log. */
export function extend(transcript: Transcript, event: SessionEvent): void {
  switch (event.type) {
    case 'session.created':
      return begin(transcript, event.body);
    case 'user.message':
      transcript.waiting.push({ seq: event.seq, text: event.body.text });
      return;
    case 'turn.started':
      return takeInput(transcript, event.body.input_to_seq);
    case 'model.requested':
      return seal(transcript);
    case 'model.responded':
      return answer(transcript, event.body);
    case 'tool.finished':
      return finish(transcript, event.body);
    case 'computer.lost':
      transcript.notes.push(event.body.message);
      return;
    case 'turn.completed':
      // What was to be continued ended with its turn.
      transcript.notes = transcript.notes.filter((note) => note !== GO_ON);
      return;
    case 'context.compacted':
      transcript.messages = [...event.body.messages];
      transcript.open = [];
      transcript.calls = [];
      return;
    case 'agent.message':
    case 'agent.result':
    case 'cancel.requested':
    case 'computer.attached':
    case 'computer.hibernated':
    case 'computer.woken':
    case 'error.model':
    case 'error.runtime':
    case 'exec.completed':
    case 'model.failed':
    case 'session.archived':
    case 'tool.call':
    case 'turn.attempted':
      return;
    default:
      event satisfies never;
  }
}

function begin(transcript: Transcript, body: EventBody<'session.created'>): void {
  const system = [body.agent.prompt, body.system_note].filter((text) => text.trim() !== '');
  transcript.model = providerModel(body.agent.model);
  transcript.system = system.map(textBlock);
  transcript.tools = body.tools;
}

function takeInput(transcript: Transcript, to_seq: number): void {
  const taken = transcript.waiting.filter((input) => input.seq <= to_seq);
  transcript.waiting = transcript.waiting.filter((input) => input.seq > to_seq);
  transcript.open.push(
    ...taken.map((input) => textBlock(input.text.trim() === '' ? '(empty message)' : input.text)),
  );
}

/** A repeated request adds nothing, so it is the same request again. */
function seal(transcript: Transcript): void {
  transcript.open.push(...transcript.notes.map(textBlock));
  transcript.notes = [];
  if (transcript.open.length === 0) return;
  transcript.messages.push({ role: 'user', content: transcript.open });
  transcript.open = [];
}

function answer(transcript: Transcript, body: EventBody<'model.responded'>): void {
  if (body.stop_reason === 'refusal') return;
  const content = body.content.filter(
    (block) => block.type !== 'text' || String(block['text']).trim() !== '',
  );
  const uses = content.filter((block) => block.type === 'tool_use');
  transcript.calls = uses.map(({ id }) => ({
    id: String(id),
    sent_as: freshId(transcript, String(id)),
    result: null,
  }));
  const sent = content.map((block) => {
    const sent_as = transcript.calls.find(
      ({ id }) => block.type === 'tool_use' && id === block['id'],
    )?.sent_as;
    return sent_as === undefined || sent_as === block['id'] ? block : { ...block, id: sent_as };
  });
  if (sent.length > 0) transcript.messages.push({ role: 'assistant', content: sent });
  transcript.inputs = new Map(uses.map((block) => [String(block['id']), block['input']]));
  if (stoppedShort(body.stop_reason) && uses.length === 0) transcript.notes.push(GO_ON);
}

/** A provider may use an id again in a later response; the API refuses a request that holds it twice. */
function freshId({ call_ids, messages }: Transcript, id: string): string {
  const fresh = call_ids.has(id) ? `${id}_${messages.length}` : id;
  call_ids.add(fresh);
  return fresh;
}

const GO_ON = 'Your last response was cut short. Go on from where it stopped.';

function finish(transcript: Transcript, body: EventBody<'tool.finished'>): void {
  const call = transcript.calls.find((candidate) => candidate.id === body.call_id);
  if (!call) return;
  call.result = {
    type: 'tool_result',
    tool_use_id: call.sent_as,
    content: body.content.trim() === '' ? '(no output)' : body.content.toWellFormed(),
    ...(body.outcome === 'ok' ? {} : { is_error: true }),
  };
  if (transcript.calls.some((candidate) => candidate.result === null)) return;
  transcript.open.push(...transcript.calls.map((candidate) => candidate.result as ContentBlock));
  transcript.calls = [];
}

function textBlock(text: string): ContentBlock {
  // The API refuses lone surrogates, which JSON can carry.
  return { type: 'text', text: text.toWellFormed() };
}
