/** The sandbox that a request is about. One that hibernates is woken by whatever needs it, as the clients of this API expect. */
import { getComputer, startComputer } from '../../engine/computers/owner.ts';
import type { Runtime } from '../../engine/runtime.ts';
import type { Computer } from '../../resource/computer/driver.ts';
import type { ComputerState, ComputerStatus } from '../../resource/computer/life.ts';
import { OverwinterError } from '../../resource/error.ts';
import { authorize, type Caller } from '../authorize.ts';
import { KEPT_PLAINLY, readKeeping, type Keeping } from '../../store/computer/keeping.ts';
import type { Ground } from './app.ts';

type Found = { state: ComputerState; keeping: Keeping };

/** @throws OverwinterError `not_found` */
export async function findSandbox({ runtime }: Ground, org: string, id: string): Promise<ComputerState> {
  return await getComputer(runtime, org, id);
}

export async function withKeeping(runtime: Runtime, org: string, states: ComputerState[]): Promise<Found[]> {
  const ids = states.map(({ id }) => id);
  const kept = await readKeeping(runtime.database.db, org, ids);
  return states.map((state) => ({ state, keeping: kept.get(state.id) ?? KEPT_PLAINLY }));
}

/** It is on its way somewhere: what is asked waits for that. */
const MOVING: ReadonlySet<ComputerStatus> = new Set(['creating', 'starting', 'restoring', 'stopping']);

/** @throws OverwinterError `not_found`, `conflict` where it cannot be woken, or not with this key. */
export async function awake(ground: Ground, caller: Caller, id: string): Promise<ComputerState> {
  const { runtime, computers } = ground;
  const found = await findSandbox(ground, caller.org, id);
  const state = MOVING.has(found.status) ? await computers.settled(found.id) : found;
  if (state.status === 'running') return state;
  if (!mayWake(caller))
    throw new OverwinterError(
      'conflict',
      `the computer is ${state.status}, and a key that may only read starts none`,
    );
  const woken = await startComputer(runtime, computers, state);
  if (woken.status === 'running') return woken;
  throw new OverwinterError('conflict', woken.last_error ?? `the computer is ${woken.status}`);
}

/** Its handle, for those that read and write in it. @throws OverwinterError as `awake` does. */
export async function awakeHandle(ground: Ground, caller: Caller, id: string): Promise<Computer> {
  const state = await awake(ground, caller, id);
  return await ground.computers.use(state.id, mayWake(caller) ? undefined : 'as it is');
}

function mayWake(caller: Caller): boolean {
  return authorize(caller, { org_key: 'write' }, undefined) === 'allow';
}
