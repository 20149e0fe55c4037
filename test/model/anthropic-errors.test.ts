/** How the provider classifies what goes wrong before a stream begins, and that no outcome holds the key. */
import { afterEach, describe, expect, it, vi } from 'vitest';
import { KEY, respond, serve } from '../helpers/model/anthropic-calls.ts';
import { reply, text } from '../helpers/model/messages-api.ts';

afterEach(() => {
  vi.unstubAllEnvs();
});

describe('classifies', () => {
  it.each([
    [429, 'rate_limit_error', 'Slow down', 'transient'],
    [500, 'api_error', 'Internal server error', 'transient'],
    [502, 'api_error', 'Bad gateway', 'transient'],
    [503, 'api_error', 'Unavailable', 'transient'],
    [504, 'timeout_error', 'Timed out', 'transient'],
    [529, 'overloaded_error', 'Overloaded', 'transient'],
    [408, 'timeout_error', 'Timed out', 'transient'],
    [409, 'conflict_error', 'Conflict', 'transient'],
    [401, 'authentication_error', 'invalid x-api-key', 'credential'],
    [402, 'billing_error', 'Payment required', 'credential'],
    [403, 'permission_error', 'Not allowed', 'credential'],
    [400, 'invalid_request_error', 'Your credit balance is too low to access the API.', 'credential'],
    [400, 'invalid_request_error', 'max_tokens: too large', 'request'],
    [404, 'not_found_error', 'model: nope', 'request'],
    [413, 'request_too_large', 'Too large', 'request'],
    [422, 'invalid_request_error', 'Unprocessable', 'request'],
  ])('%i %s (%s) as %s', async (status, type, message, reason) => {
    const api = await serve(() => ({ error: { status, type, message } }));
    const outcome = await respond(api.base_url);
    expect(outcome).toEqual({ kind: 'failed', reason, code: type, message: `${message} (req_000001)` });
    expect(api.requests).toHaveLength(1);
  });

  it.each([
    ['retry-after', '7', 7000],
    ['retry-after', '0.5', 500],
    ['retry-after', '-3', 0],
    ['retry-after-ms', '1250', 1250],
    ['retry-after', 'Wed, 21 Oct 2026 07:28:30 GMT', 30_000],
    ['retry-after', 'Wed, 21 Oct 2026 07:27:00 GMT', 0],
    ['retry-after', 'soon', undefined],
    ['retry-after', '', undefined],
  ])('%s: %s as %s ms', async (name, value, wait_ms) => {
    const headers = { [name]: value, date: 'Wed, 21 Oct 2026 07:28:00 GMT' };
    const api = await serve(() => ({
      error: { status: 429, type: 'rate_limit_error', message: 'no', headers },
    }));
    const outcome = await respond(api.base_url);
    expect(outcome.kind === 'failed' && outcome.retry_after_ms).toBe(wait_ms);
  });

  it('a spend limit as credential, although it comes as 429', async () => {
    const error = {
      type: 'rate_limit_error',
      message: 'Limit',
      details: { error_code: 'enforced_spend_limit_reached' },
    };
    const send = answering(429, JSON.stringify({ type: 'error', error }));
    expect(await respond(undefined, { fetch: send })).toMatchObject({
      reason: 'credential',
      code: 'rate_limit_error',
    });
  });

  it('a body that is no envelope by its status', async () => {
    const page = `<html>${'x'.repeat(5000)}</html>`;
    const outcome = await respond(undefined, { fetch: answering(502, page) });
    expect(outcome).toMatchObject({ reason: 'transient', code: 'http_502' });
    expect(outcome.kind === 'failed' && outcome.message.length).toBe(500);
    expect(await respond(undefined, { fetch: answering(307, '') })).toMatchObject({
      reason: 'request',
      code: 'http_307',
    });
  });

  it('a provider that is not there as connection', async () => {
    const api = await serve(() => reply(text('hi')));
    await api.close();
    expect(await respond(api.base_url)).toMatchObject({ reason: 'transient', code: 'connection' });
  });

  it('an address that is none as request', async () => {
    expect(await respond('not an address')).toMatchObject({ reason: 'request', code: 'invalid_request' });
  });

  it('what the stand-in refuses by itself', async () => {
    const api = await serve(() => reply(text('hi')));
    expect(await respond(api.base_url, { api_key: 'revoked' })).toMatchObject({ reason: 'credential' });
    expect(api.refused).toMatchObject([{ status: 401 }]);
  });
});

describe('the key', () => {
  it.each([
    ['the message', answering(500, envelope('api_error', `bad key ${KEY}`))],
    ['the type', answering(500, envelope(KEY, 'x'))],
    ['a plain body', answering(500, `key ${KEY}`)],
    ['a long body, at the cut', answering(500, `${'x'.repeat(480)}${KEY}`)],
    ['the request id', answering(500, envelope('api_error', 'x'), { 'request-id': KEY })],
    ['an error event', answering(200, `event: error\ndata: ${envelope('api_error', KEY)}\n\n`)],
    ['a thrown error', throwing(new TypeError(`fetch failed for ${KEY}`))],
    ['a cause', throwing(new TypeError('fetch failed', { cause: new Error(`header ${KEY} refused`) }))],
    ['an error of another kind', throwing(KEY)],
  ])('in %s is in no outcome', async (_, send) => {
    const outcome = await respond(undefined, { fetch: send });
    expect(outcome.kind).toBe('failed');
    expect(JSON.stringify(outcome)).not.toContain(KEY);
    expect(JSON.stringify(outcome)).not.toContain(KEY.slice(0, 12));
  });

  it.each(['', 'two words', 'line\nbreak', 'schlüssel', '日本'])(
    '%j is refused before it is sent',
    async (key) => {
      const outcome = await respond(undefined, {
        api_key: key,
        fetch: throwing(new Error('must not be called')),
      });
      expect(outcome).toMatchObject({ reason: 'credential', code: 'authentication_error' });
    },
  );

  it('is the only credential: no variable of the environment adds or changes anything', async () => {
    vi.stubEnv('ANTHROPIC_API_KEY', 'sk-other');
    vi.stubEnv('ANTHROPIC_AUTH_TOKEN', 'other-token');
    vi.stubEnv('ANTHROPIC_BASE_URL', 'http://127.0.0.1:1');
    vi.stubEnv('ANTHROPIC_PROFILE', 'none');
    vi.stubEnv('ANTHROPIC_CUSTOM_HEADERS', 'x-foreign: 1\nauthorization: Bearer other\nx-api-key: other');
    const sent: Request[] = [];
    const send: typeof fetch = (url, init) => {
      sent.push(new Request(url, init));
      return answering(500, '')(url, init);
    };
    await respond(undefined, { fetch: send });
    expect(sent.map((request) => request.url)).toEqual(['https://api.anthropic.com/v1/messages']);
    expect(sent[0]?.headers.get('authorization')).toBe(`Bearer ${KEY}`);
    expect(sent[0]?.headers.has('x-foreign')).toBe(false);
    expect(sent[0]?.headers.has('x-api-key')).toBe(false);
  });
});

function envelope(type: string, message: string): string {
  return JSON.stringify({ type: 'error', error: { type, message } });
}

function answering(status: number, body: string, headers: Record<string, string> = {}): typeof fetch {
  return () => Promise.resolve(new Response(body, { status, headers }));
}

function throwing(error: unknown): typeof fetch {
  return () => Promise.reject(error);
}
