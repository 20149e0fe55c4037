/** Signatures of webhooks, as Standard Webhooks 1.0.0 and the verifier of `@opencomputer/sdk` have them (contract §12.5). */
import { createHmac } from 'node:crypto';

/**
 * The value of `webhook-signature`: one `v1,<base64>` entry for each secret, so that a receiver may know the old or the new one.
 * @param timestamp_s unix seconds of the attempt.
 */
export function signWebhook(secrets: string[], id: string, timestamp_s: number, body: string): string {
  const content = `${id}.${timestamp_s}.${body}`;
  const sign = (secret: string): string =>
    createHmac('sha256', signingKey(secret)).update(content).digest('base64');
  return secrets.map((secret) => `v1,${sign(secret)}`).join(' ');
}

/** The bytes that `whsec_<base64>` writes; a secret of any other form stands for its own UTF-8 bytes, prefix and all. */
export function signingKey(secret: string): Buffer {
  const written = secret.startsWith(PREFIX) ? secret.slice(PREFIX.length) : secret;
  return decode(written) ?? Buffer.from(secret, 'utf8');
}

const PREFIX = 'whsec_';

/** With `atob`, as the verifier does: `Buffer` takes texts for base64 that are not. */
function decode(base64: string): Buffer | undefined {
  try {
    const bytes = Buffer.from(atob(base64), 'latin1');
    const written_again = bytes.toString('base64').replace(/=+$/, '');
    return bytes.length > 0 && written_again === base64.replace(/=+$/, '') ? bytes : undefined;
  } catch {
    return undefined;
  }
}
