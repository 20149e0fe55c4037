/**
 * The Anthropic provider. Invariant: whatever the network or the provider does, one call gives one outcome, nothing is
 * retried here, and no outcome of ours holds the key.
 */
import Anthropic from '@anthropic-ai/sdk';
import type { ModelCall, ModelOutcome, ModelRequest, Provider } from '../resource/model.ts';
import { type Failure, failure, requestFailure, streamFailure } from './anthropic-errors.ts';
import { type Answer, completeBlocks, emptyAnswer, estimatedUsage, foldEvent } from './anthropic-stream.ts';

export type AnthropicOptions = {
  /** Undefined: Anthropic's own. */
  base_url: string | undefined;
  /** How long the provider may send no event (pings do not count) before the call fails as `timeout`. Default 120 s. */
  timeout_ms?: number;
  fetch?: typeof fetch;
};

/** A provider that speaks the Messages API at `base_url`. Reads no environment variable and no profile on disk. */
export function anthropicProvider(options: AnthropicOptions): Provider {
  return { respond: (request, call) => respond(options, request, call) };
}

const TIMEOUT_MS = 120_000;
/** The SDK's own timer covers only the time to the response's headers; ours covers the whole stream. */
const SDK_TIMEOUT_MS = 2 ** 31 - 1;

async function respond(
  options: AnthropicOptions,
  request: ModelRequest,
  call: ModelCall,
): Promise<ModelOutcome> {
  // Such a key cannot be a header; the error that `fetch` would throw quotes it.
  if (!/^[\x21-\x7e]+$/.test(call.api_key)) {
    return failure(
      'credential',
      'authentication_error',
      'The API key is empty or has characters no key has.',
      '',
    );
  }
  const watch = startWatch(call.signal, options.timeout_ms ?? TIMEOUT_MS);
  try {
    const opened = await openStream(options, request, call.api_key, watch.signal);
    if ('error' in opened) return stopFailure(watch, call) ?? requestFailure(opened.error, call.api_key);
    const answer = emptyAnswer();
    const broken = await readAnswer(answer, opened.events, call, watch);
    return broken === undefined ? responded(answer, call) : brokenOutcome(answer, broken);
  } finally {
    watch.end();
  }
}

type Watch = {
  signal: AbortSignal;
  /** Why we stopped the call, if we did. */
  stopped(): 'aborted' | 'timeout' | undefined;
  /** The provider sent something. */
  progress(): void;
  end(): void;
};

/** One signal for the two ways in which we stop a call: our caller's abort, and silence for `timeout_ms`. */
function startWatch(signal: AbortSignal, timeout_ms: number): Watch {
  const controller = new AbortController();
  let why: 'aborted' | 'timeout' | undefined;
  const stop = (reason: 'aborted' | 'timeout'): void => {
    why ??= reason;
    controller.abort();
  };
  const abort = (): void => stop('aborted');
  const timer = setTimeout(stop, timeout_ms, 'timeout');
  if (signal.aborted) abort();
  signal.addEventListener('abort', abort, { once: true });
  return {
    signal: controller.signal,
    stopped: () => why,
    progress: () => void timer.refresh(),
    end: () => {
      clearTimeout(timer);
      signal.removeEventListener('abort', abort);
    },
  };
}

type Opened = { events: AsyncIterator<unknown> } | { error: unknown };

async function openStream(
  options: AnthropicOptions,
  request: ModelRequest,
  api_key: string,
  signal: AbortSignal,
): Promise<Opened> {
  const body = { ...request, cache_control: { type: 'ephemeral' }, stream: true };
  const headers = { authorization: `Bearer ${api_key}` };
  try {
    // Not `messages.stream`: its accumulator fails the stream at a tool input that is not JSON, and its iterator ends as if
    // all were well when an error arrives while events are still queued.
    const client = makeClient(options, api_key);
    const parameters = body as unknown as Anthropic.MessageCreateParamsStreaming;
    const stream = await client.messages.create(parameters, { headers, signal });
    return { events: stream[Symbol.asyncIterator]() };
  } catch (error) {
    return { error };
  }
}

/** Null, not undefined, where undefined would let the SDK look into the environment. */
function makeClient(options: AnthropicOptions, api_key: string): Anthropic {
  return new Anthropic({
    apiKey: api_key,
    authToken: null,
    webhookKey: null,
    baseURL: options.base_url ?? null,
    maxRetries: 0,
    timeout: SDK_TIMEOUT_MS,
    logLevel: 'off',
    openTelemetry: false,
    fetchOptions: { redirect: 'manual' },
    fetch: withoutForeignHeaders(options.fetch ?? fetch),
  });
}

/** The SDK adds what ANTHROPIC_CUSTOM_HEADERS names to every request, and no option turns that off. */
function withoutForeignHeaders(send: typeof fetch): typeof fetch {
  return (url, init) => {
    const sent = [...new Headers(init?.headers)].filter(([name]) => isOurs(name));
    return send(url, { ...init, headers: sent });
  };
}

const OUR_HEADERS = ['accept', 'anthropic-version', 'authorization', 'content-type', 'user-agent'];

function isOurs(name: string): boolean {
  return OUR_HEADERS.includes(name) || name.startsWith('x-stainless-');
}

/** Reads events into `answer` until its message is whole, which gives undefined; else what broke it. */
async function readAnswer(
  answer: Answer,
  events: AsyncIterator<unknown>,
  call: ModelCall,
  watch: Watch,
): Promise<Failure | undefined> {
  for (;;) {
    const read = await nextEvent(events);
    if (!('event' in read)) return stopFailure(watch, call) ?? streamFailure(read.error, call.api_key);
    watch.progress();
    const text = foldEvent(answer, read.event);
    if (text !== undefined) call.on_text?.(text);
    if (answer.finished) break;
  }
  // The message is whole; what follows only returns the connection to the pool, and may fail.
  void nextEvent(events);
  if (answer.message_id !== undefined && answer.stop_reason !== undefined) return undefined;
  return streamFailure(undefined, call.api_key);
}

async function nextEvent(events: AsyncIterator<unknown>): Promise<{ event: unknown } | { error: unknown }> {
  try {
    const next = await events.next();
    return next.done === true ? { error: undefined } : { event: next.value };
  } catch (error) {
    return { error };
  }
}

function stopFailure(watch: Watch, call: ModelCall): Failure | undefined {
  const stopped = watch.stopped();
  switch (stopped) {
    case 'aborted':
      return failure('aborted', 'aborted', 'The call was aborted.', call.api_key);
    case 'timeout':
      return failure('transient', 'timeout', 'The provider was silent for too long.', call.api_key);
    case undefined:
      return undefined;
    default:
      return stopped satisfies never;
  }
}

function responded(answer: Answer, call: ModelCall): ModelOutcome {
  const content = completeBlocks(answer);
  const stop_reason = answer.stop_reason ?? '';
  // Every call was unreadable. Answered as it is, the turn would wait for results of calls that nobody has.
  if (stop_reason === 'tool_use' && !hasCall(content)) {
    const failed = failure(
      'transient',
      'invalid_tool_input',
      'The tool input was not a JSON object.',
      call.api_key,
    );
    return answer.usage === undefined ? failed : { ...failed, usage: answer.usage };
  }
  return outcome(answer, content, stop_reason, false);
}

/** A cut stream is worth keeping only for a complete tool call; an abort keeps nothing. */
function brokenOutcome(answer: Answer, broken: Failure): ModelOutcome {
  const content = completeBlocks(answer);
  if (broken.reason !== 'aborted' && hasCall(content)) return outcome(answer, content, 'tool_use', true);
  const usage = estimatedUsage(answer);
  return usage === undefined ? broken : { ...broken, usage };
}

function outcome(
  answer: Answer,
  content: ModelOutcomeContent,
  stop_reason: string,
  cut: boolean,
): ModelOutcome {
  const usage = cut ? estimatedUsage(answer) : answer.usage;
  return {
    kind: 'responded',
    message_id: answer.message_id ?? '',
    model: answer.model ?? '',
    content,
    stop_reason,
    usage: usage ?? {
      input_tokens: 0,
      output_tokens: 0,
      cache_creation_input_tokens: 0,
      cache_read_input_tokens: 0,
    },
    cut,
  };
}

type ModelOutcomeContent = Extract<ModelOutcome, { kind: 'responded' }>['content'];

function hasCall(content: ModelOutcomeContent): boolean {
  return content.some((block) => block.type === 'tool_use');
}
