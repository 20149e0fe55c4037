/** The life of a computer: what may follow what, for every state and every command; and that the log alone says the state. */
import { describe, expect, it } from 'vitest';
import type { ComputerDraft } from '../../src/resource/computer/event.ts';
import {
  COMPUTER_STATUSES,
  decideComputer,
  emptyComputer,
  evolveComputer,
  expectLegal,
  TRANSITIONS,
  type ComputerCommand,
  type ComputerState,
  type ComputerStatus,
} from '../../src/resource/computer/life.ts';
import { nameOf, isName } from '../../src/resource/computer/names.ts';
import { OverwinterError } from '../../src/resource/error.ts';
import { randomOf } from '../helpers/fuzz/random.ts';

const SPEC = {
  ...{ vcpus: 1, ram_mb: 512, disk_size_mb: 512, processes_max: 64, image: 'scratch', base_image: null },
  ...{ template_id: 'scratch', template_version: '1', network_policy: { mode: 'off' } as const },
};
const CREATED: ComputerDraft = {
  type: 'computer.created',
  body: {
    name: 'curie',
    machine: 'mch_a',
    driver: 'bwrap',
    spec: SPEC,
    session: null,
    from_snapshot: null,
    generation: 0,
  },
};
const START = { type: 'begin_start', machine: 'mch_a', supersedes: null, holder: null } as const;

/** A computer after these commands, each of which must be legal. */
function after(...commands: ComputerCommand[]): ComputerState {
  return commands.reduce((state, command) => apply(state, command).state, born());
}

function born(): ComputerState {
  return append(emptyComputer('cmp_1'), [CREATED]);
}

function append(state: ComputerState, drafts: ComputerDraft[]): ComputerState {
  return drafts.reduce(
    (current, draft) => evolveComputer(current, { ...draft, seq: current.head + 1, ts: current.last_ts + 1 }),
    state,
  );
}

function apply(
  state: ComputerState,
  command: ComputerCommand,
): { state: ComputerState; refusal?: OverwinterError } {
  const decided = decideComputer(state, command);
  if (decided instanceof OverwinterError) return { state, refusal: decided };
  return { state: append(state, decided) };
}

function started(generation: number): ComputerCommand {
  return { type: 'started', generation, reference: {}, files: 'empty' };
}

function stopped(generation: number, snapshot: string | null = null): ComputerCommand {
  return { type: 'stopped', generation, cause: 'asked', snapshot };
}

describe('a computer', () => {
  it('is made, stopped, started again and deleted', () => {
    expect(after(START).status).toBe('creating');
    expect(after(START, started(1)).status).toBe('running');
    expect(after(START, started(1), { type: 'begin_stop' }).status).toBe('stopping');
    const asleep = after(START, started(1), { type: 'begin_stop' }, stopped(1));
    expect(asleep.status).toBe('stopped');
    expect(asleep.stopped_at).toBe(asleep.last_ts);
    const again = apply(asleep, START).state;
    expect(again).toMatchObject({ status: 'starting', generation: 2, files_generation: 1 });
    expect(apply(again, started(2)).state.status).toBe('running');
    const deleting = apply(again, { type: 'begin_delete' }).state;
    expect(apply(deleting, { type: 'deleted' }).state.status).toBe('deleted');
  });

  it('takes the outcome of its last wake only', () => {
    const twice = after(START, { ...START, supersedes: 1 });
    expect(twice.generation).toBe(2);
    expect(apply(twice, started(1)).refusal?.code).toBe('fenced');
    expect(apply(twice, { type: 'start_failed', generation: 1, message: 'x' }).state.status).toBe('creating');
    expect(apply(twice, started(2)).state.status).toBe('running');
  });

  it('is not woken twice at once, unless the first wake is known to be over', () => {
    const running = after(START, started(1));
    expect(apply(running, START).refusal?.code).toBe('conflict');
    expect(apply(running, { ...START, supersedes: 1 }).state.status).toBe('starting');
  });

  it('obeys the newest runner of its session', () => {
    const held = after({ ...START, holder: 5 }, started(1));
    expect(apply(held, { ...START, supersedes: 1, holder: 4 }).refusal?.code).toBe('fenced');
    expect(apply(held, { ...START, supersedes: 1, holder: 6 }).state.holder).toBe(6);
  });

  it('is restored on another machine, and missed while its own is away', () => {
    const saved = after(START, started(1), { type: 'begin_stop' }, stopped(1, 'computers/cmp_1/1.tar.zst'));
    expect(apply(saved, { type: 'missed' }).state.status).toBe('restorable');
    expect(apply(saved, { ...START, machine: 'mch_b' }).state.status).toBe('restoring');
    const unsaved = after(START, started(1));
    const lost = apply(unsaved, { type: 'missed' }).state;
    expect(lost.status).toBe('lost');
    expect(apply(lost, START).refusal?.code).toBe('conflict');
  });

  it('goes back to a snapshot: what it had is stale, and the next wake is one of its own', () => {
    const asleep = after(START, started(1), { type: 'begin_stop' }, stopped(1));
    const back = apply(asleep, { type: 'rewind', snapshot: 'computers/cmp_1/rewound-1.tar.zst' }).state;
    expect(back).toMatchObject({ status: 'stopped', generation: 2, files_generation: 2 });
    expect(apply(back, START).state).toMatchObject({ generation: 3, files_generation: 2 });
    expect(apply(after(START, started(1)), { type: 'rewind', snapshot: 'x' }).refusal?.code).toBe('conflict');
  });

  it('says why it failed, and may be tried again', () => {
    const failed = after(START, { type: 'start_failed', generation: 1, message: 'no room' });
    expect(failed).toMatchObject({ status: 'error', last_error: 'no room' });
    expect(apply(failed, START).state).toMatchObject({ status: 'starting', last_error: null });
  });
});

describe('the table of transitions', () => {
  it('holds for whatever is asked in whatever order, and the end is the end', () => {
    for (let run = 0; run < 2000; run += 1) {
      const random = randomOf(1, run);
      let state = born();
      for (let step = 0; step < 30; step += 1) {
        const command = random.pick(commandsAt(state, random.pick(['mch_a', 'mch_b'])));
        const next = apply(state, command).state;
        const moved = next.status !== state.status;
        if (moved)
          expect(TRANSITIONS[state.status], `${state.status} → ${next.status}`).toContain(next.status);
        if (state.status === 'deleted') expect(next).toEqual(state);
        expect(next.generation).toBeGreaterThanOrEqual(state.generation);
        expect(next.files_generation).toBeLessThanOrEqual(next.generation);
        state = next;
      }
    }
  });

  it('leads out of every state but the last', () => {
    for (const status of COMPUTER_STATUSES) expect(TRANSITIONS[status].length > 0).toBe(status !== 'deleted');
  });

  it('refuses with a sentence that names the state', () => {
    const refusal = (status: ComputerStatus): string => {
      try {
        expectLegal(status, 'exec');
        return '';
      } catch (error) {
        return (error as Error).message;
      }
    };
    expect(refusal('running')).toBe('');
    expect(refusal('stopped')).toBe(
      'the computer is stopped: one cannot run commands in it now; it must be running',
    );
  });
});

describe('names', () => {
  it('are names, also with a number', () => {
    for (let draw = 0; draw < 1000; draw += 1) {
      expect(isName(nameOf(draw / 1000, draw % 8))).toBe(true);
    }
    expect(isName('templates')).toBe(false);
  });
});

function commandsAt(state: ComputerState, machine: string): ComputerCommand[] {
  const { generation } = state;
  return [
    { ...START, machine },
    { ...START, machine, supersedes: generation },
    { ...START, machine, supersedes: generation, holder: generation },
    started(generation),
    started(generation - 1),
    { type: 'start_failed', generation, message: 'x' },
    { type: 'begin_stop' },
    stopped(generation),
    stopped(generation, `computers/cmp_1/${generation}.tar.zst`),
    { type: 'rewind', snapshot: `computers/cmp_1/rewound-${generation}.tar.zst` },
    { type: 'missed' },
    ...(generation > 6 ? ([{ type: 'begin_delete' }, { type: 'deleted' }] as const) : []),
  ];
}
