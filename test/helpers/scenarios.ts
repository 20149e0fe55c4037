/**
 * The lives behind the golden logs: one script for each thing that can happen to a session. A script gives the same bytes every
 * time.
 */
import type { ModelRequest } from '../../src/resource/model.ts';
import type { SessionEvent } from '../../src/session/event.ts';
import { modelRequest, transcript } from '../../src/session/transcript.ts';
import {
  ask,
  attach,
  bash,
  begin,
  change,
  command,
  COMPUTER,
  create,
  failed,
  fails,
  finish,
  hibernate,
  interrupted,
  message,
  NODES,
  ran,
  responds,
  say,
  startLife,
  text,
  thinking,
  usage,
  view,
  type Life,
} from './life.ts';

/** By name of the golden log. */
export const SCENARIOS: Record<string, (life: Life) => void> = {
  'plain-turn': (life) => {
    create(life, 'What does RFC 2119 define?');
    begin(life);
    responds(life, [text('RFC 2119 defines the key words MUST, SHOULD and MAY for use in standards.')]);
  },

  'tool-turn': (life) => {
    create(life, 'How many TypeScript files are in /workspace?');
    begin(life);
    responds(life, [thinking, text('I will count them.'), bash(1, 'find /workspace -name "*.ts" | wc -l')]);
    attach(life);
    finish(life, [[1, ran('find /workspace -name "*.ts" | wc -l', '42\n')]]);
    responds(life, [text('There are 42 TypeScript files.')]);
  },

  'parallel-tools': (life) => {
    create(life, 'Compare README.md with the tests.');
    begin(life);
    responds(life, [bash(1, 'npm test'), view(2, '/workspace/README.md'), bash(3, 'cat missing.txt')]);
    attach(life);
    finish(life, [
      [1, ran('npm test', '12 passed\n')],
      [2, { outcome: 'ok', content: '     1\t# Project\n     2\t\n     3\tAll 13 tests pass.\n' }],
      [3, failed('cat missing.txt', 'cat: missing.txt: No such file or directory\n', 1)],
    ]);
    responds(life, [text('The README says 13 tests; there are 12.')]);
  },

  say: (life) => {
    create(life, 'Run the migration and tell me when it is done.');
    begin(life);
    responds(life, [say(1, 'Starting the migration now.'), bash(2, './migrate.sh')]);
    attach(life);
    finish(life, [[2, ran('./migrate.sh', 'ok\n')]]);
    responds(life, [say(3, 'The migration is done: one table was added.')]);
    responds(life, [text('Nothing else is left to do.')]);
  },

  'ask-and-answer': (life) => {
    create(life, 'Deploy the service.');
    begin(life);
    responds(life, [bash(1, 'ls environments'), ask(2, 'To staging or to production?')]);
    attach(life);
    finish(life, [[1, ran('ls environments', 'production\nstaging\n')]]);
    life.now += 20_000;
    message(life, 'Staging, please.');
    begin(life);
    responds(life, [text('It is deployed to staging.')]);
  },

  'steer-while-running': (life) => {
    create(life, 'Write a summary of the report.');
    begin(life);
    life.now += 400;
    message(life, 'Keep it under 100 words.', { idempotency_key: 'steer-1' });
    responds(life, [text('Let me read it.'), view(1, '/workspace/report.md')]);
    message(life, 'And in French.');
    finish(life, [[1, { outcome: 'ok', content: '     1\tSales rose by 4 %.\n' }]]);
    responds(life, [text('Sales rose by 4 %.')]);
    begin(life);
    responds(life, [text('Les ventes ont progressé de 4 %.')]);
  },

  'cancel-in-model-call': (life) => {
    create(life, 'Write a very long story.');
    begin(life);
    life.now += 700;
    command(life, { type: 'cancel' });
    fails(life, {
      reason: 'aborted',
      code: 'aborted',
      message: 'the call was aborted',
      usage: usage(310, 25, true),
    });
    message(life, 'A haiku will do.');
    begin(life);
    responds(life, [text('Log upon log grows\na session sleeps in winter\nnothing has been lost')]);
  },

  'cancel-in-tool': (life) => {
    create(life, 'Wait for the build.');
    begin(life);
    responds(life, [bash(1, 'sleep 600'), bash(2, 'make')]);
    attach(life);
    life.now += 5000;
    command(life, { type: 'cancel' });
    finish(life, [[1, interrupted('sleep 600', '')]]);
    message(life, 'Was anything built?');
    begin(life);
    responds(life, [text('No: the build had not begun.')]);
  },

  'crash-in-model-call': (life) => {
    create(life, 'Say hello.');
    begin(life);
    life.now += 11_000;
    begin(life, 1);
    responds(life, [text('Hello.')]);
  },

  'crash-in-tool': (life) => {
    create(life, 'Charge the card once, and show me the receipt.');
    begin(life);
    responds(life, [bash(1, './charge.sh'), view(2, '/workspace/receipt.txt')]);
    attach(life);
    life.now += 11_000;
    begin(life, 1);
    change(life, { type: 'computer.woken', body: { computer_id: COMPUTER, node: NODES[1]!, generation: 2 } });
    finish(life, [[2, { outcome: 'ok', content: '     1\tpaid: 10 EUR\n' }]]);
    responds(life, [text('The receipt says that 10 EUR were paid.')]);
  },

  'crash-loop': (life) => {
    create(life, 'Open the file that kills you.');
    for (const node of [0, 1, 2, 0]) {
      begin(life, node);
      life.now += 11_000;
    }
    message(life, 'Try again.');
    begin(life, 1);
    responds(life, [text('This time it opened.')]);
  },

  budget: (life) => {
    create(life, 'Read the whole archive.', { tokens: 2000 });
    begin(life);
    responds(life, [bash(1, 'ls')], { usage: usage(900, 100) });
    attach(life);
    finish(life, [[1, ran('ls', 'a\nb\nc\n')]]);
    responds(life, [text('There is a lot'), bash(2, 'cat a')], {
      usage: usage(1100, 700),
      stop_reason: 'max_tokens',
    });
    finish(life, [[2, ran('cat a', 'aaa\n')]]);
    message(life, 'Go on.');
    begin(life);
  },

  'max-turns': (life) => {
    create(life, 'Tell me a joke.', { turns: 1 });
    begin(life);
    responds(life, [text('A log walks into a bar. It is still there.')]);
    message(life, 'Another one.');
    begin(life);
  },

  deadline: (life) => {
    create(life, 'Compile everything.', { turn_seconds: 60 });
    begin(life);
    responds(life, [bash(1, 'make world'), bash(2, 'make install')]);
    attach(life);
    life.now += 60_000;
    finish(life, [[1, interrupted('make world', 'cc a.c\n')]]);
  },

  backoff: (life) => {
    create(life, 'Say hello.');
    begin(life);
    fails(life, { reason: 'transient', code: 'overloaded_error', message: 'Overloaded' });
    life.now += 1000;
    command(life, { type: 'advance' });
    const cut = { reason: 'transient', code: 'cut_stream', message: 'the stream ended early' } as const;
    fails(life, { ...cut, usage: usage(300, 12, true), retry_after_ms: 7000 });
    life.now += 7000;
    command(life, { type: 'advance' });
    responds(life, [text('Hello.')]);
    message(life, 'Again.');
    begin(life);
    fails(life, { reason: 'credential', code: 'authentication_error', message: 'invalid x-api-key' });
  },

  refusal: (life) => {
    create(life, 'Do something forbidden.');
    begin(life);
    responds(life, [text('I can')], { stop_reason: 'refusal' });
    message(life, 'Then tell me the time.');
    begin(life);
    responds(life, [text('It is nine.')]);
  },

  'max-tokens-continued': (life) => {
    create(life, 'Recite the alphabet.');
    begin(life);
    responds(life, [text('A B C D E F G')], { stop_reason: 'max_tokens' });
    responds(life, [text('H I J K L M N')], { stop_reason: 'pause_turn' });
    responds(life, [text('O P Q R S T U V W X Y Z')]);
  },

  'hibernate-and-wake': (life) => {
    create(life, 'Make a file.');
    begin(life);
    responds(life, [bash(1, 'touch file')]);
    attach(life);
    finish(life, [[1, ran('touch file', '')]]);
    responds(life, [text('Done.')]);
    life.now += 30_000;
    hibernate(life, 1);
    life.now += 3_600_000;
    message(life, 'Is it still there?');
    begin(life, 1);
    responds(life, [bash(2, 'ls')]);
    change(life, { type: 'computer.woken', body: { computer_id: COMPUTER, node: NODES[1]!, generation: 2 } });
    finish(life, [[2, ran('ls', 'file\n')]]);
    responds(life, [text('Yes.')]);
  },

  'computer-lost': (life) => {
    create(life, 'Start the server and test it.');
    begin(life);
    responds(life, [bash(1, 'npm start &')]);
    attach(life);
    finish(life, [[1, ran('npm start &', '')]]);
    responds(life, [bash(2, 'curl localhost:3000')]);
    life.now += 11_000;
    begin(life, 1);
    responds(life, [bash(3, 'curl localhost:3000')]);
    change(life, {
      type: 'computer.lost',
      body: {
        computer_id: COMPUTER,
        generation: 1,
        message: 'Your computer was lost and is new: its files are gone.',
      },
    });
    change(life, { type: 'computer.woken', body: { computer_id: COMPUTER, node: NODES[1]!, generation: 2 } });
    finish(life, [[3, failed('curl localhost:3000', 'curl: (7) Failed to connect\n', 7)]]);
    responds(life, [text('The server is gone with its computer.')]);
  },

  archive: (life) => {
    create(life, 'Watch the queue.');
    begin(life);
    responds(life, [bash(1, 'tail -f queue.log')]);
    attach(life);
    message(life, 'Never mind.');
    command(life, { type: 'archive' });
    finish(life, [[1, interrupted('tail -f queue.log', '')]]);
    hibernate(life, 1);
  },
};

export function play(name: string): SessionEvent[] {
  const life = startLife();
  SCENARIOS[name]!(life);
  return life.log;
}

/** The request that the last `model.requested` of the log stands for. */
export function lastRequest(log: SessionEvent[]): ModelRequest | null {
  const asked = log.findLast((event) => event.type === 'model.requested');
  return asked ? modelRequest(transcript(log.slice(0, asked.seq)), asked.body.max_tokens) : null;
}
