/**
 * The life of one session as a script tells it: each step is a command that `decide` accepts, time moves by fixed amounts, and the
 * words for model blocks and tool outcomes are short.
 */
import type { ContentBlock } from '../../src/resource/model.ts';
import type { ToolOutcome } from '../../src/resource/tool.ts';
import type { Command, ComputerChange, Failed, Responded } from '../../src/session/command.ts';
import { decide } from '../../src/session/decide.ts';
import type { SessionEvent } from '../../src/session/event.ts';
import { evolve } from '../../src/session/evolve.ts';
import type { Rules } from '../../src/session/rules.ts';
import { emptyState, type SessionState } from '../../src/session/state.ts';

export const STREAM = 'ses_019b8a3c4d00a1b2c3d4e5f6';

const RULES: Rules = {
  hibernate_after_ms: 30_000,
  bound_ms: 1500,
  response_tokens_max: 16_384,
  model_failures_max: 8,
  interruptions_max: 3,
  continuations_max: 3,
};
export const COMPUTER = 'cmp_019b8a3c5e10b2c3d4e5f6a1';
export const NODES = [
  'nod_019b8a3b0000c3d4e5f6a1b2',
  'nod_019b8a3b1111d4e5f6a1b2c3',
  'nod_019b8a3b2222e5f6a1b2c3d4',
];

export type Life = { log: SessionEvent[]; state: SessionState; now: number; seen: number };

export function startLife(): Life {
  return { log: [], state: emptyState(STREAM), now: Date.UTC(2026, 0, 5, 9), seen: 0 };
}

/** Every command takes effect; a script that is refused is a mistake in the script. */
export function command(life: Life, what: Command): void {
  life.now += 10;
  const drafts = decide(life.state, what, life.now, RULES);
  if (drafts instanceof Error) throw drafts;
  if (drafts.length === 0) throw new Error(`${what.type} wrote nothing`);
  for (const draft of drafts) {
    const event: SessionEvent = { ...draft, seq: life.state.head + 1, ts: life.now };
    life.log.push(event);
    life.state = evolve(life.state, event);
  }
}

/** What a runner writes; it knows the log up to there. */
function runner(life: Life, what: Command): void {
  command(life, what);
  life.seen = life.state.head;
}

export function create(life: Life, input: string, limits = {}): void {
  const actor = { type: 'human', id: 'user_7', display: 'Ada' } as const;
  command(life, {
    ...{
      type: 'create',
      agent: AGENT,
      limits,
      credential_id: 'managed',
      metadata: { ticket: 'OPS-7' },
      key: null,
    },
    input: { text: input, actor },
  });
}

export function message(life: Life, input: string, options: { idempotency_key?: string } = {}): void {
  command(life, { type: 'message', text: input, actor: { type: 'human' }, ...options });
}

export function begin(life: Life, node = 0): void {
  runner(life, { type: 'begin', node: NODES[node]! });
}

export function responds(life: Life, content: ContentBlock[], options: Partial<Responded> = {}): void {
  life.now += 1200;
  const outcome: Responded = {
    kind: 'responded',
    message_id: `msg_${String(openRequest(life)).padStart(6, '0')}`,
    model: 'claude-sonnet-5',
    content,
    stop_reason: content.some((block) => block.type === 'tool_use') ? 'tool_use' : 'end_turn',
    usage: usage(320, 48),
    cut: false,
    ...options,
  };
  const request = openRequest(life);
  const { seen } = life;
  runner(life, { type: 'model_responded', outcome, request, seen, duration_ms: 1200, pause: false });
}

export function fails(life: Life, outcome: Omit<Failed, 'kind'>): void {
  life.now += 300;
  const { seen } = life;
  const failure = { outcome: { kind: 'failed', ...outcome }, request: openRequest(life), seen } as const;
  runner(life, { type: 'model_failed', ...failure, jitter: 0.5, pause: false });
}

function openRequest(life: Life): number {
  const step = life.state.turn?.step;
  if (step?.at !== 'requested') throw new Error('no request is open');
  return step.request;
}

export function finish(life: Life, results: [call: number, result: ToolOutcome][]): void {
  life.now += 250;
  const named = results.map(([call, result]) => ({ call_id: callId(call), result }));
  runner(life, { type: 'tools_finished', results: named, pause: false });
}

export function change(life: Life, computer: Pick<ComputerChange, 'type' | 'body'>): void {
  runner(life, { type: 'computer_changed', change: computer });
}

export function attach(life: Life): void {
  const body = { computer_id: COMPUTER, driver: 'bwrap', node: NODES[0]!, generation: 1 };
  change(life, { type: 'computer.attached', body });
}

export function hibernate(life: Life, generation: number): void {
  const body = {
    computer_id: COMPUTER,
    generation,
    snapshot_ref: `computers/${COMPUTER}/${generation}.tar.zst`,
  };
  change(life, { type: 'computer.hibernated', body });
}

function callId(call: number): string {
  return `toolu_${String(call).padStart(6, '0')}`;
}

export function text(words: string): ContentBlock {
  return { type: 'text', text: words };
}

export const thinking: ContentBlock = {
  type: 'thinking',
  thinking: 'Count files.',
  signature: 'c2lnbmF0dXJl',
};

function use(call: number, name: string, input: object): ContentBlock {
  return { type: 'tool_use', id: callId(call), name, input };
}

export function bash(call: number, line: string): ContentBlock {
  return use(call, 'bash', { command: line });
}

export function view(call: number, path: string): ContentBlock {
  return use(call, 'str_replace_based_edit_tool', { command: 'view', path });
}

export function say(call: number, words: string): ContentBlock {
  return use(call, 'say', { text: words });
}

export function ask(call: number, words: string): ContentBlock {
  return use(call, 'ask', { text: words });
}

export function ran(line: string, output: string): ToolOutcome {
  const exec = { command: line, exit_code: 0, summary: output, bytes: output.length };
  return { outcome: 'ok', content: output === '' ? '(no output)' : output, exec };
}

/** A command that a cancel or the deadline stopped. */
export function interrupted(line: string, output: string): ToolOutcome {
  const exec = { command: line, exit_code: null, summary: output, bytes: output.length };
  return { outcome: 'canceled', content: `${output}\n[The command was interrupted.]`, exec };
}

export function failed(line: string, output: string, exit_code: number): ToolOutcome {
  const exec = { command: line, exit_code, summary: '', bytes: output.length };
  return { outcome: 'error', content: `${output}\n[exit code ${exit_code}]`, exec };
}

export function usage(input_tokens: number, output_tokens: number, estimated?: true) {
  const cache = { cache_creation_input_tokens: 0, cache_read_input_tokens: 0 };
  return { input_tokens, output_tokens, ...cache, ...(estimated ? { estimated } : {}) };
}

const AGENT = {
  agent_id: 'agt_019b8a3a0000e5f6a1b2c3d4',
  name: 'helper',
  prompt: 'You help with a small code base.',
  prompt_hash: 'sha256:6c3c0f0c2a0b4b8d',
  model: 'anthropic/claude-sonnet-5',
  runtime: 'claude',
  revision: 3,
  limits: null,
};
