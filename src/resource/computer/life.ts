/**
 * The life of a computer: its states, the one table of transitions, and the rules of what may be asked when. Pure: the state is a
 * function of the computer's log (contract §4). Whatever is not in the table is refused as `conflict`, with a sentence.
 */
import { OverwinterError } from '../error.ts';
import type { DriverName, Reference } from './driver.ts';
import type { ComputerDraft, ComputerEvent } from './event.ts';
import type { ComputerSpec } from './spec.ts';

export const COMPUTER_STATUSES = [
  ...(['creating', 'running', 'stopping', 'stopped', 'starting', 'restoring', 'restorable'] as const),
  ...(['deleting', 'deleted', 'error', 'lost'] as const),
] as const;
export type ComputerStatus = (typeof COMPUTER_STATUSES)[number];

/** From a state to those that may follow it. */
export const TRANSITIONS: Record<ComputerStatus, readonly ComputerStatus[]> = {
  creating: ['running', 'stopped', 'restorable', 'lost', 'error', 'deleting'],
  running: [
    'running',
    'starting',
    'stopping',
    'stopped',
    'restoring',
    'restorable',
    'lost',
    'deleting',
    'error',
  ],
  stopping: ['stopped', 'starting', 'restoring', 'restorable', 'lost', 'deleting', 'error'],
  stopped: ['starting', 'restoring', 'restorable', 'lost', 'deleting'],
  starting: ['running', 'starting', 'restoring', 'stopped', 'restorable', 'lost', 'error', 'deleting'],
  restoring: ['running', 'restoring', 'starting', 'stopped', 'restorable', 'lost', 'error', 'deleting'],
  restorable: ['restoring', 'starting', 'stopped', 'deleting'],
  error: ['starting', 'restoring', 'deleting'],
  lost: ['stopped', 'deleting'],
  deleting: ['deleted'],
  deleted: [],
};

/** What people ask for, and the states in which it is served: at once, once it is there, or because it is so already. */
const ACTIONS = {
  exec: ['running'],
  terminal: ['running'],
  start: ['stopped', 'error', 'restorable', 'running', 'starting', 'restoring', 'creating'],
  stop: ['running', 'stopped', 'stopping'],
  snapshot: ['running', 'stopped'],
  rewind: ['running', 'stopped'],
  publish: ['running', 'stopped', 'creating', 'starting'],
  restore: ['restorable', 'error'],
  delete: [
    'creating',
    'running',
    'stopping',
    'stopped',
    'starting',
    'restoring',
    'restorable',
    'error',
    'lost',
  ],
} satisfies Record<string, readonly ComputerStatus[]>;
export type Action = keyof typeof ACTIONS;

const SENTENCES: Record<Action, string> = {
  exec: 'run commands in it',
  terminal: 'open a terminal',
  start: 'start it',
  stop: 'stop it',
  snapshot: 'take a snapshot',
  rewind: 'go back to a snapshot',
  publish: 'publish a port',
  restore: 'restore it',
  delete: 'delete it',
};

/** @throws OverwinterError `conflict` */
export function expectLegal(status: ComputerStatus, action: Action): void {
  const refusal = unlessIn(status, ACTIONS[action], action);
  if (refusal) throw refusal;
}

export type ComputerState = {
  id: string;
  head: number;
  last_ts: number;
  status: ComputerStatus;
  name: string;
  driver: DriverName;
  spec: ComputerSpec | null;
  session: string | null;
  /** The machine that has the files, or will. */
  machine: string;
  /** Of the last wake that was meant, and of the last that is known to have happened. */
  generation: number;
  files_generation: number;
  /** The epoch of the session's runner that woke it last. */
  holder: number;
  reference: Reference | null;
  /** The blob with its last saved files. */
  snapshot: string | null;
  last_error: string | null;
  /** In ms since the epoch. */
  created_at: number;
  stopped_at: number | null;
};

export function emptyComputer(id: string): ComputerState {
  return {
    ...{ id, head: 0, last_ts: 0, status: 'creating', name: '', driver: 'bwrap', spec: null, session: null },
    ...{ machine: '', generation: 0, files_generation: 0, holder: 0, reference: null, snapshot: null },
    ...{ last_error: null, created_at: 0, stopped_at: null },
  };
}

/** What one event does to a computer. Total; an event that does not fit changes only `head`. */
export function evolveComputer(state: ComputerState, event: ComputerEvent): ComputerState {
  const after = effect(state, event);
  const moved = after.status === state.status || TRANSITIONS[state.status].includes(after.status);
  return { ...(moved ? after : state), head: event.seq, last_ts: event.ts };
}

function effect(state: ComputerState, event: ComputerEvent): ComputerState {
  switch (event.type) {
    case 'computer.created': {
      const { name, machine, driver, spec, session, from_snapshot, generation } = event.body;
      const made = { name, machine, driver: driver as DriverName, spec, session, snapshot: from_snapshot };
      const files = { generation, files_generation: generation };
      return { ...state, ...made, ...files, status: 'creating', created_at: event.ts };
    }
    case 'computer.starting': {
      const { machine, generation, holder } = event.body;
      return {
        ...{ ...state, machine, generation, status: startingFrom(state, machine), last_error: null },
        holder: Math.max(state.holder, holder ?? 0),
      };
    }
    case 'computer.started': {
      const { generation, reference } = event.body;
      // What it was made from is behind it: its files are its own from now on.
      const snapshot = isOwnBlob(state.id, state.snapshot) ? state.snapshot : null;
      return { ...state, status: 'running', files_generation: generation, reference, snapshot };
    }
    case 'computer.stopping':
      return { ...state, status: 'stopping' };
    case 'computer.stopped': {
      const { snapshot } = event.body;
      return { ...state, status: 'stopped', stopped_at: event.ts, snapshot: snapshot ?? state.snapshot };
    }
    case 'computer.rewound': {
      // Files of earlier generations are stale from now on, so the next wake brings the snapshot's.
      const { generation, snapshot } = event.body;
      return { ...state, generation, files_generation: generation, snapshot };
    }
    case 'computer.failed':
      return { ...state, status: 'error', last_error: event.body.message };
    case 'computer.missed':
      return { ...state, status: event.body.restorable ? 'restorable' : 'lost' };
    case 'computer.deleting':
      return { ...state, status: 'deleting' };
    case 'computer.deleted':
      return { ...state, status: 'deleted' };
    default:
      return event satisfies never;
  }
}

/** Whether the blob is the computer's own, and not a snapshot that it was made from. */
export function isOwnBlob(id: string, blob: string | null): boolean {
  return blob?.startsWith(`computers/${id}/`) === true;
}

/** A first start is part of the creation; one on another machine brings back what was saved. */
function startingFrom(state: ComputerState, machine: string): ComputerStatus {
  if (state.status === 'creating') return 'creating';
  if (state.status === 'restorable' || state.machine !== machine) return 'restoring';
  return 'starting';
}

export type ComputerCommand =
  /**
   * Wake it on this machine. `supersedes`: the generation that the caller knows to be over, where one is on record as running or on its
   * way; `holder`: the epoch of the runner that asks for its session.
   */
  | { type: 'begin_start'; machine: string; supersedes: number | null; holder: number | null }
  | { type: 'started'; generation: number; reference: Reference; files: 'kept' | 'restored' | 'empty' }
  | { type: 'start_failed'; generation: number; message: string }
  | { type: 'begin_stop' }
  | { type: 'stopped'; generation: number; cause: 'asked' | 'idle' | 'node_ended'; snapshot: string | null }
  /** Its next files are those of this blob, which is its own. */
  | { type: 'rewind'; snapshot: string }
  | { type: 'missed' }
  | { type: 'begin_delete' }
  | { type: 'deleted' };

/** The events that the command writes; none when it is already so. */
export function decideComputer(
  state: ComputerState,
  command: ComputerCommand,
): ComputerDraft[] | OverwinterError {
  const { status, generation } = state;
  switch (command.type) {
    case 'begin_start':
      return beginStart(state, command);
    case 'started':
      if (command.generation !== generation) return superseded();
      if (status === 'running') return [];
      if (status !== 'creating' && status !== 'starting' && status !== 'restoring') return superseded();
      return [
        {
          type: 'computer.started',
          body: { generation, reference: command.reference, files: command.files },
        },
      ];
    case 'start_failed':
      if (command.generation !== generation || status === 'deleting' || status === 'deleted') return [];
      return [{ type: 'computer.failed', body: { message: command.message } }];
    case 'begin_stop':
      if (status === 'stopping') return [];
      return unlessIn(status, ['running'], 'stop') ?? [{ type: 'computer.stopping', body: { generation } }];
    case 'stopped': {
      const { cause, snapshot } = command;
      const is_so = status === 'stopped' && (snapshot === null || snapshot === state.snapshot);
      if (command.generation !== generation || is_so) return [];
      if (status !== 'stopped' && !TRANSITIONS[status].includes('stopped')) return [];
      return [{ type: 'computer.stopped', body: { cause, snapshot } }];
    }
    case 'rewind': {
      const body = { generation: generation + 1, snapshot: command.snapshot };
      return unlessIn(status, ['stopped'], 'rewind') ?? [{ type: 'computer.rewound', body }];
    }
    case 'missed': {
      const restorable = state.snapshot !== null;
      if (!TRANSITIONS[status].includes(restorable ? 'restorable' : 'lost')) return [];
      return [{ type: 'computer.missed', body: { restorable } }];
    }
    case 'begin_delete':
      if (status === 'deleting' || status === 'deleted') return [];
      return [{ type: 'computer.deleting', body: {} }];
    case 'deleted':
      return status === 'deleting' ? [{ type: 'computer.deleted', body: {} }] : [];
    default:
      return command satisfies never;
  }
}

function beginStart(
  state: ComputerState,
  command: Extract<ComputerCommand, { type: 'begin_start' }>,
): ComputerDraft[] | OverwinterError {
  const { status, generation } = state;
  const { machine, holder, supersedes } = command;
  if (holder !== null && holder < state.holder)
    return new OverwinterError('fenced', 'another runner holds the session');
  const fresh = status === 'creating' && generation === state.files_generation;
  const over = supersedes === generation && UNDER_WAY.includes(status);
  const refusal = fresh || over ? undefined : unlessIn(status, ['stopped', 'error', 'restorable'], 'start');
  if (refusal) return refusal;
  return [{ type: 'computer.starting', body: { machine, generation: generation + 1, holder } }];
}

const UNDER_WAY: readonly ComputerStatus[] = ['creating', 'running', 'starting', 'restoring', 'stopping'];

function unlessIn(
  status: ComputerStatus,
  legal: readonly ComputerStatus[],
  action: Action,
): OverwinterError | undefined {
  if (legal.includes(status)) return undefined;
  const states = legal.length > 3 ? '' : `; it must be ${legal.join(' or ')}`;
  return new OverwinterError(
    'conflict',
    `the computer is ${status}: one cannot ${SENTENCES[action]} now${states}`,
  );
}

function superseded(): OverwinterError {
  return new OverwinterError('fenced', 'the computer has been started again, or deleted, since');
}
