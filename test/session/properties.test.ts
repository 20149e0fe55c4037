/** What holds for every log that can be written, over random lives of a session. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { SessionEvent } from '../../src/session/event.ts';
import { EVENTS } from '../../src/session/event.ts';
import { evolve } from '../../src/session/evolve.ts';
import { next } from '../../src/session/next.ts';
import { emptyState, status } from '../../src/session/state.ts';
import { modelRequest, transcript } from '../../src/session/transcript.ts';
import { tokens } from '../../src/session/usage.ts';
import { signThinking, validateRequest } from '../helpers/model/messages-api-validator.ts';
import {
  happen,
  happenings,
  limits,
  RULES,
  startWalk,
  STREAM,
  type Happening,
  type Walk,
} from '../helpers/walk.ts';

const RUNS = { numRuns: Number(process.env['OVERWINTER_PROPERTY_RUNS'] ?? 400) };

function live(steps: Happening[], session_limits: object): Walk {
  const walk = startWalk(session_limits);
  for (const step of steps) happen(walk, step);
  return walk;
}

/** The log up to each `model.requested`: the points where a request goes out. */
function requests(log: SessionEvent[]) {
  const points = log.flatMap((event, index) => (event.type === 'model.requested' ? [index + 1] : []));
  return points.map((end) => modelRequest(transcript(signed(log.slice(0, end))), 100));
}

/** The stand-in checks the signatures of thinking, as the real API does. */
function signed(log: SessionEvent[]): SessionEvent[] {
  return JSON.parse(JSON.stringify(log), (key, value: unknown) =>
    key === 'signature' ? signThinking('hm') : value,
  ) as SessionEvent[];
}

describe('every log', () => {
  it('folds to the same state from any prefix, and the state stays small', () => {
    fc.assert(
      fc.property(happenings, limits, fc.nat(), (steps, session_limits, cut) => {
        const { log, state } = live(steps, session_limits);
        const at = cut % (log.length + 1);
        const prefix = log.slice(0, at).reduce(evolve, emptyState(STREAM));
        const stored = JSON.parse(JSON.stringify(prefix)) as typeof prefix;
        expect(log.slice(at).reduce(evolve, stored)).toEqual(state);
        expect(JSON.stringify(state).length).toBeLessThan(8192);
      }),
      RUNS,
    );
  });

  it('has bodies that match their schemas', () => {
    fc.assert(
      fc.property(happenings, limits, (steps, session_limits) => {
        for (const { type, body } of live(steps, session_limits).log) {
          expect(EVENTS[type].body.parse(body)).toEqual(body);
        }
      }),
      RUNS,
    );
  });

  it('yields only requests that the Messages API accepts', () => {
    fc.assert(
      fc.property(happenings, limits, (steps, session_limits) => {
        for (const request of requests(live(steps, session_limits).log)) {
          expect(validateRequest({ ...request, stream: true })).toBeUndefined();
          expect(request.messages.at(-1)?.role).toBe('user');
        }
      }),
      RUNS,
    );
  });

  it('yields requests that extend one another, element by element', () => {
    fc.assert(
      fc.property(happenings, limits, (steps, session_limits) => {
        const all = requests(live(steps, session_limits).log).map(({ tools, system, messages }) =>
          [tools, system, ...messages].map((element) => JSON.stringify(element)),
        );
        all.slice(1).forEach((later, index) => {
          const earlier = all[index]!;
          expect(later.slice(0, earlier.length)).toEqual(earlier);
        });
      }),
      RUNS,
    );
  });

  it('ends every turn exactly once, with nothing of the turn after it', () => {
    fc.assert(
      fc.property(happenings, limits, (steps, session_limits) => {
        const { log } = live(steps, session_limits);
        const ended = new Set<string>();
        for (const event of log) {
          if (event.turn_id !== null) expect(ended.has(event.turn_id)).toBe(false);
          if (event.type === 'turn.completed') ended.add(event.body.turn_id);
        }
        const started = log.filter((event) => event.type === 'turn.started').length;
        expect(started - ended.size).toBeLessThanOrEqual(1);
      }),
      RUNS,
    );
  });

  it('keeps the tokens limit: what exceeds it is at most the input of one response', () => {
    fc.assert(
      fc.property(happenings, limits, (steps, session_limits) => {
        const { state } = live(steps, session_limits);
        const input_of_one_response = 13;
        const limit = session_limits.tokens ?? Infinity;
        expect(tokens(state.usage)).toBeLessThanOrEqual(limit + input_of_one_response);
        expect(state.turns_run).toBeLessThanOrEqual((session_limits.turns ?? Infinity) + 0);
      }),
      RUNS,
    );
  });

  it('reaches rest when its runner goes on without interruption', () => {
    fc.assert(
      fc.property(happenings, limits, (steps, session_limits) => {
        const walk = live(steps, session_limits);
        walk.apply({ type: 'begin', node: 'last' });
        for (let count = 0; count < 400 && status(walk.state) === 'running'; count += 1) {
          happen(walk, { what: 'runner', pick: 6, elapsed_ms: 1 });
        }
        expect(status(walk.state)).not.toBe('running');
      }),
      RUNS,
    );
  });

  it('after a cancel ends the turn at the next checkpoint, as canceled', () => {
    fc.assert(
      fc.property(happenings, limits, fc.nat(1000), (steps, session_limits, pick) => {
        const walk = live(steps, session_limits);
        const turn = walk.state.turn;
        fc.pre(turn !== null && next(walk.state, walk.now, RULES).do !== 'end_turn');
        walk.apply({ type: 'cancel' });
        happen(walk, { what: pick % 2 === 0 ? 'runner' : 'crash', pick, elapsed_ms: 0 });
        expect(walk.state.turn).toBeNull();
        expect(walk.state.last_turn).toMatchObject({ id: turn?.id, yield_reason: 'canceled' });
      }),
      RUNS,
    );
  });
});
