/**
 * Computers that nobody uses go to sleep: one of its owner's after the time that was set for it, and a session's that somebody else than
 * the session has woken after the time that sessions leave theirs awake. While a session's runner holds its computer, that is the runner's.
 * How long nobody has used it is known where it is awake, and ends with that.
 */
import { readIdleTimeouts, type IdleRow } from '../../store/computer/keeping.ts';
import type { Runtime } from '../runtime.ts';
import type { Computers } from './computers.ts';

export type IdleSleep = { stop: () => Promise<void> };

const ROUND_MS = 1000;

export function startIdleSleep(runtime: Runtime, computers: Computers, round_ms = ROUND_MS): IdleSleep {
  let is_over = false;
  let timer: NodeJS.Timeout | undefined;
  let round = Promise.resolve();
  const schedule = (): void => {
    if (is_over) return;
    timer = setTimeout(() => {
      round = putToSleep(runtime, computers)
        .catch((error: unknown) => runtime.logger.warn({ err: error }, 'idle computers were not looked for'))
        .then(schedule);
    }, round_ms);
    timer.unref();
  };
  schedule();
  return {
    stop: async () => {
      is_over = true;
      clearTimeout(timer);
      await round;
    },
  };
}

/** One look at those that are awake here. */
async function putToSleep(runtime: Runtime, computers: Computers): Promise<void> {
  const unused = computers.unused();
  for (const row of await readIdleTimeouts(runtime.database.db, unused)) {
    // It would have to be waited for.
    if (computers.busy(row.id)) continue;
    await putOneToSleep(runtime, computers, row).catch((error: unknown) =>
      runtime.logger.warn({ err: error, computer: row.id }, 'an idle computer was not put to sleep'),
    );
  }
}

async function putOneToSleep(runtime: Runtime, computers: Computers, row: IdleRow): Promise<void> {
  const after_ms = await sleepsAfter(runtime, computers, row);
  if (after_ms === null) return;
  await computers.sleepUnused(row.id, after_ms, row.session_id === null ? undefined : 'save');
}

/** null = not by itself. */
async function sleepsAfter(runtime: Runtime, computers: Computers, row: IdleRow): Promise<number | null> {
  const { id, session_id, idle_timeout_s } = row;
  const own_ms = idle_timeout_s > 0 ? idle_timeout_s * 1000 : null;
  if (session_id === null) return own_ms;
  const { turn, computer } = await runtime.log.state(session_id);
  const held =
    computer?.id === id && computer.awake && computer.generation === computers.awake(id)?.generation;
  return turn !== null || held ? null : (own_ms ?? runtime.rules.hibernate_after_ms);
}
