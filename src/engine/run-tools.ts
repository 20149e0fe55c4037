/** One round of tool calls, in the order the model gave them: each may use what the one before it left in the computer. */
import { ComputerLost, type Computer } from '../resource/computer/driver.ts';
import type { Tool, ToolOutcome } from '../resource/tool.ts';
import type { PendingCall } from '../session/state.ts';
import { holds } from '../store/leases.ts';
import { OverwinterError } from '../resource/error.ts';
import { bash } from '../tool/bash.ts';
import { edit } from '../tool/edit.ts';
import type { Computers } from './computers/computers.ts';
import { noted } from './computers/exec/noted.ts';
import { attach } from './computers/session.ts';
import { whileInterruptible } from './interrupt.ts';
import { currentTranscript, write, type Runner } from './runner.ts';
import type { Runtime } from './runtime.ts';
import type { Leaving } from './turn.ts';

const TOOLS = new Map<string, Tool>([bash, edit].map((tool) => [tool.name, tool]));

export async function runTools(
  runtime: Runtime,
  computers: Computers,
  runner: Runner,
  calls: PendingCall[],
  leaving: Leaving,
): Promise<void> {
  const { inputs } = await currentTranscript(runtime, runner);
  const results: { call_id: string; result: ToolOutcome }[] = [];
  for (const call of calls) {
    await assertHeld(runtime, runner);
    const input = inputs.get(call.call_id);
    const { outcome, interrupted } = await whileInterruptible(runtime, runner, leaving.now, (signal) =>
      runCall(runtime, computers, runner, call, input, signal),
    );
    await runtime.fail('tool.ran');
    results.push({ call_id: call.call_id, result: outcome ?? UNSETTLED });
    if (interrupted) break;
  }
  await write(runtime, runner, { type: 'tools_finished', results, pause: leaving.asked.aborted });
}

async function runCall(
  runtime: Runtime,
  computers: Computers,
  runner: Runner,
  call: PendingCall,
  input: unknown,
  signal: AbortSignal,
): Promise<ToolOutcome> {
  const tool = TOOLS.get(call.tool);
  if (!tool) return { outcome: 'error', content: `There is no tool named "${call.tool}".` };
  const { blobs, settings } = runtime;
  try {
    return await tool.run(input, {
      call_id: call.call_id,
      computer: () => attachNoted(runtime, computers, runner, call),
      blobs,
      blob_prefix: `sessions/${runner.claim.stream}/output/${runner.state.head}-`,
      signal,
      limits: settings,
    });
  } catch (error) {
    // Its owner is deleting the computer: the model is told, and the next call makes a new one.
    if (error instanceof OverwinterError && error.code === 'conflict')
      return { outcome: 'error', content: error.message };
    if (error instanceof OverwinterError) throw error;
    if (error instanceof ComputerLost) return { outcome: 'unknown', content: `${error.message} ${LOST}` };
    runtime.logger.error({ err: error, session: runner.claim.stream, tool: call.tool }, 'a tool failed');
    return { outcome: 'error', content: 'The runtime could not run this tool. Try again, or another way.' };
  }
}

/** The commands of the agent are in the computer's history; what its other tools do there are no commands. */
async function attachNoted(
  runtime: Runtime,
  computers: Computers,
  runner: Runner,
  { tool }: PendingCall,
): Promise<Computer> {
  const computer = await attach(runtime, computers, runner);
  const computer_id = runner.state.computer?.id;
  if (tool !== bash.name || computer_id === undefined) return computer;
  const of = { org: runner.claim.org, computer_id, source: 'agent' } as const;
  return noted(runtime, computers.history, of, computer);
}

const LOST =
  'The processes of your computer ended during this call; it starts again with the next one. Files stay.';

const UNSETTLED: ToolOutcome = {
  outcome: 'canceled',
  content: 'The call was interrupted and did not end in time; it may have taken effect in part.',
};

/** A runner that was stopped past its lease, or whose turn was taken over, must not start a tool: it asks before each. */
async function assertHeld(runtime: Runtime, runner: Runner): Promise<void> {
  if (await holds(runtime.database.db, runner.claim)) return;
  throw new OverwinterError('fenced', 'another runner holds the session');
}
