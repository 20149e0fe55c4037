/** How much one node sends to one endpoint at once, and in a second. */
import { describe, expect, it } from 'vitest';
import { createEndpoints } from '../../src/engine/endpoints.ts';

const ORG = 'org_1';
const ORIGIN = 'https://a.test';

function endpointsAt(bounds = { window_max: 8, per_second_max: 1000 }) {
  const clock = { ms: 0 };
  const endpoints = createEndpoints(bounds, () => clock.ms);
  const start = (count: number) => {
    for (let index = 0; index < count; index += 1) endpoints.started(ORG, ORIGIN);
  };
  const slots = () => endpoints.slots().find(({ origin }) => origin === ORIGIN)?.slots;
  return { clock, endpoints, start, slots };
}

describe('an endpoint', () => {
  it('begins with a few requests, gets one more with each success, up to its bound', () => {
    const { endpoints, start, slots } = endpointsAt();
    start(4);
    expect(slots()).toBe(0);
    endpoints.ended(ORG, ORIGIN, false);
    expect(slots()).toBe(2);
    for (let index = 0; index < 20; index += 1) {
      endpoints.started(ORG, ORIGIN);
      endpoints.ended(ORG, ORIGIN, false);
    }
    expect(slots()).toBe(8 - 3);
  });

  it('falls to one request at a time with a failure', () => {
    const { endpoints, start, slots } = endpointsAt();
    start(2);
    endpoints.ended(ORG, ORIGIN, true);
    expect(slots()).toBe(0);
    endpoints.ended(ORG, ORIGIN, true);
    expect(slots()).toBe(1);
  });

  it.each([1, 15, 30, 500])(
    'gets %d requests in a second, no more, and says when it may have more',
    (rate) => {
      const { clock, endpoints, start, slots } = endpointsAt({ window_max: 1000, per_second_max: rate });
      let sent = 0;
      while (clock.ms < 10_000) {
        const now = slots() ?? endpoints.slots_default;
        start(now);
        for (let index = 0; index < now; index += 1) endpoints.ended(ORG, ORIGIN, false);
        sent += now;
        const wait_ms = endpoints.more_in_ms();
        clock.ms += wait_ms ?? 1;
        if (wait_ms !== null) expect(slots()).toBeGreaterThan(0);
      }
      const burst = Math.max(1, rate / 10);
      expect(sent).toBeLessThanOrEqual(10 * rate + burst);
      expect(sent).toBeGreaterThan(9.5 * rate - 1);
    },
  );

  it('is remembered over a pause, and forgotten after a minute at rest', () => {
    const { clock, endpoints, start, slots } = endpointsAt();
    start(1);
    endpoints.ended(ORG, ORIGIN, true);
    clock.ms = 59_000;
    expect(slots()).toBe(1);
    clock.ms = 61_000;
    expect(endpoints.slots()).toEqual([]);
    expect(endpoints.more_in_ms()).toBeNull();
  });
});
