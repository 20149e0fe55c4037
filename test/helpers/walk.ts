/**
 * Random lives of a session without any I/O: people and a runner act in any order that the rules admit, runners die between any
 * two appends, and time moves on. Every log that an engine can write is such a walk.
 */
import fc from 'fast-check';
import type { ModelOutcome } from '../../src/resource/model.ts';
import type { ToolOutcome } from '../../src/resource/tool.ts';
import type { Command, Input } from '../../src/session/command.ts';
import { decide } from '../../src/session/decide.ts';
import type { SessionEvent } from '../../src/session/event.ts';
import { evolve } from '../../src/session/evolve.ts';
import { next } from '../../src/session/next.ts';
import type { Rules } from '../../src/session/rules.ts';
import { emptyState, type SessionState } from '../../src/session/state.ts';

export const RULES: Rules = {
  hibernate_after_ms: 30_000,
  bound_ms: 1500,
  response_tokens_max: 1000,
  model_failures_max: 3,
  interruptions_max: 3,
  continuations_max: 2,
};

export const STREAM = 'ses_0123456789abcdef01234567';

/** One thing that happens; `size` picks among what is possible at that point. */
export type Happening = {
  what: 'message' | 'cancel' | 'archive' | 'crash' | 'runner' | 'wait';
  pick: number;
  elapsed_ms: number;
};

export const happenings = fc.array(
  fc.record<Happening>({
    what: fc.oneof(
      { weight: 12, arbitrary: fc.constant('runner' as const) },
      { weight: 3, arbitrary: fc.constant('message' as const) },
      { weight: 1, arbitrary: fc.constantFrom('cancel' as const, 'wait' as const) },
      { weight: 2, arbitrary: fc.constant('crash' as const) },
      { weight: 1, arbitrary: fc.constantFrom('archive' as const, 'wait' as const, 'message' as const) },
    ),
    pick: fc.nat(1000),
    elapsed_ms: fc.nat(3000),
  }),
  { maxLength: 60 },
);

export const limits = fc.record(
  {
    tokens: fc.integer({ min: 1, max: 3000 }),
    turn_seconds: fc.integer({ min: 1, max: 40 }),
    turns: fc.integer({ min: 1, max: 4 }),
  },
  { requiredKeys: [] },
);

export type Walk = {
  log: SessionEvent[];
  state: SessionState;
  now: number;
  apply: (command: Command) => void;
};

export function startWalk(session_limits: object): Walk {
  const walk: Walk = {
    log: [],
    state: emptyState(STREAM),
    now: 1_000_000,
    apply: (command) => apply(walk, command),
  };
  walk.apply({
    type: 'create',
    agent: AGENT,
    limits: session_limits,
    credential_id: 'managed',
    metadata: null,
    key: null,
    input: input('begin'),
  });
  return walk;
}

export function happen(walk: Walk, { what, pick, elapsed_ms }: Happening): void {
  walk.now += elapsed_ms;
  switch (what) {
    case 'message':
      return walk.apply({ type: 'message', ...input(pick % 7 === 0 ? '   ' : `message ${pick}`) });
    case 'cancel':
    case 'archive':
      return walk.apply({ type: what });
    case 'wait':
      walk.now += 60_000;
      return;
    case 'crash':
      return walk.apply({ type: 'begin', node: `node-${pick}` });
    case 'runner':
      return act(walk, pick);
    default:
      what satisfies never;
  }
}

/** Does what `next` says, as the engine would, with an outcome that `pick` chooses. */
function act(walk: Walk, pick: number): void {
  const step = next(walk.state, walk.now, RULES);
  switch (step.do) {
    case 'start_turn':
      return walk.apply({ type: 'begin', node: 'node' });
    case 'request_model':
    case 'end_turn':
    case 'archive':
      return walk.apply({ type: 'advance' });
    case 'call_model':
      return answer(walk, step.request, step.max_tokens, pick);
    case 'run_tools': {
      // Sometimes the round is broken off before its last call.
      const ran = pick % 5 === 0 ? step.calls.slice(0, -1) : step.calls;
      const results = ran.map((call, index) => ({
        call_id: call.call_id,
        result: toolOutcome(pick + index),
      }));
      return walk.apply({ type: 'tools_finished', results, pause: pick % 11 === 0 });
    }
    case 'hibernate': {
      const computer = walk.state.computer!;
      const body = { computer_id: computer.id, generation: computer.generation, snapshot_ref: 'snapshot' };
      return walk.apply({ type: 'computer_changed', change: { type: 'computer.hibernated', body } });
    }
    case 'wait':
      if (step.until !== null) walk.now = Math.max(walk.now, step.until);
      return;
    default:
      step satisfies never;
  }
}

function answer(walk: Walk, request: number, max_tokens: number, pick: number): void {
  const outcome = modelOutcome(pick, max_tokens, request);
  const seen = walk.state.head;
  if (outcome.kind === 'responded') {
    walk.apply({ type: 'model_responded', outcome, request, seen, duration_ms: 5, pause: pick % 13 === 0 });
  } else {
    walk.apply({ type: 'model_failed', outcome, request, seen, jitter: 0.5, pause: pick % 13 === 0 });
  }
}

function modelOutcome(pick: number, max_tokens: number, request: number): ModelOutcome {
  const reasons = ['transient', 'credential', 'request', 'aborted'] as const;
  if (pick % 9 === 0)
    return { kind: 'failed', reason: reasons[pick % 4]!, code: 'overloaded_error', message: 'no' };
  const stops = [
    'end_turn',
    'max_tokens',
    'pause_turn',
    'refusal',
    'model_context_window_exceeded',
    'brand_new',
  ];
  const tools = ['bash', 'say', 'ask', 'str_replace_based_edit_tool', 'unheard_of'];
  const calls = Array.from({ length: pick % 3 }, (_, index) => ({
    type: 'tool_use',
    id: `toolu_${request}_${index}`,
    name: tools[(pick + index) % tools.length]!,
    input: { command: pick % 2 === 0 ? 'view' : 'ls', text: 'hello' },
  }));
  const texts = ['fine', '', '  '][pick % 3]!;
  const content = [
    ...(pick % 4 === 0 ? [{ type: 'thinking', thinking: 'hm', signature: 'sig' }] : []),
    ...(pick % 6 === 5 ? [] : [{ type: 'text', text: texts }]),
    ...calls,
  ];
  return {
    kind: 'responded',
    message_id: `msg_${request}`,
    model: 'claude-test',
    content,
    stop_reason: calls.length > 0 && pick % 10 !== 3 ? 'tool_use' : stops[pick % stops.length]!,
    usage: {
      input_tokens: 10,
      output_tokens: Math.min(pick, max_tokens),
      cache_creation_input_tokens: 1,
      cache_read_input_tokens: 2,
    },
    cut: false,
  };
}

function toolOutcome(pick: number): ToolOutcome {
  return { outcome: (['ok', 'error', 'canceled'] as const)[pick % 3]!, content: 'output' };
}

/** A refusal is as good as nothing happening. */
function apply(walk: Walk, command: Command): void {
  const drafts = decide(walk.state, command, walk.now, RULES);
  if (drafts instanceof Error) return;
  for (const draft of drafts) {
    const event: SessionEvent = {
      ...draft,
      seq: walk.state.head + 1,
      ts: Math.max(walk.now, walk.state.last_ts),
    };
    walk.log.push(event);
    walk.state = evolve(walk.state, event);
  }
}

function input(text: string): Input {
  return { text, actor: { type: 'human' } };
}

export const AGENT = {
  agent_id: 'agt_1',
  name: 'tester',
  prompt: 'You test.',
  prompt_hash: 'hash',
  model: 'anthropic/claude-test',
  runtime: 'claude',
  revision: 1,
  limits: null,
};
