/**
 * What a model step costs beyond the model call: a turn of 10 and of 100 steps through a real server, minus the same loop calling the
 * same stand-in with the provider's SDK, in alternating rounds (direct, ours, ours, direct). The stand-in answers at once, from a
 * process of its own; the tool is `say`, which costs nothing. `--short` for a quick look, `--ground=embedded` for one database.
 */
import { fork } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import fs from 'node:fs';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import os from 'node:os';
import path from 'node:path';
import Anthropic from '@anthropic-ai/sdk';
import pg from 'pg';
import type { TestProject } from 'vitest/node';
import { completeBlocks, emptyAnswer, foldEvent } from '../src/model/anthropic-stream.ts';
import type { ContentBlock } from '../src/resource/model.ts';
import { COMPUTER_NOTE, TOOL_DEFINITIONS } from '../src/resource/tool.ts';
import { eventsOf, messageOf, reply, text, toolUse } from '../test/helpers/model/messages-api-reply.ts';
import type { MessagesRequest, Reply } from '../test/helpers/model/messages-api-reply.ts';
import { PROCESS_SANDBOX, startNode, type NodeSettings, type TestNode } from '../test/helpers/node.ts';
import setUpPostgres from '../test/helpers/postgres-setup.ts';

const short = process.argv.includes('--short');
const only = process.argv.find((argument) => argument.startsWith('--ground='))?.slice(9);
const ROUNDS = short ? 3 : 7;
const SCALES = [
  { steps: 10, turns: short ? 5 : 20 },
  { steps: 100, turns: short ? 1 : 3 },
];
const WARM_UP_TURNS = 3;
const GOAL_MS = 1.5;
const PROMPT = 'You take steps.';
const MODEL = 'stand-in';
const USAGE = {
  input_tokens: 10,
  output_tokens: 10,
  cache_creation_input_tokens: 0,
  cache_read_input_tokens: 0,
};

/** Resolves to the milliseconds that one turn took. */
type Turn = (steps: number) => Promise<number>;
type Round = { direct_ms: number; ours_ms: number };
type Ground = { settings: NodeSettings; drop: () => Promise<void> };

if (process.argv.includes('--stand-in')) serveModel();
else await main();

async function main(): Promise<void> {
  const model = fork(import.meta.filename, ['--stand-in'], { stdio: 'inherit' });
  const [port] = (await once(model, 'message')) as [number];
  const base_url = `http://127.0.0.1:${port}`;
  const [load] = os.loadavg();
  console.log(
    `${os.availableParallelism()} cores, load ${load!.toFixed(2)}${load! > 0.3 ? ': above 0.3, expect noise' : ''}`,
  );
  console.log(`${ROUNDS} rounds of direct, ours, ours, direct; medians, and the range of the rounds`);
  try {
    if (only !== 'postgres') await measureGround('embedded', embedded(), base_url);
    if (only !== 'embedded') await measureGround('postgres', await postgres(), base_url);
  } finally {
    model.kill();
  }
}

/** The model's side: takes a step for as long as it was told to, and writes each answer without waiting for anything. */
function serveModel(): void {
  let requests = 0;
  const server = createServer((request, response) => {
    if (request.method === 'GET') response.end(String(requests));
    else void answer(request, response, (requests += 1));
  });
  server.listen(0, '127.0.0.1', () => process.send?.((server.address() as AddressInfo).port));
  process.once('disconnect', () => process.exit());
}

async function answer(request: IncomingMessage, response: ServerResponse, count: number): Promise<void> {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk as Buffer);
  const body = JSON.parse(Buffer.concat(chunks).toString()) as MessagesRequest;
  const message = messageOf(nextStep(body), body, `msg_${count}`, USAGE);
  response.writeHead(200, { 'content-type': 'text/event-stream' });
  for (const event of eventsOf(message)) response.write(event);
  response.end();
}

function nextStep({ messages }: MessagesRequest): Reply {
  const steps = Number(/\d+/.exec(JSON.stringify(messages[0]?.content))?.[0]);
  const step = (messages.length + 1) / 2;
  return step < steps ? reply(toolUse('say', { text: `This is step ${step}.` })) : reply(text('Done.'));
}

function embedded(): Ground {
  return { settings: {}, drop: () => Promise.resolve() };
}

/** A database of its own on the PostgreSQL of the tests. */
async function postgres(): Promise<Ground> {
  let given = '';
  const provide = (_: string, url: string): void => void (given = url);
  const stop = await setUpPostgres({ provide } as unknown as TestProject);
  const admin = new pg.Client({ connectionString: given });
  await admin.connect();
  const name = `bench_${randomBytes(6).toString('hex')}`;
  await admin.query(`create database ${name}`);
  const url = new URL(given);
  url.pathname = `/${name}`;
  return {
    settings: { DATABASE_URL: url.href, OVERWINTER_MASTER_KEY: randomBytes(32).toString('base64') },
    drop: async () => {
      await admin.query(`drop database ${name} with (force)`);
      await admin.end();
      await stop?.();
    },
  };
}

async function measureGround(name: string, ground: Ground, base_url: string): Promise<void> {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'overwinter-bench-'));
  let node: TestNode | undefined;
  try {
    node = await startNode({
      ...PROCESS_SANDBOX,
      ...ground.settings,
      OVERWINTER_DATA_DIR: directory,
      OVERWINTER_COMPUTERS_DIR: path.join(directory, 'computers'),
      OVERWINTER_LOG_LEVEL: 'error',
      ANTHROPIC_BASE_URL: base_url,
      ANTHROPIC_API_KEY: 'sk-bench',
      NODE_OPTIONS: process.env['NODE_OPTIONS'] ?? '',
    });
    const agent = await node.client.agents.create({
      ...{ name: 'bench', prompt: PROMPT, model: `anthropic/${MODEL}` },
    });
    const ours = throughServer(node, agent.id);
    for (const { steps, turns } of SCALES) {
      report(name, steps, await measure(ours, directly(base_url), base_url, steps, turns));
    }
  } finally {
    await node?.stop();
    await ground.drop();
    fs.rmSync(directory, { recursive: true, force: true });
  }
}

async function measure(
  ours: Turn,
  direct: Turn,
  base_url: string,
  steps: number,
  turns: number,
): Promise<Round[]> {
  await repeat(ours, steps, WARM_UP_TURNS);
  await repeat(direct, steps, WARM_UP_TURNS);
  const rounds: Round[] = [];
  for (let round = 0; round < ROUNDS; round += 1) {
    const before = await requestCount(base_url);
    const a = await repeat(direct, steps, turns);
    const b = (await repeat(ours, steps, turns)) + (await repeat(ours, steps, turns));
    const direct_ms = (a + (await repeat(direct, steps, turns))) / (2 * turns);
    rounds.push({ direct_ms, ours_ms: b / (2 * turns) });
    const made = (await requestCount(base_url)) - before;
    if (made !== 4 * turns * steps)
      throw new Error(`${made} model requests where ${4 * turns * steps} are right`);
  }
  return rounds;
}

async function repeat(turn: Turn, steps: number, turns: number): Promise<number> {
  let total_ms = 0;
  for (let count = 0; count < turns; count += 1) total_ms += await turn(steps);
  return total_ms;
}

async function requestCount(base_url: string): Promise<number> {
  return Number(await (await fetch(base_url)).text());
}

/** From the request that creates the session to the moment when a reader has seen the end of its turn. */
function throughServer({ client }: TestNode, agent: string): Turn {
  return async (steps) => {
    const began = performance.now();
    const session = await client.sessions.create({ agent, input: instruction(steps) });
    const ending = new AbortController();
    const type = 'turn.completed';
    for await (const _ of session.events({ type, level: 'user', signal: ending.signal })) break;
    const took_ms = performance.now() - began;
    ending.abort();
    const { data } = await session.listEvents({ type });
    const reasons = data.map(({ body }) => (body as { yieldReason?: string }).yieldReason);
    if (reasons.join() !== 'completed') throw new Error(`the turn ended as: ${reasons.join()}`);
    return took_ms;
  };
}

/** The loop that one would write by hand: nothing is kept, nothing survives. */
function directly(base_url: string): Turn {
  const client = new Anthropic({ apiKey: 'sk-bench', baseURL: base_url, maxRetries: 0 });
  return async (steps) => {
    const messages: object[] = [{ role: 'user', content: [{ type: 'text', text: instruction(steps) }] }];
    const began = performance.now();
    for (;;) {
      const content = await respond(client, messages);
      messages.push({ role: 'assistant', content });
      const calls = content.filter((block) => block.type === 'tool_use');
      if (calls.length === 0) break;
      const results = calls.map(({ id }) => ({ type: 'tool_result', tool_use_id: id, content: 'Said.' }));
      messages.push({ role: 'user', content: results });
    }
    const took_ms = performance.now() - began;
    if (messages.length !== 2 * steps) throw new Error(`${messages.length} messages in ${steps} steps`);
    return took_ms;
  };
}

async function respond(client: Anthropic, messages: object[]): Promise<ContentBlock[]> {
  const system = [PROMPT, COMPUTER_NOTE].map((part) => ({ type: 'text', text: part }));
  const request = { model: MODEL, max_tokens: 16_000, system, tools: TOOL_DEFINITIONS, messages };
  const body = { ...request, cache_control: { type: 'ephemeral' }, stream: true };
  const stream = await client.messages.create(body as unknown as Anthropic.MessageCreateParamsStreaming);
  const streamed = emptyAnswer();
  for await (const event of stream) foldEvent(streamed, event);
  return completeBlocks(streamed);
}

function instruction(steps: number): string {
  return `Take ${steps} steps.`;
}

function report(ground: string, steps: number, rounds: Round[]): void {
  const added = rounds.map(({ direct_ms, ours_ms }) => (ours_ms - direct_ms) / steps);
  const range = (values: number[]): string =>
    `${Math.min(...values).toFixed(2)} to ${Math.max(...values).toFixed(2)}`;
  const side = (label: string, turns_ms: number[]): string => {
    const turn_ms = median(turns_ms);
    return `  ${label}  ${(turn_ms / steps).toFixed(2)} ms per step   ${turn_ms.toFixed(1)} ms per turn (${range(turns_ms)})`;
  };
  const verdict = median(added) <= GOAL_MS ? 'kept' : 'missed';
  console.log(
    [
      `\n${ground}, a turn of ${steps} steps`,
      `  added   ${median(added).toFixed(2)} ms per step   (${range(added)}); goal at most ${GOAL_MS}: ${verdict}`,
      side(
        'ours  ',
        rounds.map(({ ours_ms }) => ours_ms),
      ),
      side(
        'direct',
        rounds.map(({ direct_ms }) => direct_ms),
      ),
    ].join('\n'),
  );
}

function median(values: number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN;
}
