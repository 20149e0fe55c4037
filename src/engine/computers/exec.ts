/** One command in a running computer, for its owner: bounded in time and output, noted in the computer's history. */
import type { Computer, ExecSpec, Execution, Exit, OutputChunk } from '../../resource/computer/driver.ts';
import type { ComputerState } from '../../resource/computer/life.ts';
import type { CommandStatus } from '../../store/computer/commands.ts';
import type { Runtime } from '../runtime.ts';
import type { Computers } from './computers.ts';
import { createPile } from './exec/pile.ts';
import type { History } from './history.ts';

export type CommandRequest = {
  /** Where the caller has to know it before. */
  id?: string;
  script: string;
  timeout_ms: number;
  /** Who asked, as the history shows it. */
  source: 'api' | 'agent' | 'visit' | 'deployment';
  cwd?: string;
  env?: Record<string, string>;
  stdin?: AsyncIterable<Uint8Array> | Uint8Array;
  signal?: AbortSignal;
  /** Of each of the two streams; default: the configured bound. */
  output_bytes_max?: number;
};

export type CommandEnd = {
  /** 124 after the time limit, 137 when the computer's processes ended under it. */
  exit_code: number;
  timed_out: boolean;
  /** `out_of_memory`, `timeout`, `aborted`, `computer_lost`, or null. */
  error_type: string | null;
  duration_ms: number;
};

export type RunningCommand = {
  id: string;
  started_at: Date;
  /** What it writes, as it comes; must be drained. Each stream ends at the bound. */
  output: AsyncIterable<OutputChunk>;
  end: Promise<CommandEnd>;
  said: Said;
};

export const HOME = '/home/agent';
/** Drivers set no timer for it. */
export const NO_LIMIT_MS = 2 ** 31;
const EXIT_TIMEOUT = 124;
const EXIT_KILLED = 137;

/** @throws OverwinterError `conflict` when the computer does not run. */
export async function runCommand(
  runtime: Runtime,
  computers: Computers,
  org: string,
  computer: ComputerState,
  request: CommandRequest,
): Promise<RunningCommand> {
  const { script, timeout_ms, source, signal, cwd = HOME, stdin, env } = request;
  const handle = await computers.use(computer.id);
  const { id = runtime.newId('command') } = request;
  const bytes_max = request.output_bytes_max ?? runtime.settings.computers.exec_output_bytes_max;
  const spec = {
    ...{ script, timeout_ms, cwd },
    ...(env && { env }),
    ...(signal && { signal }),
    ...(stdin && { stdin }),
  };
  const command = { org, id, computer_id: computer.id, source, bytes_max };
  return runNoted(runtime, computers.history, handle, spec, command);
}

type Noted = {
  org: string;
  id: string;
  computer_id: string;
  source: CommandRequest['source'];
  bytes_max: number;
};

/** Runs it, and notes in the computer's history that it began and how it ended, also where that cannot be told. */
export function runNoted(
  runtime: Runtime,
  history: History,
  handle: Pick<Computer, 'exec'>,
  spec: ExecSpec,
  { org, bytes_max, ...command }: Noted,
): RunningCommand & { exit: Promise<Exit> } {
  const started_at = new Date(Math.round(runtime.now()));
  const { timeout_ms } = spec;
  const noteEnd = history.begin(org, {
    ...{ ...command, node: runtime.machine, timeout_ms: Math.min(timeout_ms, NO_LIMIT_MS - 1), started_at },
  });
  const passed_ms = (): number => Math.round(runtime.now()) - started_at.getTime();
  const execution = handle.exec(spec);
  const said: Said = { stdout: 0, stderr: 0, truncated: false };
  const drained = Promise.withResolvers<void>();
  const output = bounded(execution, said, bytes_max, drained.resolve);
  const end = execution.exit.then((exit) => endOf(exit, passed_ms()));
  const noted = end.catch(() => ({ ...FAILED, duration_ms: passed_ms() }));
  // The rest of the output may come after the exit.
  void Promise.all([noted, drained.promise]).then(([{ exit_code, error_type, duration_ms }]) =>
    noteEnd({
      ...{ exit_code, error_type, status: statusOf(exit_code, error_type) },
      ended_at: new Date(started_at.getTime() + duration_ms),
      ...{ stdout_bytes: said.stdout, stderr_bytes: said.stderr },
    }),
  );
  return { id: command.id, started_at, output, end, exit: execution.exit, said };
}

/** What a command has said so far; `truncated`: some of it was dropped. */
type Said = { stdout: number; stderr: number; truncated: boolean };

/** Of a command that could not be run. */
export const FAILED: CommandEnd = {
  ...{ exit_code: EXIT_KILLED, timed_out: false, error_type: 'internal', duration_ms: 0 },
};

export type CommandResult = CommandEnd & {
  id: string;
  stdout: Uint8Array[];
  stderr: Uint8Array[];
  truncated: boolean;
};

/** The command's whole output, as far as there is room for it. @param take whether so many bytes more may be kept. */
export async function collect(
  command: RunningCommand,
  take: (bytes: number) => boolean,
): Promise<CommandResult> {
  const kept = { stdout: createPile(), stderr: createPile() };
  let is_full = false;
  for await (const { stream, data } of command.output) {
    // What is whole has no gaps: nothing follows where something is missing.
    is_full ||= !take(data.length);
    if (!is_full) kept[stream].push(data);
  }
  const end = await command.end;
  const truncated = is_full || command.said.truncated;
  return { ...end, id: command.id, truncated, stdout: kept.stdout.blocks(), stderr: kept.stderr.blocks() };
}

/** What is over the bound is read, counted and dropped: the command does not stand still for it. */
async function* bounded(
  { output }: Execution,
  said: Said,
  bytes_max: number,
  drained: () => void,
): AsyncGenerator<OutputChunk> {
  try {
    for await (const { stream, data } of output) {
      const left = Math.max(0, bytes_max - said[stream]);
      said[stream] += data.length;
      said.truncated ||= data.length > left;
      if (left > 0) yield { stream, data: data.subarray(0, left) };
    }
  } finally {
    drained();
  }
}

function endOf(exit: Exit, duration_ms: number): CommandEnd {
  switch (exit.outcome) {
    case 'exited': {
      const error_type = exit.out_of_memory ? 'out_of_memory' : null;
      return { exit_code: exit.exit_code ?? EXIT_KILLED, timed_out: false, error_type, duration_ms };
    }
    case 'timeout':
      return { exit_code: EXIT_TIMEOUT, timed_out: true, error_type: 'timeout', duration_ms };
    case 'aborted':
      return { exit_code: EXIT_KILLED, timed_out: false, error_type: 'aborted', duration_ms };
    case 'lost':
      return { exit_code: EXIT_KILLED, timed_out: false, error_type: 'computer_lost', duration_ms };
    default:
      return exit.outcome satisfies never;
  }
}

function statusOf(exit_code: number, error_type: string | null): CommandStatus {
  if (error_type === 'timeout') return 'timed_out';
  if (error_type === 'computer_lost') return 'lost';
  return exit_code === 0 ? 'completed' : 'failed';
}
