/** What the model sees of a log that a provider has made odd. */
import { expect, it } from 'vitest';
import type { SessionEvent } from '../../src/session/event.ts';
import { modelRequest, transcript } from '../../src/session/transcript.ts';
import { validateRequest } from '../helpers/model/messages-api-validator.ts';
import { AGENT } from '../helpers/walk.ts';

const USAGE = {
  input_tokens: 1,
  output_tokens: 1,
  cache_creation_input_tokens: 0,
  cache_read_input_tokens: 0,
};

it('gives a call whose id was used before another one, and its result the same', () => {
  const bodies: Pick<SessionEvent, 'type' | 'body'>[] = [
    {
      type: 'session.created',
      body: {
        ...{ agent: AGENT, limits: {}, credential_id: null, tools: [], system_note: '' },
        ...{ metadata: null, key: null },
      },
    },
    { type: 'user.message', body: { text: 'go' } },
    { type: 'turn.started', body: { turn_id: 't', input_from_seq: 2, input_to_seq: 2 } },
    ...[1, 2, 3].flatMap((request) => [requested(request), responded(request), finished(request)]),
    requested(4),
  ] as never;
  const events = bodies.map((event, index) => ({ ...event, seq: index + 1, ts: 0, turn_id: null })) as never;
  const request = modelRequest(transcript(events), 100);
  expect(validateRequest({ ...request, stream: true })).toBeUndefined();
  const ids = request.messages.flatMap(({ content }) =>
    content.filter(({ type }) => type === 'tool_use').map(({ id }) => id),
  );
  const results = request.messages.flatMap(({ content }) =>
    content.filter(({ type }) => type === 'tool_result').map((block) => block['tool_use_id']),
  );
  expect(new Set(ids).size).toBe(3);
  expect(results).toEqual(ids);
  expect(ids[0]).toBe('call');
});

function requested(request: number): object {
  return { type: 'model.requested', body: { request, seen: 0, max_tokens: 100, model: 'm' } };
}

function responded(request: number): object {
  const content = [{ type: 'tool_use', id: 'call', name: 'bash', input: { command: `echo ${request}` } }];
  const body = { request, seen: 0, message_id: 'm', model: 'm', content, stop_reason: 'tool_use' };
  return { type: 'model.responded', body: { ...body, usage: USAGE, cut: false, duration_ms: 0 } };
}

function finished(request: number): object {
  const body = { call_id: 'call', tool: 'bash', outcome: 'ok', content: `${request}` };
  return { type: 'tool.finished', body };
}
