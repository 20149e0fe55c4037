/** The rules, one by one: given what happened, when this is asked, then these events follow, or this refusal. */
import { describe, expect, it } from 'vitest';
import { mergeLimits } from '../../src/resource/limits.ts';
import type { ContentBlock, ModelOutcome } from '../../src/resource/model.ts';
import { eventId } from '../../src/resource/id.ts';
import type { Command } from '../../src/session/command.ts';
import { decide } from '../../src/session/decide.ts';
import type { Draft } from '../../src/session/event.ts';
import { evolve } from '../../src/session/evolve.ts';
import { dueAt, next } from '../../src/session/next.ts';
import { emptyState, status, type SessionState } from '../../src/session/state.ts';
import { AGENT, RULES, STREAM } from '../helpers/walk.ts';

const START = 1_000_000;
const BEGIN: Command = { type: 'begin', node: 'nod_1' };
const CANCEL: Command = { type: 'cancel' };
const ARCHIVE: Command = { type: 'archive' };

describe('before there is a session', () => {
  it('everything but a create is refused', () => {
    for (const command of [message('hi'), CANCEL, ARCHIVE, BEGIN]) {
      expect(decide(emptyState(STREAM), command, START, RULES)).toMatchObject({ code: 'not_found' });
    }
  });

  it('a create writes the snapshot and the first message, and queues', () => {
    const { state, types } = given(create());
    expect(types).toEqual(['session.created', 'user.message']);
    expect(status(state)).toBe('queued');
    expect(dueAt(state, RULES)).toBe(START);
  });

  it('a second create is refused', () => {
    expect(when(given(create()).state, create())).toMatchObject({ code: 'conflict' });
  });
});

describe('messages', () => {
  it('several that wait join one turn, which names the first and the last', () => {
    const { written } = given(create(), message('two'), message('three'), BEGIN);
    expect(body(written, 'turn.started')).toMatchObject({ input_from_seq: 2, input_to_seq: 4 });
  });

  it('one that comes during a turn waits for the next, which starts at it', () => {
    const { state, written } = given(create(), BEGIN, message('more'), responds(), BEGIN);
    expect(body(written, 'turn.started')).toMatchObject({ input_from_seq: 6, input_to_seq: 6 });
    expect(state.turn).not.toBeNull();
    expect(status(given(create(), BEGIN, message('more'), responds()).state)).toBe('queued');
  });

  it('one to a failed session queues it again', () => {
    const { state } = given(create(), BEGIN, fails('request'));
    expect(status(state)).toBe('failed');
    expect(status(fold(state, when(state, message('again'))))).toBe('queued');
  });

  it.each([
    ['archived', [create(), ARCHIVE]],
    ['about to be', [create(), BEGIN, ARCHIVE]],
  ])('one to a session that is %s is refused', (_, commands) => {
    expect(when(given(...commands).state, message('hi'))).toMatchObject({ code: 'conflict' });
  });

  it('carry who sent them, and their idempotency key', () => {
    const actor = { type: 'human', id: 'user_7' } as const;
    const sent = when(given(create()).state, { ...message('hi'), actor, idempotency_key: 'k' } as Command);
    expect(sent).toMatchObject([
      { actor, idempotency_key: 'k', source: 'client', turn_id: null, level: 'user' },
    ]);
  });
});

describe('cancel', () => {
  it('with nothing running writes nothing, whether queued, idle or archived', () => {
    for (const before of [[create()], [create(), BEGIN, responds()], [create(), ARCHIVE]]) {
      expect(when(given(...before).state, CANCEL)).toEqual([]);
    }
  });

  it('asked twice is written once', () => {
    const { state, types } = given(create(), BEGIN, CANCEL);
    expect(types).toEqual(['cancel.requested']);
    expect(when(state, CANCEL)).toEqual([]);
  });

  it('falls due after its bound, so that any node may serve it', () => {
    expect(dueAt(given(create(), BEGIN, CANCEL).state, RULES)).toBe(START + RULES.bound_ms);
  });

  it('keeps an answer that came all the same, and ends the turn as canceled', () => {
    const { state, types } = given(create(), BEGIN, CANCEL, responds());
    expect(types).toEqual(['model.responded', 'agent.message', 'agent.result', 'turn.completed']);
    expect(state.last_turn).toMatchObject({ state: 'ok', yield_reason: 'canceled' });
    expect(status(state)).toBe('idle');
  });

  it('gives every open call its result before the turn ends', () => {
    const { types, written } = given(create(), BEGIN, responds(use(1, 'bash'), use(2, 'bash')), CANCEL, {
      type: 'advance',
    });
    expect(types).toEqual(['tool.finished', 'tool.finished', 'agent.result', 'turn.completed']);
    expect(body(written, 'tool.finished')).toMatchObject({ call_id: 'toolu_1', outcome: 'canceled' });
  });

  it('serves input that came before it in the next turn', () => {
    const { state } = given(create(), BEGIN, message('more'), CANCEL, { type: 'advance' });
    expect(status(state)).toBe('queued');
  });
});

describe('archive', () => {
  it('at rest archives at once; asked twice it writes nothing', () => {
    const { state, types } = given(create(), ARCHIVE);
    expect(types).toEqual(['session.archived']);
    expect(when(state, ARCHIVE)).toEqual([]);
    expect(next(state, START, RULES)).toEqual({ do: 'wait', until: null });
  });

  it('during a turn cancels it first, also when a cancel was asked for before', () => {
    const { state, types } = given(create(), BEGIN, CANCEL, ARCHIVE);
    expect(types).toEqual(['cancel.requested']);
    expect(when(state, ARCHIVE)).toEqual([]);
    const ended = when(state, { type: 'advance' }) as Draft[];
    expect(ended.map(({ type }) => type).slice(-2)).toEqual(['turn.completed', 'session.archived']);
  });
});

describe('limits', () => {
  it('of the session override those of the agent field by field', () => {
    const agent = { tokens: 100, turns: 3 };
    expect(mergeLimits(agent, { tokens: 50, turn_seconds: 9 })).toEqual({
      tokens: 50,
      turns: 3,
      turn_seconds: 9,
    });
    expect(mergeLimits(agent, {})).toEqual(agent);
    expect(mergeLimits(null, null)).toEqual({});
  });

  it('tokens: a request may ask for what is left, and none goes out when nothing is', () => {
    const { state, written } = given(create({ tokens: 500 }), BEGIN, responds(use(1, 'bash')), finishes(1));
    expect(body(written, 'model.requested')).toMatchObject({ max_tokens: 470 });
    const spent = responds(use(2, 'bash'), { output_tokens: 480 });
    const { types } = givenFrom(state, spent, finishes(2));
    expect(types.slice(1)).toEqual(['agent.result', 'turn.completed']);
    expect(givenFrom(state, spent, finishes(2)).state.last_turn?.yield_reason).toBe('budget_exceeded');
  });

  it('turns: the one too many ends before the model is asked, and does not count', () => {
    const { state } = given(create({ turns: 1 }), BEGIN, responds(), message('again'), BEGIN);
    expect(state.last_turn?.yield_reason).toBe('max_turns');
    expect(state).toMatchObject({ turns_run: 1, turns_reported: 2 });
  });

  it('turn_seconds: the turn ends at its deadline, which is half an hour at most', () => {
    const { state } = given(create({ turn_seconds: 5 }), BEGIN);
    expect(next(state, START + 4999, RULES).do).toBe('call_model');
    expect(next(state, START + 5000, RULES)).toEqual({ do: 'end_turn', reason: 'deadline_exceeded' });
    expect(given(create({ turn_seconds: 9999 }), BEGIN).state.turn?.deadline_at).toBe(START + 1_800_000);
  });
});

describe('a response', () => {
  it('without calls ends the turn, its text repeated to the user', () => {
    const { types, written, state } = given(create(), BEGIN, responds());
    expect(types).toEqual([
      'model.responded',
      'agent.message',
      'agent.result',
      'agent.message',
      'turn.completed',
    ]);
    const said = written.filter(({ type }) => type === 'agent.message').map(({ level }) => level);
    expect(said).toEqual(['progress', 'user']);
    expect(state.last_turn?.result_event_id).toBe(eventId(STREAM, 9));
  });

  it('is written once, however often it is reported', () => {
    const { state } = given(create(), BEGIN, responds(use(1, 'bash')));
    expect(when(state, responds())).toEqual([]);
  });

  it('carries what is said, its result and the next request in one append', () => {
    const said = given(create(), BEGIN, responds(use(1, 'say', { text: 'news' })));
    expect(said.types.slice(-3)).toEqual(['agent.message', 'tool.finished', 'model.requested']);
    const silent = given(create(), BEGIN, responds(use(1, 'ask', { text: '  ' })));
    expect(silent.types.slice(-2)).toEqual(['tool.finished', 'model.requested']);
    expect(silent.written.at(-2)!.body).toMatchObject({ outcome: 'error' });
  });

  it('after a say is not repeated: what was said is the result', () => {
    const { types } = given(create(), BEGIN, responds(use(1, 'say', { text: 'news' })), responds());
    expect(types).toEqual(['model.responded', 'agent.message', 'agent.result', 'turn.completed']);
  });

  it.each([
    ['refusal', 'idle', true],
    ['model_context_window_exceeded', 'failed', false],
  ])(
    'that stops with %s ends the turn as an error and leaves the session %s',
    (stop_reason, rests, retriable) => {
      const { state } = given(create(), BEGIN, responds({ stop_reason }));
      expect(state.last_turn).toMatchObject({
        yield_reason: 'error',
        error: { code: stop_reason, retriable },
      });
      expect(status(state)).toBe(rests);
    },
  );

  it('that stops short is continued, but not for ever', () => {
    const short = responds({ stop_reason: 'max_tokens' });
    expect(given(create(), BEGIN, short).state.turn?.step.at).toBe('requested');
    const { state } = given(create(), BEGIN, short, short, short);
    expect(state.last_turn?.error).toMatchObject({ code: 'max_tokens', retriable: true });
  });

  it('to a runner that is leaving is kept, and no further request is put in the log', () => {
    const { state, types } = given(create(), BEGIN, { ...responds(use(1, 'bash')), pause: true } as Command);
    expect(types).toEqual(['model.responded', 'agent.message', 'tool.call']);
    expect(next(state, START, RULES).do).toBe('run_tools');
  });
});

describe('a failed request', () => {
  it('is repeated after a pause that doubles, or is as long as the provider asked', () => {
    const waits = [
      given(create(), BEGIN, fails('transient')),
      given(create(), BEGIN, fails('transient', 9000)),
    ];
    expect(waits.map(({ state }) => state.turn?.step)).toEqual([
      { at: 'backing_off', until: START + 1000 },
      { at: 'backing_off', until: START + 9000 },
    ]);
  });

  it('ends the turn when too many follow one another', () => {
    const again: Command[] = [fails('transient'), { type: 'advance' }];
    const { state } = givenAt(60_000, create(), BEGIN, ...again, ...again, fails('transient'));
    expect(state.last_turn?.error).toMatchObject({ code: 'overloaded_error', retriable: true });
  });

  it.each([
    ['credential', 'idle'],
    ['request', 'failed'],
  ] as const)(
    'for a reason that stays (%s) ends the turn at once and leaves the session %s',
    (reason, rests) => {
      const { state, types } = given(create(), BEGIN, fails(reason));
      expect(types).toEqual(['model.failed', 'error.model', 'agent.result', 'turn.completed']);
      expect(status(state)).toBe(rests);
    },
  );
});

describe('a runner that takes over', () => {
  it('repeats a request that was in flight, and says so', () => {
    const { types } = given(create(), BEGIN, BEGIN);
    expect(types).toEqual(['turn.attempted', 'model.failed', 'model.requested']);
  });

  it('never reruns a command: its outcome is unknown; what may be repeated is left to run', () => {
    const calls = [use(1, 'bash'), use(2, 'str_replace_based_edit_tool', { command: 'view' })];
    const { state, written } = given(create(), BEGIN, responds(...calls), BEGIN);
    expect(body(written, 'tool.finished')).toMatchObject({ call_id: 'toolu_1', outcome: 'unknown' });
    expect(next(state, START, RULES)).toMatchObject({ do: 'run_tools', calls: [{ call_id: 'toolu_2' }] });
  });

  it('puts a turn aside that has cost three runners', () => {
    const { state, types } = given(create(), BEGIN, BEGIN, BEGIN, BEGIN);
    expect(types).toEqual([
      'turn.attempted',
      'model.failed',
      'error.runtime',
      'agent.result',
      'turn.completed',
    ]);
    expect(state.last_turn?.error?.code).toBe('runner_lost');
    expect(status(state)).toBe('failed');
  });

  it('finds nothing to do in a session at rest, and writes nothing', () => {
    expect(when(given(create(), BEGIN, responds()).state, BEGIN)).toEqual([]);
  });
});

describe('a computer', () => {
  const attached: Command = {
    type: 'computer_changed',
    change: {
      type: 'computer.attached',
      body: { computer_id: 'cmp_1', driver: 'bwrap', node: 'nod_1', generation: 1 },
    },
  };

  it('sleeps some time after its session came to rest, and at once when that is archived', () => {
    const { state } = given(create(), BEGIN, attached, responds());
    const idle_until = START + RULES.hibernate_after_ms;
    expect(next(state, START, RULES)).toEqual({ do: 'wait', until: idle_until });
    expect(next(state, idle_until, RULES)).toEqual({ do: 'hibernate' });
    expect(dueAt(state, RULES)).toBe(idle_until);
    expect(next(fold(state, when(state, ARCHIVE)), START, RULES)).toEqual({ do: 'hibernate' });
  });
});

type Given = { state: SessionState; /** By the last command. */ written: Draft[]; types: string[] };

function given(...commands: Command[]): Given {
  return givenFrom(emptyState(STREAM), ...commands);
}

function givenFrom(state: SessionState, ...commands: Command[]): Given {
  return run(state, 0, commands);
}

/** As `given`, with time passing between the commands. */
function givenAt(step_ms: number, ...commands: Command[]): Given {
  return run(emptyState(STREAM), step_ms, commands);
}

function run(before: SessionState, step_ms: number, commands: Command[]): Given {
  let state = before;
  let written: Draft[] = [];
  commands.forEach((command, index) => {
    const now = START + index * step_ms;
    const drafts = decide(state, toLatest(command, state), now, RULES);
    if (drafts instanceof Error) throw drafts;
    written = drafts;
    state = fold(state, drafts, now);
  });
  return { state, written, types: written.map(({ type }) => type) };
}

/** The outcomes of these tests belong to whatever request is out. */
function toLatest(command: Command, state: SessionState): Command {
  return 'request' in command ? { ...command, request: state.requests } : command;
}

function when(state: SessionState, command: Command): Draft[] | Error {
  return decide(state, command, START, RULES);
}

function fold(state: SessionState, drafts: Draft[] | Error, ts = START): SessionState {
  if (drafts instanceof Error) throw drafts;
  return drafts.reduce((now, draft) => evolve(now, { ...draft, seq: now.head + 1, ts }), state);
}

function body(drafts: Draft[], type: Draft['type']): object | undefined {
  return drafts.find((draft) => draft.type === type)?.body;
}

function create(limits = {}): Command {
  return {
    ...{ type: 'create', agent: AGENT, limits, credential_id: 'managed', metadata: null, key: null },
    input: { text: 'begin', actor: { type: 'human' } },
  };
}

function message(text: string): Command {
  return { type: 'message', text, actor: { type: 'human' } };
}

type ResponseOptions = { stop_reason?: string; output_tokens?: number };

/** A response of 30 tokens: a text, and the given calls. */
function responds(...parts: (ContentBlock | ResponseOptions)[]): Command {
  const calls = parts.filter((part): part is ContentBlock => 'type' in part);
  const options: ResponseOptions = Object.assign({}, ...parts.filter((part) => !('type' in part)));
  const counts = { input_tokens: 20, cache_creation_input_tokens: 0, cache_read_input_tokens: 0 };
  const outcome: ModelOutcome = {
    ...{ kind: 'responded', message_id: 'msg_1', model: 'claude-test', cut: false },
    content: [{ type: 'text', text: 'well' }, ...calls],
    stop_reason: options.stop_reason ?? (calls.length > 0 ? 'tool_use' : 'end_turn'),
    usage: { ...counts, output_tokens: options.output_tokens ?? 10 },
  };
  return { type: 'model_responded', outcome, request: 1, seen: 5, duration_ms: 5, pause: false };
}

function fails(reason: 'transient' | 'credential' | 'request', retry_after_ms?: number): Command {
  const outcome = { kind: 'failed', reason, code: 'overloaded_error', message: 'no' } as const;
  const hint = retry_after_ms === undefined ? {} : { retry_after_ms };
  const failed = { type: 'model_failed', request: 1, seen: 5, jitter: 1, pause: false } as const;
  return { ...failed, outcome: { ...outcome, ...hint } };
}

function use(number: number, name: string, input: object = { command: 'ls' }): ContentBlock {
  return { type: 'tool_use', id: `toolu_${number}`, name, input };
}

function finishes(number: number): Command {
  const result = { outcome: 'ok', content: 'done' } as const;
  return { type: 'tools_finished', results: [{ call_id: `toolu_${number}`, result }], pause: false };
}
