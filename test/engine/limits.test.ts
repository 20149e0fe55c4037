/**
 * Limits and cancels hold whatever the model and the people do at the same time: many sessions at once through the real engine, on a
 * real log, with a stand-in model over HTTP and real commands. The rules are checked on what the log says afterwards.
 * `OVERWINTER_FUZZ_SEED` makes a run happen again, but for the timing.
 */
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { describe, expect, it } from 'vitest';
import { submit } from '../../src/engine/submit.ts';
import { archiveSession } from '../../src/engine/sessions.ts';
import type { SessionEvent } from '../../src/session/event.ts';
import { startEngine, type Engine } from '../helpers/fuzz/engine.ts';
import {
  answer,
  cancelPlan,
  checkCancel,
  checkLimits,
  limitsOf,
  percentiles,
  planOf,
  POINTS,
  type Plan,
  type Point,
} from '../helpers/fuzz/limits.ts';
import { numberOf, randomOf, type Random } from '../helpers/fuzz/random.ts';
import { startMessagesApi, type MessagesApi } from '../helpers/model/messages-api.ts';

const SEED = numberOf('OVERWINTER_FUZZ_SEED', 1);
const RUNS = numberOf('OVERWINTER_LIMIT_RUNS', 200);
const AT_ONCE = 48;
const TEST_MS_MAX = 120_000 + RUNS * 150;

describe(`limits (seed ${SEED})`, () => {
  it(`hold in ${RUNS} sessions`, { timeout: TEST_MS_MAX }, async () => {
    const { api, engine, close } = await start();
    const found = { overshoot: 0, late_ms: 0, reasons: {} as Record<string, number>, faults: [] as string[] };
    try {
      await inParallel(RUNS, async (run) => {
        const random = randomOf(SEED, run);
        const limits = limitsOf(random);
        const plan = planOf(run, random, limits.turn_seconds === 1 && random.chance(0.5));
        const id = await engine.create(JSON.stringify(plan), limits);
        const turns = 1 + random.below(3);
        for (let turn = 1; turn <= turns; turn += 1) {
          await engine.atRest(id);
          if (turn < turns) await engine.say(id, 'go on');
        }
        const events = await engine.events(id);
        const checked = checkLimits(events, limits);
        found.overshoot = Math.max(found.overshoot, checked.overshoot);
        found.late_ms = Math.max(found.late_ms, checked.late_ms);
        for (const reason of checked.reasons) found.reasons[reason] = (found.reasons[reason] ?? 0) + 1;
        found.faults.push(
          ...checked.faults.map((fault) => `run ${run} ${JSON.stringify(limits)} ${id}: ${fault}`),
        );
      });
      const { overshoot, late_ms, reasons } = found;
      console.log(
        `limits: overshoot at most ${overshoot.toFixed(2)} of the last input, ${late_ms} ms after the deadline at most: ${JSON.stringify(reasons)}`,
      );
      expect(found.faults.slice(0, 10)).toEqual([]);
      expect(engine.errors).toEqual([]);
      expect(api.refused).toEqual([]);
    } finally {
      await close();
    }
  });
});

describe(`cancels (seed ${SEED})`, () => {
  it(`end their turns in ${RUNS} sessions`, { timeout: TEST_MS_MAX }, async () => {
    const { api, engine, close } = await start();
    // Everything runs in this one process: what it stands still for is no fault of the engine, and is said.
    const stalls = monitorEventLoopDelay();
    stalls.enable();
    const took: number[] = [];
    const points: Record<string, number> = {};
    const faults: string[] = [];
    try {
      await inParallel(RUNS, async (run) => {
        const random = randomOf(SEED + 1, run);
        const point = random.pick(POINTS);
        const id = await engine.create(JSON.stringify(cancelPlan(run, point, random)), { turn_seconds: 60 });
        const archives = await disturb(engine, id, point, random);
        const { turn, archived } = await engine.atRest(id);
        const checked = checkCancel(await engine.events(id));
        points[`${point} ${checked.outcome}`] = (points[`${point} ${checked.outcome}`] ?? 0) + 1;
        took.push(...checked.took);
        if (turn !== null || archived !== archives) checked.faults.push('it is not at rest as asked');
        if (!archived && run % 5 === 0) checked.faults.push(...(await goesOn(engine, id)));
        faults.push(...checked.faults.map((fault) => `run ${run} ${point} ${id}: ${fault}`));
      });
      stalls.disable();
      const stalled_ms = Math.round(stalls.max / 1e6);
      console.log(`cancels: ${percentiles(took)}; stalls of ${stalled_ms} ms: ${JSON.stringify(points)}`);
      expect(faults.slice(0, 10)).toEqual([]);
      expect(engine.errors).toEqual([]);
      expect(api.refused).toEqual([]);
    } finally {
      await close();
    }
  });

  it('end the turns of runners that are dead or hang', { timeout: TEST_MS_MAX }, async () => {
    const { api, engine, close } = await start();
    const took: number[] = [];
    const faults: string[] = [];
    const rounds = Math.max(2, Math.ceil(RUNS / 1000));
    try {
      for (let round = 0; round < rounds; round += 1) {
        const checked = await cancelOfTheDead(engine, round);
        took.push(...checked.took);
        faults.push(...checked.faults);
      }
      console.log(`cancels of dead runners: ${percentiles(took)}`);
      expect(took.length).toBeGreaterThan(rounds * DEAD_AT_ONCE * 0.9);
      expect(faults.slice(0, 10)).toEqual([]);
      expect(api.refused).toEqual([]);
    } finally {
      await close();
    }
  });
});

async function start(): Promise<{ api: MessagesApi; engine: Engine; close: () => Promise<void> }> {
  const api = await startMessagesApi((request) => {
    // What it was asked is not looked at afterwards, and would be kept.
    api.requests.length = 0;
    api.ledger.length = 0;
    return answer(request);
  });
  const engine = await startEngine({ base_url: api.base_url });
  const close = async (): Promise<void> => {
    await engine.close();
    await api.close();
  };
  return { api, engine, close };
}

/** Cancels at the point, and does what races with it. Resolves to whether the session was asked to be archived. */
async function disturb(engine: Engine, id: string, point: Point, random: Random): Promise<boolean> {
  const { runtime } = engine;
  const cancel = (): Promise<unknown> => submit(runtime, id, { type: 'cancel' });
  if (point === 'claimed') await seen(engine, id, 'turn.started');
  else if (point === 'in the model call') await seen(engine, id, 'model.requested');
  else if (point === 'in a tool' || point === 'in a stubborn tool')
    await seen(engine, id, 'computer.attached');
  else if (point !== 'at once')
    await seen(engine, id, random.pick(['turn.started', 'model.requested', 'model.responded']));
  if (point !== 'at once' && point !== 'claimed') await pause(random.below(point === 'between' ? 60 : 200));
  if (point === 'with a message') await Promise.all([engine.say(id, 'and this'), cancel()]);
  else if (point === 'with an archive') await Promise.all([cancel(), archiveSession(runtime, id)]);
  else if (point === 'twice') await Promise.all([cancel(), cancel(), cancel()]);
  else await cancel();
  if (point === 'with a message' || point === 'at once') await settle(engine, id);
  return point === 'with an archive';
}

/** What was not canceled, because no turn was there yet, or because its message came after: canceled until nothing is left. */
async function settle(engine: Engine, id: string): Promise<void> {
  for (;;) {
    const resting = await Promise.race([engine.atRest(id).then(() => true), pause(100).then(() => false)]);
    if (resting) return;
    await submit(engine.runtime, id, { type: 'cancel' });
  }
}

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/** Resolves once the session's log has an event of the type. */
async function seen(engine: Engine, id: string, type: SessionEvent['type']): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const look = async (): Promise<void> => {
    const events = await engine.events(id);
    if (events.some((event) => event.type === type)) resolve();
  };
  const unwatch = engine.runtime.follow.watch(id, () => void look());
  void look();
  await promise;
  unwatch();
}

/** A turn of the session works. */
async function goesOn(engine: Engine, id: string): Promise<string[]> {
  const before = (await engine.ends(id)).length;
  await engine.say(id, 'and now?');
  await pause(0);
  // The plan may hold it up again; then it is canceled again, and the session is still good for the next.
  const resting = await Promise.race([engine.atRest(id).then(() => true), pause(500).then(() => false)]);
  if (!resting) await settle(engine, id);
  const ends = await engine.ends(id);
  const reason = ends.at(-1)?.body.yield_reason ?? '';
  return ends.length > before && ['completed', 'canceled'].includes(reason)
    ? []
    : [`the next turn ended as ${reason}`];
}

const DEAD_AT_ONCE = 40;

/**
 * A second node takes the sessions, and hangs or dies in a model call or in a tool; then they are canceled on the first, which
 * has to end their turns although it does not run them.
 */
async function cancelOfTheDead(engine: Engine, round: number): Promise<{ took: number[]; faults: string[] }> {
  const never = new Promise<never>(() => undefined);
  const in_tool = round % 2 === 1;
  await engine.pause();
  const hung = { ...engine.runtime.driver, wake: () => never };
  const zombie = await engine.startNode({
    provider: in_tool ? engine.runtime.provider : { respond: () => never },
    ...{ driver: hung, drivers: new Map([[hung.name, hung]]) },
    settings: { ...engine.runtime.settings, turns_at_once_max: DEAD_AT_ONCE },
    // It hears of nothing any more.
    follow: { ...engine.runtime.follow, watch: () => () => undefined },
  });
  const plan: Plan = { run: round, steps: [{ input: 1, output: 1, does: 'bash', pause_ms: 0, at: 0 }] };
  const ids = await Promise.all(
    Array.from({ length: DEAD_AT_ONCE }, () => engine.create(JSON.stringify(plan), { turn_seconds: 120 })),
  );
  zombie.worker.wake();
  const last = in_tool ? 'tool.call' : 'model.requested';
  for (const id of ids) await seen(engine, id, last);
  // Its lease lives on for seconds: nobody but a cancel may take a turn from it.
  const is_dead = round % 3 === 2;
  if (is_dead) await zombie.heartbeat.stop();
  engine.resume();
  const random = randomOf(SEED + 2, round);
  await Promise.all(
    ids.map(async (id) => {
      await pause(random.below(1000));
      await submit(engine.runtime, id, { type: 'cancel' });
    }),
  );
  const took: number[] = [];
  const faults: string[] = [];
  for (const id of ids) await engine.atRest(id);
  // Whatever it still had in mind, it writes nothing.
  await zombie.abandon();
  for (const id of ids) {
    const checked = checkCancel(await engine.events(id));
    took.push(...checked.took);
    faults.push(...checked.faults.map((fault) => `round ${round} ${id}: ${fault}`));
  }
  faults.push(...(await goesOn(engine, ids[0]!)));
  return { took, faults };
}

async function inParallel(count: number, work: (number: number) => Promise<void>): Promise<void> {
  let next = 0;
  const one = async (): Promise<void> => {
    while (next < count) await work(next++);
  };
  await Promise.all(Array.from({ length: AT_ONCE }, one));
}
