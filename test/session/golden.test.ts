/**
 * Golden logs: what a session wrote once folds to the same state and yields the same request for ever, and the rules of today write
 * the same log to the byte. `UPDATE_GOLDEN=1` records the scenarios anew.
 */
import fs from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { EVENTS, type SessionEvent } from '../../src/session/event.ts';
import { evolve } from '../../src/session/evolve.ts';
import { emptyState } from '../../src/session/state.ts';
import { signThinking, validateRequest } from '../helpers/model/messages-api-validator.ts';
import { STREAM } from '../helpers/life.ts';
import { lastRequest, play, SCENARIOS } from '../helpers/scenarios.ts';
import { ROOT } from '../helpers/source.ts';

const DIRECTORY = path.join(ROOT, 'fixtures/sessions');

if (process.env['UPDATE_GOLDEN']) Object.keys(SCENARIOS).forEach(record);

describe.each(Object.keys(SCENARIOS))('the session %s', (name) => {
  const recorded = read(`${name}.jsonl`);
  const log = recorded.trimEnd().split('\n').map(parseEvent);

  it('is written the same way today', () => {
    expect(jsonl(play(name))).toBe(recorded);
  });

  it('has bodies that match their schemas', () => {
    for (const { type, body } of log) expect(EVENTS[type].body.parse(body)).toEqual(body);
  });

  it('folds to the recorded state', () => {
    expect(pretty(log.reduce(evolve, emptyState(STREAM)))).toBe(read(`${name}.state.json`));
  });

  it('yields the recorded request, which the Messages API accepts', () => {
    const request = lastRequest(log);
    expect(pretty(request)).toBe(read(`${name}.request.json`));
    expect(validateRequest({ ...signed(request), stream: true })).toBeUndefined();
  });
});

it('there is no golden log without a scenario', () => {
  const files = Object.keys(SCENARIOS).flatMap((name) => [
    `${name}.jsonl`,
    `${name}.request.json`,
    `${name}.state.json`,
  ]);
  expect(fs.readdirSync(DIRECTORY).sort()).toEqual(files.sort());
});

function record(name: string): void {
  const log = play(name);
  const write = (file: string, text: string): void => fs.writeFileSync(path.join(DIRECTORY, file), text);
  write(`${name}.jsonl`, jsonl(log));
  write(`${name}.state.json`, pretty(log.reduce(evolve, emptyState(STREAM))));
  write(`${name}.request.json`, pretty(lastRequest(log)));
}

function read(file: string): string {
  return fs.readFileSync(path.join(DIRECTORY, file), 'utf8');
}

function parseEvent(line: string): SessionEvent {
  return JSON.parse(line) as SessionEvent;
}

/** `seq`, `ts` and `type` first, for whoever reads the file. */
function jsonl(log: SessionEvent[]): string {
  return log.map(({ seq, ts, type, ...rest }) => `${JSON.stringify({ seq, ts, type, ...rest })}\n`).join('');
}

function pretty(value: unknown): string {
  return `${JSON.stringify(value, null, 2)}\n`;
}

/** The stand-in checks the signatures of thinking, as the real API does. */
function signed(value: unknown): object {
  return JSON.parse(JSON.stringify(value), function (this: { thinking?: string }, key, field: unknown) {
    return key === 'signature' ? signThinking(this.thinking ?? '') : field;
  }) as object;
}
