/**
 * A runner holds one claimed session: its state, and the transcript of what it has read. It writes with the epoch of its claim,
 * so once another runner holds the session every write is refused as `fenced`.
 */
import type { Command } from '../session/command.ts';
import type { SessionState } from '../session/state.ts';
import { emptyTranscript, extend, type Transcript } from '../session/transcript.ts';
import { status } from '../session/state.ts';
import { readEvents } from '../store/events.ts';
import type { Claim } from '../store/leases.ts';
import type { Runtime } from './runtime.ts';
import { submit } from './submit.ts';

export type Runner = {
  claim: Claim;
  state: SessionState;
  transcript: Transcript;
  /** The seq up to which the transcript has read; 0 = nothing yet. */
  read_seq: number;
  /** Whether the last write gave the lease back. */
  released: boolean;
};

export async function openRunner(runtime: Runtime, claim: Claim): Promise<Runner> {
  const state = await runtime.log.state(claim.stream);
  return { claim, state, transcript: emptyTranscript(), read_seq: 0, released: false };
}

/** Appends what the command decides, and takes over the new state with whatever slipped in before it. */
export async function write(runtime: Runtime, runner: Runner, command: Command): Promise<void> {
  const { stream, epoch } = runner.claim;
  const { state, written } = await submit(runtime, stream, command, { epoch });
  await runtime.fail(`turn.${command.type}`);
  runner.state = state;
  if (written.length > 0) runner.released = status(state) !== 'running' && status(state) !== 'queued';
  if (runner.read_seq === 0 || written[0]?.seq !== runner.read_seq + 1) return;
  for (const event of written) extend(runner.transcript, event);
  runner.read_seq = written.at(-1)!.seq;
}

/** The transcript up to the runner's state; reads the log only for what others wrote. */
export async function currentTranscript(runtime: Runtime, runner: Runner): Promise<Transcript> {
  const { db } = runtime.database;
  const { stream } = runner.claim;
  if (runner.read_seq === 0) {
    const created = (await readEvents(db, stream, 1, 1)).events;
    for (const event of created) extend(runner.transcript, event);
    runner.read_seq = runner.state.context_from_seq - 1;
  }
  if (runner.read_seq < runner.state.head) {
    const { events } = await readEvents(db, stream, runner.read_seq + 1, runner.state.head);
    for (const event of events) extend(runner.transcript, event);
    runner.read_seq = events.at(-1)?.seq ?? runner.read_seq;
  }
  return runner.transcript;
}
