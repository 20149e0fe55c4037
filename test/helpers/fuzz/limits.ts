/**
 * Plans for sessions whose limits and cancels are tried, the stand-in model that follows them, and what the log of such a session must
 * look like afterwards. Pure, but for the time that an answer takes.
 */
import type { SessionEvent } from '../../../src/session/event.ts';
import { tokens } from '../../../src/session/usage.ts';
import { text, toolUse, type MessagesRequest, type Reply } from '../model/messages-api.ts';
import { numberOf, type Random } from './random.ts';

/**
 * Beyond the moment it was asked for, or beyond `turn_seconds`. The promise is 2 s, which `npm run test:limits` asks of a machine that does
 * nothing else; beside other tests the bound only tells a turn that was ended from one that ran out by itself.
 */
const END_MS_MAX = numberOf('OVERWINTER_END_MS_MAX', 10_000);

/** Of a step that is to be cut: far beyond any bound above. */
const ENDLESS_MS = 40_000;

type Completed = Extract<SessionEvent, { type: 'turn.completed' }>;

/** How a session's model behaves; it stands in the session's first message, so that the stand-in knows it. */
export type Plan = {
  run: number;
  /** What each response is billed, and does. */
  steps: Step[];
};
type Step = {
  input: number;
  output: number;
  does: 'say' | 'bash' | 'stubborn' | 'end';
  /** Before the chunk `at` of the answer, for so long. */
  pause_ms: number;
  at: number;
};

/** What the plan of the session says for the step at which the conversation is; a plan that is over ends each turn. */
export function answer(request: MessagesRequest): Reply {
  const words = firstText(request);
  const plan = words.startsWith('{') ? (JSON.parse(words) as Plan) : { steps: [] };
  const step = plan.steps[request.messages.filter(({ role }) => role === 'assistant').length];
  if (!step) return { content: [text('Done.')] };
  const output_tokens = Math.min(step.output, request.max_tokens);
  const usage = {
    input_tokens: step.input,
    output_tokens,
    cache_creation_input_tokens: 0,
    cache_read_input_tokens: 0,
  };
  return {
    usage,
    content: contentOf(step.does),
    delta_characters: 4,
    gate: async (index) => {
      if (index === step.at && step.pause_ms > 0)
        await new Promise((resolve) => setTimeout(resolve, step.pause_ms));
    },
  };
}

function firstText({ messages }: MessagesRequest): string {
  const content = messages[0]?.content;
  const block =
    typeof content === 'string' ? content : content?.find(({ type }) => type === 'text')?.['text'];
  return String(block);
}

function contentOf(does: Step['does']): NonNullable<Reply['content']> {
  switch (does) {
    case 'say':
      return [text('On it.'), toolUse('say', { text: 'I go on.' })];
    case 'bash':
      return [toolUse('bash', { command: 'sleep 40' })];
    case 'stubborn':
      return [toolUse('bash', { command: "trap '' TERM INT HUP; sleep 40; sleep 40" })];
    case 'end':
      return [text('That was a part of it, and here is some more of the same text.')];
    default:
      return does satisfies never;
  }
}

export type RandomLimits = { tokens?: number; turn_seconds?: number; turns?: number };

export function limitsOf(random: Random): RandomLimits {
  return {
    ...(random.chance(0.7) ? { tokens: 1 + random.below(5000) } : {}),
    ...(random.chance(0.35) ? { turn_seconds: random.chance(0.8) ? 1 : 2 } : {}),
    ...(random.chance(0.4) ? { turns: 1 + random.below(3) } : {}),
  };
}

/** @param slow one step takes longer than the turn may. */
export function planOf(run: number, random: Random, slow: boolean): Plan {
  const steps = Array.from({ length: 1 + random.below(8) }, (): Step => ({
    input: 1 + random.below(1500),
    output: 1 + random.below(1500),
    does: random.chance(0.7) ? 'say' : 'end',
    pause_ms: random.chance(0.2) ? random.below(60) : 0,
    at: random.below(6),
  }));
  const victim = random.pick(steps);
  if (slow && random.chance(0.8)) victim.pause_ms = ENDLESS_MS;
  else if (slow) victim.does = random.chance(0.5) ? 'bash' : 'stubborn';
  return { run, steps };
}

export type CheckedLimits = { faults: string[]; overshoot: number; late_ms: number; reasons: string[] };

export function checkLimits(events: SessionEvent[], limits: RandomLimits): CheckedLimits {
  const faults = checkTurns(events);
  const ends = events.filter((event): event is Completed => event.type === 'turn.completed');
  const last_input = { tokens: 0 };
  let spent = 0;
  for (const event of events) {
    if (event.type !== 'model.responded' && event.type !== 'model.failed') continue;
    const { usage } = event.body;
    if (!usage) continue;
    if (limits.tokens !== undefined && spent >= limits.tokens && tokens({ ...usage, complete: true }) > 0)
      faults.push('a request after the last token was spent');
    spent += tokens({ ...usage, complete: true });
    last_input.tokens =
      usage.input_tokens + usage.cache_creation_input_tokens + usage.cache_read_input_tokens;
  }
  const over = spent - (limits.tokens ?? Infinity);
  if (over > last_input.tokens)
    faults.push(`${over} tokens over, where the last input was ${last_input.tokens}`);
  const late = ends.map((end) => checkEnd(events, end, limits, faults));
  const reached = ends.filter(({ body }) => requestsIn(events, body.turn_id) > 0);
  if (reached.length > (limits.turns ?? Infinity)) faults.push(`${reached.length} turns reached the model`);
  return {
    faults,
    overshoot: over > 0 ? over / last_input.tokens : 0,
    late_ms: Math.max(0, ...late),
    reasons: ends.map(({ body }) => body.yield_reason),
  };
}

function requestsIn(events: SessionEvent[], turn_id: string): number {
  return events.filter((event) => event.type === 'model.requested' && event.turn_id === turn_id).length;
}

/** Whether the turn ended for the reason that its log gives. Returns how late after its deadline, if for that. */
function checkEnd(events: SessionEvent[], end: Completed, limits: RandomLimits, faults: string[]): number {
  const { turn_id, yield_reason } = end.body;
  const began = events.find((event) => event.type === 'turn.started' && event.body.turn_id === turn_id)!;
  const before = events.filter(({ seq }) => seq < end.seq);
  const took_ms = end.ts - began.ts;
  const bound_ms = (limits.turn_seconds ?? Infinity) * 1000;
  const spent = usedIn(before);
  const turns = new Set(before.flatMap((event) => (event.type === 'model.requested' ? [event.turn_id] : [])))
    .size;
  if (took_ms > bound_ms + END_MS_MAX) faults.push(`a turn took ${took_ms} ms`);
  const holds: Record<string, boolean> = {
    completed: requestsIn(events, turn_id) > 0,
    budget_exceeded: spent >= (limits.tokens ?? Infinity),
    max_turns: turns >= (limits.turns ?? Infinity) && requestsIn(events, turn_id) === 0,
    deadline_exceeded: took_ms >= bound_ms - 5,
  };
  if (holds[yield_reason] !== true)
    faults.push(`it ended as ${yield_reason} after ${took_ms} ms, ${spent} tokens, ${turns} turns`);
  return yield_reason === 'deadline_exceeded' ? took_ms - bound_ms : 0;
}

function usedIn(events: SessionEvent[]): number {
  return events.reduce((sum, event) => {
    const usage =
      event.type === 'model.responded' || event.type === 'model.failed' ? event.body.usage : undefined;
    return sum + (usage ? tokens({ ...usage, complete: true }) : 0);
  }, 0);
}

/** Every turn has one end, and nothing of it follows. */
function checkTurns(events: SessionEvent[]): string[] {
  const faults = events.some(({ seq }, index) => seq !== index + 1) ? ['its log has a gap'] : [];
  for (const event of events) {
    if (event.type !== 'turn.started') continue;
    const { turn_id } = event.body;
    const ends = events.filter((other) => other.type === 'turn.completed' && other.body.turn_id === turn_id);
    if (ends.length !== 1) faults.push(`${turn_id} has ${ends.length} ends`);
    const after = events.filter(
      (other) => other.turn_id === turn_id && other.seq > (ends[0]?.seq ?? Infinity),
    );
    if (after.length > 0) faults.push(`${after[0]!.type} follows the end of ${turn_id}`);
  }
  return faults;
}

export const POINTS = [
  ...[
    'at once',
    'claimed',
    'in the model call',
    'in the model call',
    'in the model call',
    'between',
    'at random',
  ],
  ...['in a tool', 'in a stubborn tool', 'in a tool', 'with a message', 'with an archive', 'twice'],
] as const;
export type Point = (typeof POINTS)[number];

export function cancelPlan(run: number, point: Point, random: Random): Plan {
  const step = (does: Step['does'], pause_ms: number): Step => ({
    ...{ input: 10, output: 10, does, pause_ms },
    at: random.below(12),
  });
  if (point === 'in a tool') return { run, steps: [step('bash', 0)] };
  if (point === 'in a stubborn tool') return { run, steps: [step('stubborn', 0)] };
  if (point === 'between') return { run, steps: Array.from({ length: 40 }, () => step('say', 0)) };
  return { run, steps: [step('say', random.below(30)), step('end', ENDLESS_MS)] };
}

export type CheckedCancel = { faults: string[]; took: number[]; outcome: string };

export function checkCancel(events: SessionEvent[]): CheckedCancel {
  const faults = checkTurns(events);
  const took: number[] = [];
  const outcomes = new Set<string>();
  for (const event of events) {
    if (event.type !== 'cancel.requested') continue;
    const end = events.find(
      (other): other is Completed =>
        other.type === 'turn.completed' && other.body.turn_id === event.body.turn_id,
    );
    const took_ms = (end?.ts ?? Infinity) - event.ts;
    took.push(took_ms);
    if (took_ms > END_MS_MAX) faults.push(`a cancel took ${took_ms} ms`);
    if (end?.body.yield_reason !== 'canceled')
      faults.push(`a canceled turn ended as ${end?.body.yield_reason}`);
    outcomes.add('canceled');
  }
  return { faults, took, outcome: [...outcomes].join() || 'too early or too late' };
}

export function percentiles(values: number[]): string {
  const sorted = values.toSorted((a, b) => a - b);
  const at = (share: number): number =>
    sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0;
  return `${sorted.length} took ${at(0.5)} ms at the median, ${at(0.99)} ms at the 99th percentile, ${at(1)} ms at most`;
}
