/**
 * The turn runner: a loop that does what `next` says and appends what came of it. It keeps nothing that the log does not; killed
 * at any point, another runner goes on from the last append.
 */
import { OverwinterError } from '../resource/error.ts';
import { next } from '../session/next.ts';
import type { Claim } from '../store/leases.ts';
import { release } from '../store/leases.ts';
import { callModel } from './call-model.ts';
import type { Computers } from './computers/computers.ts';
import { hibernate } from './computers/hibernate.ts';
import { whileInterruptible } from './interrupt.ts';
import { openRunner, write, type Runner } from './runner.ts';
import { runTools } from './run-tools.ts';
import type { Runtime } from './runtime.ts';

/** How a node that stops asks its runners to leave: at the next checkpoint, and then at once. */
export type Leaving = { asked: AbortSignal; now: AbortSignal };

/** Works on a claimed session until nothing is left to do now, the node is leaving, or another runner holds it. */
export async function runSession(
  runtime: Runtime,
  computers: Computers,
  claim: Claim,
  leaving: Leaving,
): Promise<void> {
  const { db } = runtime.database;
  try {
    const runner = await openRunner(runtime, claim);
    await loop(runtime, computers, runner, leaving);
    if (!runner.released) await release(db, claim);
  } catch (error) {
    if (error instanceof OverwinterError && error.code === 'fenced') {
      return await leaveToAnother(runtime, computers, claim);
    }
    // The session goes to whoever claims it next; a failed release is made good by the lease's death.
    await release(db, claim).catch(() => undefined);
    throw error;
  }
}

/** A computer that another node has woken since is no longer ours: it would run on here unseen. */
async function leaveToAnother(runtime: Runtime, computers: Computers, claim: Claim): Promise<void> {
  const { computer } = await runtime.log.state(claim.stream);
  if (computer && computer.node !== runtime.machine) await computers.letGo(computer.id);
}

async function loop(runtime: Runtime, computers: Computers, runner: Runner, leaving: Leaving): Promise<void> {
  await write(runtime, runner, { type: 'begin', node: runtime.node });
  // Once a write has given the lease back, what is left to do is for whoever claims the session next.
  while (!runner.released) {
    const { state } = runner;
    const step = next(state, runtime.now(), runtime.rules);
    const at_checkpoint = step.do !== 'call_model' && step.do !== 'run_tools';
    if (leaving.asked.aborted && at_checkpoint) return;
    switch (step.do) {
      case 'start_turn':
        await write(runtime, runner, { type: 'begin', node: runtime.node });
        break;
      case 'request_model':
      case 'end_turn':
      case 'archive':
        await write(runtime, runner, { type: 'advance' });
        break;
      case 'call_model':
        await callModel(runtime, runner, step, leaving);
        break;
      case 'run_tools':
        await runTools(runtime, computers, runner, step.calls, leaving);
        break;
      case 'hibernate':
        await hibernate(runtime, computers, runner);
        break;
      case 'wait':
        // Outside a turn the wait is the stream's `due_at`, not a timer of ours.
        if (!state.turn || step.until === null) return;
        await pause(runtime, runner, step.until, leaving);
        break;
      default:
        step satisfies never;
    }
  }
}

/** Waits out a back-off, or less: a cancel, the deadline and the node's leaving end it. */
async function pause(runtime: Runtime, runner: Runner, until: number, leaving: Leaving): Promise<void> {
  await whileInterruptible(runtime, runner, leaving.asked, async (signal) => {
    if (signal.aborted) return;
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, Math.max(0, until - runtime.now()));
      signal.addEventListener('abort', () => (clearTimeout(timer), resolve()), { once: true });
    });
  });
  runner.state = await runtime.log.state(runner.claim.stream, 'held');
}
