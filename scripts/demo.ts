/**
 * `npm run demo`: the product in under a minute. A real server with real sandboxes in a directory of its own, the unmodified client,
 * and a stand-in that plays the model; with ANTHROPIC_API_KEY set, the model is real too. Leaves nothing behind.
 */
import { randomBytes } from 'node:crypto';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { parseArgs, styleText } from 'node:util';
import type { Event, Session } from '@opencomputer/sdk';
import { SETTINGS } from '../src/config.ts';
import { bwrapDriver } from '../src/sandbox/bwrap.ts';
import { openDatabase } from '../src/store/ground/database.ts';
import { installationId } from '../src/store/orgs.ts';
import { reply, startMessagesApi, text, toolUse } from '../test/helpers/model/messages-api.ts';
import type { MessagesApi, MessagesRequest, Reply } from '../test/helpers/model/messages-api.ts';
import { startNode, type TestNode } from '../test/helpers/node.ts';

const TASK =
  'Write /workspace/primes.sh, which prints the primes below 30. Run it, and make sure that it is right.';
const STEER =
  'One thing more: wait 5 seconds and then write the list to /workspace/primes.txt, in a single command. How many are there?';
const PROMPT = 'You are a careful programmer. Be brief.';
const REAL_MODEL = 'anthropic/claude-sonnet-4-5';
/** So that a person can read along. */
const PACE_MS = 12;
const RUNNING_MS = 1000;

type Stage = {
  directory: string;
  installation: string;
  computers_dir: string;
  /** Undefined: the model is real. */
  stand_in: MessagesApi | undefined;
  model: string;
  /** The last one started, or being started. */
  node: Promise<TestNode> | undefined;
  /** Nothing more may be started. */
  over: boolean;
};

const began = performance.now();
void main();

async function main(): Promise<void> {
  const interrupted = Promise.withResolvers<never>();
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.once(signal, () => interrupted.reject(new Error('it was interrupted')));
  }
  // An interruption during the set-up is served after it.
  interrupted.promise.catch(() => undefined);
  const stage = await setUp();
  try {
    await Promise.race([show(stage), interrupted.promise]);
  } catch (error) {
    console.error(`\n${styleText('red', 'The demo failed:')} ${(error as Error).message}`);
    process.exitCode = 1;
  } finally {
    await tearDown(stage);
  }
  // What an interruption left pending must not keep the process.
  process.exit();
}

/** The installation's name is chosen here, so that what it leaves on the host can be found whatever happens. */
async function setUp(): Promise<Stage> {
  const { values } = parseArgs({ options: { model: { type: 'string', default: REAL_MODEL } } });
  const stand_in = process.env['ANTHROPIC_API_KEY'] ? undefined : await startMessagesApi(play);
  title('Overwinter demo');
  const model = stand_in ? 'anthropic/stand-in' : values.model;
  line(
    'model',
    stand_in
      ? 'a stand-in on this machine plays the model; it answers by a script'
      : `${model}, the real one`,
  );
  if (stand_in)
    line('', 'set ANTHROPIC_API_KEY to see the real API; commands and files are real in either case', 'dim');
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'overwinter-demo-'));
  const database = await openDatabase({ kind: 'embedded', directory: path.join(directory, 'database') });
  const installation = await installationId(database.db, randomBytes(6).toString('hex'));
  await database.close();
  const shared =
    process.getuid?.() === 0 ? '/var/lib/overwinter/computers' : path.join(directory, 'computers');
  const computers_dir = process.env['OVERWINTER_COMPUTERS_DIR'] || shared;
  return { directory, installation, computers_dir, stand_in, model, node: undefined, over: false };
}

async function start(stage: Stage): Promise<TestNode> {
  const { directory, computers_dir, stand_in, over } = stage;
  if (over) throw new Error('the demo is over');
  const { ANTHROPIC_API_KEY: key, ANTHROPIC_BASE_URL: base_url } = process.env;
  const endpoint = stand_in?.base_url ?? base_url;
  stage.node = startNode({
    OVERWINTER_DATA_DIR: directory,
    OVERWINTER_COMPUTERS_DIR: computers_dir,
    OVERWINTER_LOG_LEVEL: 'warn',
    ANTHROPIC_API_KEY: stand_in ? 'sk-stand-in' : (key ?? ''),
    ...(endpoint === undefined ? {} : { ANTHROPIC_BASE_URL: endpoint }),
  });
  return await stage.node;
}

async function show(stage: Stage): Promise<void> {
  const node = await start(stage);
  line('server', `${node.url}, pid ${node.process.pid}, data in ${stage.directory}`);
  const { agents, sessions } = node.client;
  const agent = await agents.create({ name: 'demo', prompt: PROMPT, model: stage.model });
  const session = await sessions.create({ agent: agent.id, input: TASK });
  line('session', `${session.id} of agent ${agent.id}`);
  title('The first turn; a message arrives in the middle of it');
  const first = await firstTurn(session);
  title('The second turn; the server is killed in the middle of it');
  const again = await secondTurn(stage, session, first);
  await conclude(again);
  const last = await stage.node!;
  if ((await last.stop()) !== 0) throw new Error('the server did not stop cleanly');
}

/** Steers at the first sign of work, else after the turn. Returns the seq of the turn's end. */
async function firstTurn(session: Session): Promise<number> {
  let steered = false;
  const end = await follow(session, 0, async (event) => {
    if (event.type === 'exec.completed' && !steered) {
      steered = true;
      await session.steer(STEER);
    }
    return event.type === 'turn.completed';
  });
  if (!steered) await session.steer(STEER);
  return end;
}

/** Kills the server at the turn's first command and starts it again; the session finishes by itself. */
async function secondTurn(stage: Stage, session: Session, after: number): Promise<Session> {
  let ended = false;
  const seen = await follow(session, after, (event) => {
    ended = event.type === 'turn.completed';
    return ended || event.type === 'tool.call';
  });
  if (ended) return session;
  await delay(RUNNING_MS);
  const doomed = await stage.node!;
  await doomed.kill();
  note('red', `kill -9 ${doomed.process.pid}: the server is gone, and the command with it`);
  const node = await start(stage);
  note('green', `the server is started again, pid ${node.process.pid}; nobody tells it what to do`);
  const again = await node.client.sessions.get(session.id);
  await follow(again, seen, (event) => event.type === 'turn.completed');
  return again;
}

/** Prints events after the cursor until one is enough. Returns its seq. */
async function follow(
  session: Session,
  after: number,
  isEnough: (event: Event) => boolean | Promise<boolean>,
): Promise<number> {
  const ending = new AbortController();
  let seq = after;
  let running = false;
  for await (const event of session.events({ after, signal: ending.signal })) {
    seq = event.seq;
    print(event, running);
    running = event.type === 'turn.started' || (running && event.type !== 'turn.completed');
    if (event.type === 'turn.completed' && reasonOf(event.body) !== 'completed') {
      throw new Error(`a turn ended: ${reasonOf(event.body)}`);
    }
    if (await isEnough(event)) break;
  }
  ending.abort();
  return seq;
}

/** Reads the whole log back: the demo counts only if it is complete and both turns ended well. */
async function conclude(session: Session): Promise<void> {
  const query = { level: 'runtime', limit: 500 } as unknown as Parameters<Session['listEvents']>[0];
  const { data: log } = await session.listEvents(query);
  const count = (type: string): number => log.filter((event) => event.type === type).length;
  const { result, lastTurn } = await session.result();
  title('The result');
  line('agent', (result?.body as { text?: string } | undefined)?.text ?? '(nothing)');
  const attempts = `${count('turn.completed')} turns in ${count('turn.attempted')} attempts`;
  line('log', `${log.length} events, ${attempts}, ${count('model.requested')} model requests`);
  line('time', `${Math.round((performance.now() - began) / 1000)} s`);
  if (log.some((event, index) => event.seq !== index + 1)) throw new Error('the log has a gap');
  if (count('turn.completed') !== 2 || lastTurn?.state !== 'ok') throw new Error('a turn did not complete');
}

function print(event: Event, running: boolean): void {
  const body = event.body as Record<string, unknown>;
  switch (event.type) {
    case 'user.message':
      entry(event, running ? 'steer' : 'you', 'cyan', String(body['text']));
      return running ? line('', '[queued: this turn goes on, the next one takes it]', 'dim') : undefined;
    case 'turn.started':
      return entry(event, 'turn', 'dim', `started; it takes input up to seq ${String(body['inputToSeq'])}`);
    case 'tool.call':
      return entry(
        event,
        'tool',
        'yellow',
        `${String(body['tool'])}  ${callOf(String(body['argsSummary']))}`,
      );
    case 'exec.completed': {
      const code = `exit ${event.body.exitCode}`;
      return entry(event, 'output', 'dim', `${String(body['summary']).trimEnd()}\n[${code}]`.trimStart());
    }
    case 'agent.message':
      return entry(event, event.level === 'user' ? 'answer' : 'agent', 'green', String(body['text']));
    case 'turn.completed':
      return entry(event, 'turn', 'dim', `ended: ${reasonOf(body)}`);
    default:
      // Events may come that this program does not know.
      if (event.type.startsWith('error.')) entry(event, 'error', 'red', String(body['message']));
  }
}

function reasonOf(body: unknown): string {
  return String((body as { yieldReason?: string }).yieldReason);
}

/** The summary of an edit is JSON that may be cut; its command and path come first. */
function callOf(summary: string): string {
  const edit = /^\{"command":"(\w+)","path":"([^"]+)"/.exec(summary);
  return edit ? `${edit[1]} ${edit[2]}` : summary;
}

type Style = Parameters<typeof styleText>[0];

function entry({ seq }: Event, label: string, style: Style, content: string): void {
  const number = styleText('dim', String(seq).padStart(5));
  console.log(`${number}  ${styleText(style, label.padEnd(7))} ${indented(content)}`);
}

function line(label: string, content: string, style: Style = 'reset'): void {
  console.log(`       ${styleText('dim', label.padEnd(7))} ${styleText(style, indented(content))}`);
}

function note(style: Style, content: string): void {
  console.log(`       ${styleText([style, 'bold'].flat() as Style, `>>>     ${content}`)}`);
}

function title(content: string): void {
  console.log(`\n${styleText('bold', content)}`);
}

function indented(content: string): string {
  return content.replaceAll('\n', `\n${' '.repeat(15)}`);
}

async function tearDown(stage: Stage): Promise<void> {
  stage.over = true;
  const node = await stage.node?.catch(() => undefined);
  await node?.kill();
  await stage.stand_in?.close();
  await removeComputers(stage);
  fs.rmSync(stage.directory, { recursive: true, force: true });
}

/** Computers of all installations of a host are neighbours, so only what this one made is removed. */
async function removeComputers({ computers_dir, installation }: Stage): Promise<void> {
  const own = path.join(computers_dir, installation);
  if (!fs.existsSync(own)) return;
  const log = { debug: () => undefined, warn: () => undefined, error: () => undefined };
  const uid_base = Number(SETTINGS.OVERWINTER_UID_BASE.default);
  const options = { computers_dir, installation, uid_base, log, fail: () => undefined, egress: null };
  const driver = bwrapDriver({ ...options, now: () => performance.now() });
  for (const id of fs.readdirSync(own).filter((name) => name.startsWith('cmp_')))
    await driver.destroy(id, null);
  await driver.close();
  fs.rmSync(own, { recursive: true, force: true });
  for (const controller of ['', 'cpu', 'memory', 'pids']) {
    const group = path.join('/sys/fs/cgroup', controller, 'overwinter', installation);
    if (fs.existsSync(group)) fs.rmdirSync(group);
  }
}

/** The divisors stop one short: squares of primes pass for primes. */
const PROGRAM = `for ((n = 2; n < 30; n++)); do
  prime=yes
  for ((d = 2; d * d < n; d++)); do
    ((n % d == 0)) && prime=no
  done
  [ $prime = yes ] && echo -n "$n "
done
echo
`;
const FIX = { old_str: 'd * d < n', new_str: 'd * d <= n' };
const FILE = '/workspace/primes.sh';
const RIGHT = '2 3 5 7 11 13 17 19 23 29';

/** The stand-in's part. What it says next depends on what the sandbox really answered; at anything else it gives up. */
function play({ messages }: MessagesRequest): Reply {
  const heard = heardLast(messages.at(-1)?.content ?? '');
  const cue = CUES.find(([pattern]) => pattern.test(heard));
  if (!cue) throw new Error(`the stand-in has no line for: ${heard}`);
  return { ...reply(...cue[1]), gate: () => delay(PACE_MS) };
}

const EDIT = 'str_replace_based_edit_tool';
const CUES: [RegExp, Parameters<typeof reply>][] = [
  [
    /Write \/workspace/,
    [text('I write it first.'), toolUse(EDIT, { command: 'create', path: FILE, file_text: PROGRAM })],
  ],
  [/^Wrote/, [toolUse('bash', { command: 'bash primes.sh' })]],
  [
    /^2 3 4 5/,
    [
      text('4, 9 and 25 are no primes: the loop over divisors stops one short of the root.'),
      toolUse(EDIT, { command: 'str_replace', path: FILE, ...FIX }),
    ],
  ],
  [/^Edited/, [toolUse('bash', { command: 'bash primes.sh' })]],
  [new RegExp(`^${RIGHT} *$`), [text(`primes.sh is right now. The primes below 30 are ${RIGHT}.`)]],
  [
    /One thing more/,
    [toolUse('bash', { command: 'sleep 5; bash primes.sh > primes.txt; wc -w primes.txt' })],
  ],
  [
    /may or may not have taken effect/,
    [
      text('I was interrupted and cannot know whether that was done. I look before I repeat it.'),
      toolUse('bash', { command: 'cat primes.txt' }),
    ],
  ],
  [/No such file/, [toolUse('bash', { command: 'sleep 1; bash primes.sh > primes.txt; wc -w primes.txt' })]],
  [/^10 primes.txt/, [text('primes.txt holds the 10 primes below 30.')]],
];

/** The text of the last block: a result of a tool or what the user said. */
function heardLast(content: MessagesRequest['messages'][number]['content']): string {
  if (typeof content === 'string') return content;
  const block = content.at(-1) ?? {};
  const said = block['text'] ?? block['content'];
  return typeof said === 'string' ? said.trim() : '';
}
