import path from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { parseNetworks } from '../../src/net/address.ts';
import { hostMatcher } from '../../src/net/egress-gate.ts';
import { createEgress } from '../../src/net/egress.ts';
import type { Report, Tried } from './egress/inside.ts';
import { runInNamespace } from './namespace.ts';

const PROGRAM = path.join(import.meta.dirname, 'egress/inside.ts');
const CORPUS = path.join(import.meta.dirname, '../../fixtures/webhooks/urls.json');
const PUBLIC = '93.184.216.34';
const PUBLIC_6 = '2606:2800:220:1::34';

let report: Report;

beforeAll(async () => {
  const proxies = { HTTP_PROXY: 'http://127.0.0.1:8080', NODE_USE_ENV_PROXY: '1' };
  report = JSON.parse(await runInNamespace(PROGRAM, [CORPUS], proxies)) as Report;
});

function tried(name: string): Tried {
  const found = report.cases[name];
  if (found === undefined) throw new Error(`No case is called "${name}".`);
  return found;
}

/** What the policy forbids, without a single connection. */
function expectForbidden(name: string, mode: 'open' | 'allow', reason: RegExp): void {
  const { answers, opened, reached } = tried(name);
  const beginning = `403 The computer's network policy "${mode}" forbids it: `;
  expect(answers.filter((answer) => !answer.startsWith(beginning) || !reason.test(answer))).toEqual([]);
  expect(answers.length).toBeGreaterThan(0);
  expect({ opened, reached }).toEqual({ opened: 0, reached: [] });
}

describe('public addresses are reached', () => {
  it('by http, by name, by IPv4 and by IPv6', () => {
    expect(tried('public')).toEqual({
      answers: ['200 here', '200 here', '200 here'],
      opened: 3,
      reached: [`${PUBLIC} 80`, `${PUBLIC} 8080`, `${PUBLIC_6} 80`],
    });
  });

  it('by CONNECT, on any port', () => {
    expect(tried('public, tunnelled')).toEqual({
      answers: ['200', '200', '200'],
      opened: 3,
      reached: [`${PUBLIC} 443`, `${PUBLIC} 22`, `${PUBLIC_6} 6379`],
    });
  });

  it('by TLS through CONNECT, whose certificate the client checks', () => {
    expect(report.secure).toBe('200 here');
  });
});

describe('everything else is refused before a connection', () => {
  it('no URL of the corpus leads anywhere but to a public address', () => {
    expect(report.corpus.tried.length).toBeGreaterThan(1000);
    const strays = report.corpus.reached.filter(
      (place) => ![PUBLIC, PUBLIC_6, '1.1.1.1'].includes(place.split(' ')[0]!),
    );
    expect(strays).toEqual([]);
    expect(report.corpus.opened).toBe(report.corpus.reached.length);
    expect(report.corpus.answers.filter((answer) => !/ 200( here)?$/.test(answer))).toEqual([]);
  });

  it('every spelling of an address inside', () => {
    const { answers, opened } = tried('forms');
    expect(answers.filter((answer) => !/^(403 .*\(|400$)/.test(answer))).toEqual([]);
    expect(opened).toBe(0);
  });

  it('a name with a public and a private address', () => {
    expectForbidden('mixed', 'open', /\((private|unique local)\)\.$/);
  });

  it('a name that turns private is reached while it is public only', () => {
    expect(tried('rebinding').answers.map((answer) => answer.slice(0, 3))).toEqual(['200', '403', '403']);
    expect(tried('rebinding').reached).toEqual([`${PUBLIC} 80`]);
    expect(tried('alternating').answers.map((answer) => answer.slice(0, 3))).toEqual([
      '200',
      '403',
      '200',
      '403',
    ]);
    expect(tried('alternating').reached).toEqual([`${PUBLIC} 443`, `${PUBLIC} 443`]);
  });

  it('mail', () => {
    expectForbidden('mail', 'open', /port 25 is closed\.$/);
    expectForbidden('mail by http', 'open', /port 25 is closed\.$/);
  });

  it("the machine's own public address", () => {
    expectForbidden(
      'own address',
      'open',
      /leads to an address that may not be sent to \(this machine's own\)\.$/,
    );
  });

  it('what is malformed or lies about its host', () => {
    const { answers, opened } = tried('malformed');
    expect(answers.filter((answer) => !/^(400|431)\b/.test(answer))).toEqual([]);
    expect(opened).toBe(0);
  });
});

describe('the operator may open networks', () => {
  it('and no others with them', () => {
    const { answers, reached } = tried('open network');
    expect(answers.map((answer) => answer.slice(0, 3))).toEqual(['200', '403', '403']);
    expect(reached).toEqual(['10.20.0.5 80']);
    expect(tried('own address, opened').answers).toEqual(['200 here', '200 here']);
  });
});

describe('a list of hosts', () => {
  it('lets those through, whatever their case', () => {
    expect(tried('listed').answers).toEqual(['200 here', '200 here', '200 here', '200 here']);
  });

  it('and nothing else: the name is not even asked for', () => {
    const { answers, opened } = tried('not listed');
    const beginning = /^(403 .* is not among its hosts\.$|400 )/;
    expect(answers.filter((answer) => !beginning.test(answer))).toEqual([]);
    expect(opened).toBe(0);
  });

  it('does not make private addresses public', () => {
    expectForbidden('listed and private', 'allow', /\((private|loopback)\)\.$|port 25/);
  });

  it.each([
    ['example.org', 'EXAMPLE.org.', true],
    ['example.org', 'a.example.org', false],
    ['*.example.org', 'a.b.example.org', true],
    ['*.example.org', 'example.org', false],
    ['*.example.org', 'badexample.org', false],
    ['*.0.0.1', '127.0.0.1', false],
    ['xn--bcher-kva.example', 'xn--bcher-kva.example', true],
    ['bücher.example', 'xn--bcher-kva.example', true],
  ])('%s and %s: %s', (entry, hostname, passes) => {
    expect(hostMatcher([entry])(hostname)).toBe(passes);
  });
});

describe('what fails says so', () => {
  it('names without an address, ports without a listener', () => {
    expect(tried('no address').answers.map((answer) => answer.slice(0, 3))).toEqual(['502', '502', '502']);
    expect(tried('nobody there').answers).toEqual(['502 The connection was refused (ECONNREFUSED).']);
  });

  it('answers that are no HTTP are not passed on, and answers that break off do not look whole', () => {
    expect(report.flow['cut']).toEqual([true, true]);
    const broken = report.flow['broken'] as string[];
    expect(broken.length).toBe(6);
    expect(broken.filter((answer) => !answer.startsWith('502 '))).toEqual([]);
  });

  it('what is slow or silent is ended', () => {
    // On a busy machine the cut may come before the word.
    const told = (refusal: string): unknown => expect.stringMatching(new RegExp(`^(${refusal}|nothing)`));
    expect(report.flow).toMatchObject({
      slow_headers: told('408'),
      slow_nothing: told('408'),
      slow_answer: told('504 The host did not answer in time.'),
      after_left: '200 here',
    });
  });

  it('refusals are logged with the computer, its policy and the host', () => {
    expect(report.logged[0]).toMatchObject({ computer: 'cmp_test', policy: 'open', status: 403 });
    expect(Object.keys(report.logged[0]!).sort()).toEqual(['computer', 'policy', 'reason', 'status', 'to']);
  });
});

describe('what goes through', () => {
  it('loses the headers of the hop, and carries the host that was checked', () => {
    const sent = report.headers.map((each) => (each as { sent: object }).sent);
    const host = ['Host', 'public.test:8888'];
    const close = ['Connection', 'close'];
    const kept = ['X-Kept', 'a', 'X-Kept', 'b', 'Cookie', 'c=d'];
    expect(sent).toEqual([
      { method: 'GET', url: '/a/../b?c=%20d', body: '', rawHeaders: [...host, ...kept, ...close] },
      { method: 'POST', url: '/', body: 'hello', rawHeaders: [...host, 'Content-Length', '5', ...close] },
      {
        method: 'DELETE',
        url: '/?q',
        body: 'hello',
        rawHeaders: [...host, 'Transfer-Encoding', 'chunked', ...close],
      },
      { method: 'PATCH', url: '/', body: '', rawHeaders: [...host, 'Content-Length', '0', ...close] },
    ]);
    const answered = report.headers.map((each) => (each as { headers: string }).headers).join('\n');
    expect(answered).toContain('x-kept: yes');
    expect(answered).not.toMatch(/proxy-authenticate|timeout=99/);
  });

  it('may end on one side first', () => {
    expect(report.flow).toMatchObject({ client_ends: 'got all of it', server_ends: 'still here.' });
  });

  it('is read no faster than it is taken', () => {
    expect(report.flow).toMatchObject({ poured: 64, passed_whole: true });
    expect(report.flow['held_at']).toBeLessThan(32);
  });
});

describe('bounds', () => {
  const busy = '503 Too many connections of this computer are open.';

  it('300 connections are 256, and the others are told so', () => {
    expect(report.flow['concurrent']).toEqual({ '200': 256, [busy]: 44 });
    expect(report.flow['beyond']).toMatchObject({ '200': 4 });
    expect(report.flow['after']).toBe('200 here');
  });

  it('many requests on one connection are many connections outward', () => {
    expect(report.flow).toMatchObject({ pipelined: 8, meanwhile: busy, again: busy });
  });

  it('all computers together have one', () => {
    expect(report.flow['total']).toEqual({
      '200': 3,
      '503 Too many connections of all computers are open.': 2,
    });
  });

  it('the end of the computer is the end of all its connections', () => {
    expect(report.flow['ended']).toEqual(['', '', '', '']);
  });

  it('a computer without a network has no proxy', async () => {
    const egress = createEgress({ allowed: parseNetworks(''), log: { debug: () => {} } });
    await expect(egress.serve('/nowhere/egress', { mode: 'off' }, 'cmp_1')).rejects.toThrow('no egress');
  });

  it('nothing was thrown into the void', () => {
    expect(report.faults).toEqual([]);
  });
});
