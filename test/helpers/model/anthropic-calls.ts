/** Calls of the real provider against the stand-in, for the tests of both. */
import { readFileSync } from 'node:fs';
import { afterEach } from 'vitest';
import { anthropicProvider } from '../../../src/model/anthropic.ts';
import type { ModelOutcome, ModelRequest } from '../../../src/resource/model.ts';
import { type MessagesApi, type Reply, type Script, startMessagesApi } from './messages-api.ts';

export const KEY = 'sk-ant-canary-0123456789abcdef';

export const REQUEST: ModelRequest = {
  model: 'claude-sonnet-5',
  max_tokens: 1000,
  system: [{ type: 'text', text: 'You are careful.' }],
  tools: [{ type: 'bash_20250124', name: 'bash' }],
  messages: [{ role: 'user', content: [{ type: 'text', text: 'Look around.' }] }],
};

/** A stand-in that is closed after the test. */
export async function serve(script: Script): Promise<MessagesApi> {
  const api = await startMessagesApi(script);
  open.push(api);
  return api;
}

const open: MessagesApi[] = [];
afterEach(async () => {
  for (const api of open.splice(0)) await api.close();
});

type CallOptions = {
  request?: ModelRequest;
  timeout_ms?: number;
  fetch?: typeof fetch;
  signal?: AbortSignal;
  api_key?: string;
  on_text?: (text: string) => void;
};

/** One call of the provider; everything has a default. */
export function respond(base_url: string | undefined, options: CallOptions = {}): Promise<ModelOutcome> {
  const { request = REQUEST, timeout_ms = 10_000, on_text } = options;
  const { signal = new AbortController().signal, api_key = KEY } = options;
  const provider = anthropicProvider({ base_url, timeout_ms, fetch: options.fetch ?? fetch });
  return provider.respond(
    request,
    on_text === undefined ? { api_key, signal } : { api_key, signal, on_text },
  );
}

/** One call of a stand-in that answers with this. */
export async function respondTo(answer: Reply, options: CallOptions = {}): Promise<ModelOutcome> {
  const api = await serve(() => answer);
  return respond(api.base_url, options);
}

/** The recorded stream `fixtures/anthropic/<name>.sse`. */
export function fixture(name: string): string {
  return readFileSync(new URL(`../../../fixtures/anthropic/${name}.sse`, import.meta.url), 'utf8');
}

export function asResponded(outcome: ModelOutcome): Extract<ModelOutcome, { kind: 'responded' }> {
  if (outcome.kind !== 'responded') throw new Error(`failed: ${outcome.code} ${outcome.message}`);
  return outcome;
}

export function asFailed(outcome: ModelOutcome): Extract<ModelOutcome, { kind: 'failed' }> {
  if (outcome.kind !== 'failed') throw new Error(`responded: ${outcome.stop_reason}`);
  return outcome;
}

/** The four counts that the stand-in billed for request `index`. */
export function usageIn(api: MessagesApi, index: number): Record<string, number> {
  const { index: _index, finished: _finished, ...usage } = api.ledger[index] ?? { index, finished: false };
  const fields = ['input_tokens', 'output_tokens', 'cache_creation_input_tokens', 'cache_read_input_tokens'];
  return Object.fromEntries(Object.entries(usage).filter(([field]) => fields.includes(field)));
}
