/** Drafts under construction: each is folded into the state as it is added, so the next rule sees its effect. */
import type { Draft, EventBody, EventType, Level, SessionEvent } from './event.ts';
import { EVENTS } from './event.ts';
import { evolve } from './evolve.ts';
import type { SessionState } from './state.ts';

export type Chain = {
  readonly now: number;
  readonly drafts: Draft[];
  state: SessionState;
};

export function startChain(state: SessionState, now: number): Chain {
  return { now: Math.max(now, state.last_ts), drafts: [], state };
}

export type DraftOptions = Partial<
  Pick<Draft, 'actor' | 'turn_id' | 'source' | 'refs' | 'idempotency_key'>
> & {
  level?: Level;
};

/** Adds one event by the agent or runtime to the chain; it belongs to the active turn unless told otherwise. */
export function add<T extends EventType>(
  chain: Chain,
  type: T,
  body: EventBody<T>,
  options: DraftOptions = {},
): void {
  const level = options.level ?? EVENTS[type].level;
  const byAgent = type.startsWith('agent.') || type.startsWith('tool.') || type.startsWith('exec.');
  const draft = {
    actor: { type: byAgent ? 'agent' : 'system' },
    turn_id: chain.state.turn?.id ?? null,
    ...options,
    type,
    body,
    level,
  } as Draft;
  chain.drafts.push(draft);
  const event: SessionEvent = { ...draft, seq: chain.state.head + 1, ts: chain.now };
  chain.state = evolve(chain.state, event);
}
