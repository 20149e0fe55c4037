/** Signatures of webhooks, against the verifiers that receivers use. */
import { verifyWebhook } from '@opencomputer/sdk';
import fc from 'fast-check';
import { Webhook } from 'standardwebhooks';
import { describe, expect, it } from 'vitest';
import { signingKey, signWebhook } from '../../src/secret/webhook.ts';

describe('a signature', () => {
  it('is the one of the Standard Webhooks specification', () => {
    const signature = signWebhook(
      ['whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw'],
      'msg_p5jXN8AQM9LWM0D4loKWxJek',
      1614265330,
      '{"test": 2432232314}',
    );
    expect(signature).toBe('v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=');
  });

  it('is accepted by the client for any secret and any body', async () => {
    const now = Math.floor(Date.now() / 1000);
    await fc.assert(
      fc.asyncProperty(
        fc.oneof(
          fc.stringMatching(/^[\x20-\x7e]{1,60}$/),
          fc.stringMatching(/^whsec_[A-Za-z0-9+/]{1,40}={0,3}$/),
          fc.base64String({ minLength: 4 }),
        ),
        fc.json(),
        async (secret, json) => {
          const body = JSON.stringify({ type: 't', eventId: 'evt_1', event: JSON.parse(json) as unknown });
          const headers = {
            ...{ 'webhook-id': 'evt_1', 'webhook-timestamp': String(now) },
            'webhook-signature': signWebhook([secret], 'evt_1', now, body),
          };
          await expect(verifyWebhook(body, headers, secret)).resolves.toMatchObject({ eventId: 'evt_1' });
        },
      ),
    );
  });

  it('is accepted by the library of Standard Webhooks for its own kind of secret', () => {
    const now = Math.floor(Date.now() / 1000);
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 24, maxLength: 64 }), fc.json(), (bytes, body) => {
        const secret = `whsec_${Buffer.from(bytes).toString('base64')}`;
        const headers = {
          ...{ 'webhook-id': 'evt_1', 'webhook-timestamp': String(now) },
          'webhook-signature': signWebhook(['another', secret], 'evt_1', now, body),
        };
        expect(signingKey(secret)).toEqual(Buffer.from(bytes));
        expect(new Webhook(secret).verify(body, headers)).toEqual(JSON.parse(body));
      }),
    );
  });
});
