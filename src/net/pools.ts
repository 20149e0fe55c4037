/**
 * Connections by tenant and origin: tenants share none, so one that fills its own leaves the others theirs. Invariant: an origin is held only while it has a request under way or a connection open. undici's `Agent` keeps
 * each origin to which several requests failed at once, for as long as it lives.
 */
import { Pool, type buildConnector, type Dispatcher } from 'undici';

export type Pools = {
  /** Lends the tenant's dispatcher of `origin` until `act` has ended. After `close` it refuses all requests. */
  use<T>(tenant: string, origin: string, act: (dispatcher: Dispatcher) => Promise<T>): Promise<T>;
  /** How many are held. */
  origins(): number;
  /** Destroys every connection; requests under way fail. */
  close(): Promise<void>;
};

type Held = { pool: Pool; uses: number };

/** @param connect_of how a tenant's connections are made. */
export function createPools(
  options: Omit<Pool.Options, 'connect'>,
  connect_of: (tenant: string) => buildConnector.connector,
): Pools {
  const held_by_key = new Map<string, Held>();
  let is_closed = false;

  const hold = (tenant: string, origin: string): Held => {
    const key = keyOf(tenant, origin);
    const known = held_by_key.get(key);
    if (known) return known;
    const held = { pool: new Pool(origin, { ...options, connect: connect_of(tenant) }), uses: 0 };
    held.pool.on('disconnect', () => letGo(key, held));
    if (is_closed) void held.pool.destroy();
    else held_by_key.set(key, held);
    return held;
  };
  const letGo = (key: string, { pool, uses }: Held): void => {
    if (uses > 0 || pool.stats.connected > 0 || held_by_key.get(key)?.pool !== pool) return;
    held_by_key.delete(key);
    void pool.destroy();
  };
  return {
    use: async (tenant, origin, act) => {
      const held = hold(tenant, origin);
      held.uses++;
      try {
        return await act(held.pool);
      } finally {
        held.uses--;
        letGo(keyOf(tenant, origin), held);
      }
    },
    origins: () => held_by_key.size,
    close: async () => {
      is_closed = true;
      await Promise.all([...held_by_key.values()].map(({ pool }) => pool.destroy()));
      held_by_key.clear();
    },
  };
}

function keyOf(tenant: string, origin: string): string {
  return `${tenant} ${origin}`;
}
