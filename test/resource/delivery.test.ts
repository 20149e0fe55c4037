/** What becomes of a delivery after an attempt (contract §12.4). */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { endpointVerdict, judge, type DeliveryRules, type SendOutcome } from '../../src/resource/delivery.ts';

const RULES: DeliveryRules = {
  ...{ delays_ms: [10_000, 30_000, 60_000, 300_000, 900_000], attempts_max: 10, age_ms_max: 86_400_000 },
};
const answered = (status: number, retry_after_ms: number | null = null): SendOutcome => ({
  ...{ kind: 'responded', status, retry_after_ms, body: '' },
});
const verdict = (outcome: SendOutcome, attempts = 1) => judge(outcome, attempts, RULES, 0);

describe('a delivery', () => {
  it.each([200, 201, 204, 299])('is delivered by a %d', (status) => {
    expect(verdict(answered(status))).toEqual({ status: 'delivered' });
  });

  it.each([100, 301, 302, 307, 400, 401, 404, 408, 410, 422, 499])(
    'is given up at once after a %d',
    (status) => {
      expect(verdict(answered(status))).toEqual({ status: 'dead_letter' });
    },
  );

  it('is given up at once where it may not be sent', () => {
    expect(verdict({ kind: 'refused', reason: 'private' })).toEqual({ status: 'dead_letter' });
  });

  it.each([answered(429), answered(500), answered(503), { kind: 'failed', reason: 'reset' } as const])(
    'is tried again after $kind $status, ever later, up to its last attempt',
    (outcome) => {
      const waits = Array.from({ length: 10 }, (_, index) => verdict(outcome, index + 1));
      expect(waits.map((one) => ('retry_in_ms' in one ? one.retry_in_ms / 1000 : one.status))).toEqual([
        ...[10, 30, 60, 300, 900, 900, 900, 900, 900, 'dead_letter'],
      ]);
    },
  );

  it('is tried soon, however often, where this node could not even try, which says nothing of the endpoint', () => {
    const busy = { kind: 'busy', reason: 'Too many names are being resolved.' } as const;
    expect(verdict(busy, 10)).toEqual({ status: 'failed', retry_in_ms: 1000 });
    expect(endpointVerdict(busy)).toBe('unknown');
  });

  it('waits at least as long as it is asked to, and never over a day', () => {
    expect(verdict(answered(429, 45_000))).toEqual({ status: 'failed', retry_in_ms: 45_000 });
    expect(verdict(answered(503, 1000))).toEqual({ status: 'failed', retry_in_ms: 10_000 });
    expect(verdict(answered(429, 1e12))).toEqual({ status: 'failed', retry_in_ms: 86_400_000 });
  });

  it('is spread by chance over a fifth of its wait, and never comes early', () => {
    const chance = fc.double({ min: 0, max: 1, noNaN: true });
    fc.assert(
      fc.property(chance, fc.integer({ min: 1, max: 9 }), (random, attempts) => {
        const wait = judge(answered(500), attempts, RULES, random);
        const least = RULES.delays_ms[Math.min(attempts, 5) - 1]!;
        expect(wait.status === 'failed' && wait.retry_in_ms >= least).toBe(true);
        expect(wait.status === 'failed' && wait.retry_in_ms <= least * 1.2).toBe(true);
      }),
    );
  });
});
