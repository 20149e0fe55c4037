import path from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import type { SendOutcome } from '../../src/resource/delivery.ts';
import type { Control, Report } from './inside.ts';
import { runInNamespace } from './namespace.ts';

const PROGRAM = path.join(import.meta.dirname, 'inside.ts');
const CORPUS = path.join(import.meta.dirname, '../../fixtures/webhooks/urls.json');
/** A port that listens, should anyone ask it. */
const PROXY = 'http://127.0.0.1:8080';
const PUBLIC = '93.184.216.34';
const RESPONDED: SendOutcome = { kind: 'responded', status: 200, retry_after_ms: null, body: 'here' };
const REDIRECTED: SendOutcome = { ...RESPONDED, status: 307 };

let report: Report;

beforeAll(async () => {
  const proxies = { HTTP_PROXY: PROXY, HTTPS_PROXY: PROXY, https_proxy: PROXY, ALL_PROXY: PROXY };
  const printed = await runInNamespace(PROGRAM, [CORPUS], { ...proxies, NODE_USE_ENV_PROXY: '1' });
  report = JSON.parse(printed) as Report;
});

function control(name: string): Control {
  const found = report.controls[name];
  if (found === undefined) throw new Error(`No control is called "${name}".`);
  return found;
}

/** Everything was refused, and nothing was as much as tried. */
function refused(reason: string): Control {
  return { outcomes: [{ kind: 'refused', reason }], opened: 0, reached: [] };
}

describe('where every address would answer', () => {
  it('nothing can leave, and what is sent without care arrives', () => {
    expect(report.interfaces).toEqual(['lo']);
    const { opened, reached } = control('plain sockets');
    expect(opened).toBe(8);
    expect(reached.map(({ address }) => address)).toEqual([
      ...['127.0.0.1', '169.254.169.254', '10.1.2.3', '100.100.100.200'],
      ...['::1', 'fd00::1', 'fec0::1', '64:ff9b::7f00:1'],
    ]);
  });

  it('no URL of the corpus opens a connection', () => {
    expect(report.corpus_reached).toEqual([]);
    expect(report.corpus_opened).toBe(0);
  });

  it('every URL of the corpus is refused when it is written, with and without open networks', () => {
    expect(report.tried.length).toBeGreaterThanOrEqual(2 * 500);
    expect(report.tried.filter(({ refusal }) => refusal === null)).toEqual([]);
  });

  it('a name is refused for good when it is written, but where its nameserver fails', () => {
    const passing = report.tried.filter(({ refusal }) => refusal?.kind === 'failed').map(({ url }) => url);
    expect(new Set(passing)).toEqual(new Set(['https://servfail.test/', 'https://silent.test/']));
  });

  it('every URL of the corpus is refused when it is sent to, or has no address', () => {
    const without_address = (outcome: SendOutcome): boolean =>
      outcome.kind === 'failed' && /^The name (does not|could not be) resolve/.test(outcome.reason);
    const sent = report.tried.filter(
      ({ outcome }) => outcome.kind !== 'refused' && !without_address(outcome),
    );
    expect(sent).toEqual([]);
  });

  it('no reason is long, or an address that a name of the inside has', () => {
    const reasons = report.tried.map(({ refusal }) => refusal?.reason ?? '');
    expect(reasons.filter((reason) => reason.length > 400)).toEqual([]);
    expect(reasons.filter((reason) => reason.includes('metadata.g') && reason.includes('169.254'))).toEqual(
      [],
    );
  });
});

describe('what may be reached is reached', () => {
  it.each([
    ['public address', { address: PUBLIC, port: 443 }],
    ['public address, IPv6', { address: '2606:2800:220:1::34', port: 443 }],
    ['public name', { address: PUBLIC, port: 8443 }],
    ['open network by name over http', { address: '10.20.0.5', port: 8080 }],
    ['open network over https', { address: '10.20.0.5', port: 443 }],
  ])('%s', (name, address) => {
    expect(control(name)).toEqual({ outcomes: [RESPONDED], opened: 1, reached: [address] });
  });

  it('an open network over http, IPv4 and IPv6', () => {
    const reached = [
      { address: '10.20.0.5', port: 80 },
      { address: 'fd77::5', port: 8080 },
    ];
    expect(control('open network over http')).toEqual({
      outcomes: [RESPONDED, RESPONDED],
      opened: 2,
      reached,
    });
  });

  it('a name with an open and a public address, over https only', () => {
    expect(control('open and public over https')).toMatchObject({ outcomes: [RESPONDED], opened: 1 });
    expect(control('open and public over http')).toEqual(refused('The URL must begin with https://.'));
  });

  it('the second address of a name, where the first is dead', () => {
    const { outcomes, reached } = control('second address');
    expect(outcomes).toEqual([RESPONDED]);
    expect(reached).toEqual([{ address: '93.184.216.35', port: 9443 }]);
  });

  it('a public name over connections that are used again', () => {
    const { outcomes, opened } = control('connection used again');
    expect(outcomes).toEqual(Array.from({ length: 6 }, () => RESPONDED));
    expect(opened).toBeLessThanOrEqual(2);
  });
});

describe('what changes underway leads nowhere', () => {
  it('a name with an open and a closed address', () => {
    const reason = '10-20-0-5.10-21-0-5.ip.test leads to an address that may not be sent to (private).';
    expect(control('open and closed')).toEqual(refused(reason));
  });

  it("a public address of the machine's own, unless it was opened", () => {
    const { outcomes, opened } = control('own address');
    expect(opened).toBe(0);
    expect(outcomes.map((each) => each.kind === 'refused' && each.reason)).toEqual(
      ['93.184.216.99', '93-184-216-99.ip.test'].map(
        (host) => `${host} leads to an address that may not be sent to (this machine's own).`,
      ),
    );
    expect(control('own address, opened').outcomes).toEqual([RESPONDED]);
  });

  it.each(['redirect', 'redirect of an open network'])('a %s to the metadata service', (name) => {
    expect(control(name)).toEqual({ outcomes: [REDIRECTED], opened: 0, reached: [] });
  });

  it('a name that is public first and private from then on is reached at the public address only', () => {
    const { outcomes, opened, reached } = control('rebinding');
    const reason = 'rebind.test leads to an address that may not be sent to (loopback).';
    expect(outcomes).toEqual([RESPONDED, { kind: 'refused', reason }, { kind: 'refused', reason }]);
    expect(reached).toEqual([{ address: PUBLIC, port: 443 }]);
    expect(opened).toBe(1);
  });

  it('a name that turns private between the check and the request', () => {
    const reason = 'rebind-checked.test leads to an address that may not be sent to (metadata).';
    expect(control('rebinding after the check')).toEqual({ ...refused(reason), refusal: null });
  });

  it('a name that alternates, each time it is private', () => {
    const { outcomes, opened, reached } = control('alternating');
    const kinds = outcomes.map(({ kind }) => kind).join(' ');
    expect(kinds).toBe('responded refused responded refused responded refused');
    expect(reached).toEqual(Array.from({ length: 3 }, () => ({ address: PUBLIC, port: 443 })));
    expect(opened).toBe(3);
  });
});

describe('names whose nameserver is silent', () => {
  it('keep no thread: the resolver of the host answers the process meanwhile', () => {
    expect(report.silence.getaddrinfo_ms).toBeLessThan(1000);
  });

  it('do not delay a request to another name', () => {
    expect(report.silence.post).toEqual(RESPONDED);
    expect(report.silence.post_ms).toBeLessThan(1000);
  });

  it('have a bound for each tenant and one for all, above which a new name is not asked for', () => {
    const { surplus, neighbour, neighbour_ms, last, shared } = report.silence;
    const too_many = { kind: 'busy', reason: 'Too many names are being resolved.' };
    expect(surplus).toEqual([too_many, too_many]);
    expect(neighbour).toEqual(RESPONDED);
    expect(neighbour_ms).toBeLessThan(1000);
    expect(last).toEqual(too_many);
    expect(shared).toBe('waits');
  });
});
