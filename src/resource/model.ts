/**
 * The port to model providers, in the terms of the Anthropic Messages API: what the log keeps verbatim is what
 * the next request sends back.
 */
import { z } from 'zod';

/** A content block exactly as the provider gave it; only `type` is read, and the fields of the types we act on. */
export const ContentBlock = z.looseObject({ type: z.string() });
export type ContentBlock = z.infer<typeof ContentBlock>;

export const Message = z.object({ role: z.enum(['user', 'assistant']), content: z.array(ContentBlock) });
export type Message = z.infer<typeof Message>;

/** The four disjoint token counts of one model request. `estimated`: a cut or failed request; a lower bound. */
export const Usage = z.object({
  input_tokens: z.int().nonnegative(),
  output_tokens: z.int().nonnegative(),
  cache_creation_input_tokens: z.int().nonnegative(),
  cache_read_input_tokens: z.int().nonnegative(),
  estimated: z.boolean().optional(),
});
export type Usage = z.infer<typeof Usage>;

export type ModelRequest = {
  /** The provider's own name of the model, e.g. `claude-sonnet-5`. */
  model: string;
  max_tokens: number;
  system: ContentBlock[];
  tools: Record<string, unknown>[];
  messages: Message[];
};

export type ModelCall = {
  api_key: string;
  signal: AbortSignal;
  /** Called with each piece of text as it streams; may be lost, never repeated. */
  on_text?: (text: string) => void;
};

/**
 * What came of a call. A cut stream that holds a complete tool call counts as `responded` with `cut`; its incomplete blocks
 * are dropped. `transient` may be repeated; `credential` needs the operator; `request` will fail again; `aborted` is our own
 * signal.
 */
export type ModelOutcome =
  | {
      kind: 'responded';
      message_id: string;
      model: string;
      content: ContentBlock[];
      stop_reason: string;
      usage: Usage;
      cut: boolean;
    }
  | {
      kind: 'failed';
      reason: 'transient' | 'credential' | 'request' | 'aborted';
      /** The provider's error type, e.g. `overloaded_error`, or ours: `connection`, `cut_stream`, `aborted`. */
      code: string;
      message: string;
      /** What the provider asked us to wait. */
      retry_after_ms?: number;
      /** Estimated usage of what had streamed; absent when nothing had. */
      usage?: Usage;
    };

/** Calls a model once; never retries and never throws for what a provider can do. */
export interface Provider {
  respond(request: ModelRequest, call: ModelCall): Promise<ModelOutcome>;
}
