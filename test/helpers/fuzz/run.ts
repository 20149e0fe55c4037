/**
 * Sends cases to a server, many at once, with good requests between them that must keep working. Invariant: a slow answer counts only
 * when it is slow again with nothing else under way.
 */
import { connectTo, type Connection } from './connection.ts';
import type { Case } from './requests.ts';
import { numberOf } from './random.ts';
import { faultOf } from './verdict.ts';

export type Plan = {
  port: number;
  makeCase: (number: number) => Case;
  count: number;
  /** Connections that send at once. */
  at_once: number;
  /** Good requests, after every so many cases of a connection; throws when one does not work. */
  control: (number: number) => Promise<void>;
  control_every: number;
  /** Called now and then. */
  watch?: (done: number, faults: number) => void;
};

export type Report = {
  /** How many answers of each status; `closed` and `silent` where none was owed. */
  outcomes: Record<string, number>;
  faults: string[];
  slowest_ms: number;
  controls: number;
};

/** `npm run fuzz` asks for the second that is promised; beside other tests it only tells a hang. */
const SLOW_MS = numberOf('OVERWINTER_HANG_MS_MAX', 10_000);
/** So often a request is slow alone, too, before that is the server's fault and not the machine's. */
const SLOW_TIMES = 3;
/** A rotation answers once all requests that may have sealed something are over, whatever they take. */
const WAITS = /^POST \/v3\/master-key\/rotation\b/;
const FAULTS_MAX = 20;
const WATCH_EVERY = 2000;

export async function runCases(plan: Plan): Promise<Report> {
  const report: Report = { outcomes: {}, faults: [], slowest_ms: 0, controls: 0 };
  const slow: number[] = [];
  let next = 0;

  async function work(): Promise<void> {
    const connection = connectTo(plan.port);
    for (let own = 1; next < plan.count && report.faults.length < FAULTS_MAX; own += 1) {
      const number = next;
      next += 1;
      if (number % WATCH_EVERY === 0) plan.watch?.(number, report.faults.length);
      if ((await sendCase(plan, connection, number, report)) > SLOW_MS) slow.push(number);
      if (own % plan.control_every !== 0) continue;
      report.controls += 1;
      await plan
        .control(number)
        .catch((error: unknown) => report.faults.push(`a good request: ${String(error)}`));
    }
    connection.close();
  }

  await Promise.all(Array.from({ length: plan.at_once }, work));
  const alone = connectTo(plan.port);
  for (const number of slow) {
    const took_ms: number[] = [];
    while (took_ms.length < SLOW_TIMES) took_ms.push(await sendCase(plan, alone, number, report));
    const least_ms = Math.min(...took_ms);
    if (least_ms > SLOW_MS)
      report.faults.push(`case ${number} takes ${least_ms} ms alone: ${plan.makeCase(number).summary}`);
  }
  alone.close();
  return report;
}

/** Resolves to the milliseconds that the answer took. */
async function sendCase(plan: Plan, connection: Connection, number: number, report: Report): Promise<number> {
  const one = plan.makeCase(number);
  const outcome = await connection.send(one).catch((error: unknown) => `unsent: ${String(error)}` as const);
  const name = typeof outcome === 'string' ? outcome : String(outcome.status);
  report.outcomes[name] = (report.outcomes[name] ?? 0) + 1;
  const fault = name.startsWith('unsent')
    ? name
    : faultOf(one, outcome as Exclude<typeof outcome, `unsent${string}`>);
  if (fault !== undefined)
    report.faults.push(
      `case ${number}: ${fault}: ${one.summary}\n${one.bytes.toString('latin1').slice(0, 1500)}`,
    );
  if (typeof outcome === 'string' || WAITS.test(one.summary)) return 0;
  if (one.must_answer) report.slowest_ms = Math.max(report.slowest_ms, outcome.took_ms);
  return one.must_answer ? outcome.took_ms : 0;
}
