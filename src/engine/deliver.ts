/**
 * Sends webhooks: claims the deliveries that are due, sends each once, records what became of it. Woken by the append that owed
 * them, by what it has just finished, and by a poll. A delivery that a dying node was sending is sent again: at least once.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { endpointVerdict, judge, type SendOutcome } from '../resource/delivery.ts';
import { SealError } from '../secret/seal.ts';
import { claimDeliveries, type ClaimedDelivery } from '../store/webhook/claim.ts';
import { settleDeliveries, type Settled } from '../store/webhook/deliveries.ts';
import { expireDeliveries, reclaimDeliveries, removeEndpoints } from '../store/webhook/sweeps.ts';
import { isConnectionError, isDeadlock } from '../store/ground/database.ts';
import { createEndpoints } from './endpoints.ts';
import { webhookRequest } from './envelope.ts';
import type { Runtime } from './runtime.ts';

export type Deliverer = {
  /** Something may be due. */
  wake: () => void;
  /** Claims nothing more; resolves when what is under way is recorded, at the latest after `drain_ms`. */
  stop: () => Promise<void>;
};

/** What of the runtime sending needs. */
type Sending = Pick<
  Runtime,
  'node' | 'database' | 'settings' | 'now' | 'random' | 'fail' | 'logger' | 'sealer' | 'poster'
>;

const PAUSE_AFTER_ERROR_MS = 500;
/** Of endpoints that nothing leads to. */
const UNUSED_S = 3600;
/** One org may take so much of a node's requests, that the others always find some free. */
const ORG_SHARE = 0.75;

/** @param monotonic this process's clock in ms: the database's may stand still. */
export function startDeliverer(runtime: Sending, monotonic: () => number): Deliverer {
  const { settings, database, node } = runtime;
  const { webhooks } = settings;
  const endpoints = createEndpoints(webhooks, monotonic);
  const sending = new Set<Promise<void>>();
  const stopping = new AbortController();
  const giving_up = new AbortController();
  const settle = createSettler(runtime, giving_up.signal);
  let requests = 0;
  let again = false;
  let claiming: Promise<void> | null = null;
  let timer: NodeJS.Timeout | undefined;
  let reclaimed_at = Number.NEGATIVE_INFINITY;
  let removed_at = Number.NEGATIVE_INFINITY;

  function wake(): void {
    if (stopping.signal.aborted) return;
    again = true;
    claiming ??= claimAll().finally(() => {
      claiming = null;
      if (again) wake();
    });
  }

  async function claimAll(): Promise<void> {
    clearTimeout(timer);
    let wait_ms = settings.poll_ms;
    try {
      await lookAfter();
      while (again && !stopping.signal.aborted) {
        again = false;
        // As many again may wait to be recorded, so that requests do not wait for the database.
        const free = Math.min(webhooks.at_once_max - requests, 2 * webhooks.at_once_max - sending.size);
        if (free <= 0) break;
        const salt = String(runtime.random());
        const bounds = {
          ...{ limit: free, slots_default: endpoints.slots_default, attempts_max: webhooks.attempts_max },
          per_org_max: Math.ceil(webhooks.at_once_max * ORG_SHARE),
        };
        const claimed = await claimDeliveries(database, node, endpoints.slots(), bounds, salt);
        if (claimed.length > 0) await runtime.fail('webhook.claimed');
        claimed.forEach(start);
        again ||= claimed.length > 0;
      }
      wait_ms = Math.min(wait_ms, endpoints.more_in_ms() ?? wait_ms);
    } catch (error) {
      runtime.logger.error({ err: error }, 'claiming deliveries failed');
      wait_ms = PAUSE_AFTER_ERROR_MS;
    }
    if (!stopping.signal.aborted) timer = setTimeout(wake, wait_ms);
  }

  /** What dead nodes were sending is looked for as often as nodes are missed, and with it what is too old. */
  async function lookAfter(): Promise<void> {
    const now = monotonic();
    if (now - reclaimed_at < settings.lease_ttl_ms / 2) return;
    reclaimed_at = now;
    await reclaimDeliveries(database.db);
    await expireDeliveries(database.db, webhooks.age_ms_max);
    if (now - removed_at < UNUSED_S * 1000) return;
    removed_at = now;
    await removeEndpoints(database.db, UNUSED_S);
  }

  function start(claimed: ClaimedDelivery): void {
    const under_way = request(claimed)
      .then((settled) => settled && settle(settled))
      .catch((error: unknown) =>
        runtime.logger.error({ err: error, delivery: claimed.id }, 'a delivery failed'),
      )
      .finally(() => {
        sending.delete(under_way);
        wake();
      });
    sending.add(under_way);
  }

  async function request(claimed: ClaimedDelivery): Promise<Settled | undefined> {
    const { org, origin } = claimed;
    let failed = false;
    requests += 1;
    endpoints.started(org, origin);
    try {
      const settled = await send(runtime, claimed, giving_up.signal);
      failed = settled?.endpoint === 'fails';
      return settled;
    } finally {
      requests -= 1;
      endpoints.ended(org, origin, failed);
      wake();
    }
  }

  async function stop(): Promise<void> {
    stopping.abort();
    clearTimeout(timer);
    const impatience = setTimeout(() => giving_up.abort(), settings.drain_ms);
    await claiming;
    clearTimeout(timer);
    await Promise.all(sending);
    clearTimeout(impatience);
  }

  wake();
  return { wake, stop };
}

/** Sends one delivery. Undefined when the node gave up: the attempt may have arrived, and another node makes it again. */
async function send(
  runtime: Sending,
  claimed: ClaimedDelivery,
  giving_up: AbortSignal,
): Promise<Settled | undefined> {
  const { outcome, is_ours } = await attempt(runtime, claimed, giving_up);
  if (giving_up.aborted && outcome.kind !== 'responded') return undefined;
  await runtime.fail('webhook.sent');
  const { stream, id, org, origin, attempts, attempts_before, is_probe } = claimed;
  const rules = runtime.settings.webhooks;
  const verdict = judge(outcome, attempts - attempts_before, rules, runtime.random());
  const responded = outcome.kind === 'responded' ? outcome : undefined;
  return {
    ...{ stream, id, org, origin, attempts, is_probe },
    status: verdict.status,
    was_tried: outcome.kind !== 'busy',
    retry_in_ms: verdict.status === 'failed' ? verdict.retry_in_ms : null,
    response_code: responded?.status ?? null,
    response_body: responded ? storable(responded.body) : null,
    error: verdict.status === 'delivered' ? null : storable(reasonOf(outcome)),
    endpoint: is_ours ? 'unknown' : endpointVerdict(outcome),
    retry_after_ms: responded?.retry_after_ms ?? null,
  };
}

/** `is_ours`: nothing was sent, and the endpoint is not to blame. */
async function attempt(
  runtime: Sending,
  claimed: ClaimedDelivery,
  giving_up: AbortSignal,
): Promise<{ outcome: SendOutcome; is_ours: boolean }> {
  const { url, id, stream, metadata, event, include_raw } = claimed;
  const secrets = openSecrets(runtime, claimed);
  if (!secrets) return { outcome: { kind: 'failed', reason: UNOPENED }, is_ours: true };
  const owed = { delivery_id: id, session: stream, metadata, event, include_raw };
  const request = { tenant: claimed.org, url, ...webhookRequest(owed, secrets, runtime.now()) };
  return { outcome: await runtime.poster.post(request, giving_up), is_ours: false };
}

export const UNOPENED = 'the secret of the destination does not open on this server';

/** Undefined when one does not open, which the log tells. */
export function openSecrets(
  { sealer, logger }: Pick<Runtime, 'sealer' | 'logger'>,
  { org, secrets }: Pick<ClaimedDelivery, 'org' | 'secrets'>,
): string[] | undefined {
  try {
    return secrets.map(({ id, sealed }) =>
      sealer.open(sealed, { org, table: 'destination_secret', id, column: 'sealed' }),
    );
  } catch (error) {
    if (!(error instanceof SealError)) throw error;
    logger.error(
      { err: error, secrets: secrets.map(({ id }) => id) },
      'a stored webhook secret does not open',
    );
    return undefined;
  }
}

const SETTLE_TRIES = 8;
const SETTLE_WAIT_MS = { first: 100, max: 2000 };

/**
 * Records attempts together: those that end while one statement is under way share the next.
 * @param giving_up ends the retries: what has failed until then is tried once more at most.
 */
function createSettler(runtime: Sending, giving_up: AbortSignal): (settled: Settled) => Promise<void> {
  let waiting: Settled[] = [];
  let next: Promise<void> | null = null;
  let current: Promise<void> = Promise.resolve();

  async function flush(after: Promise<void>): Promise<void> {
    await after;
    const batch = waiting;
    waiting = [];
    next = null;
    await record(batch);
    await runtime.fail('webhook.settled');
  }

  /** What is not recorded would be sent again. A statement that is under way is waited for, whatever time it is. */
  async function record(batch: Settled[], tries = 0): Promise<void> {
    try {
      await settleDeliveries(runtime.database, runtime.node, batch);
    } catch (error) {
      const may_pass = isConnectionError(error) || isDeadlock(error);
      if (giving_up.aborted || tries >= SETTLE_TRIES || !may_pass) throw error;
      const wait_ms = Math.min(SETTLE_WAIT_MS.first * 2 ** tries, SETTLE_WAIT_MS.max);
      await delay(wait_ms, undefined, { signal: giving_up }).catch(() => undefined);
      await record(batch, tries + 1);
    }
  }

  return async (settled) => {
    waiting.push(settled);
    if (!next) {
      next = flush(current);
      current = next.catch(() => undefined);
    }
    await next;
  };
}

function reasonOf(outcome: SendOutcome): string {
  if (outcome.kind !== 'responded') return outcome.reason;
  return `the receiver answered ${outcome.status}`;
}

const TEXT_CHARACTERS_MAX = 400;

/** What PostgreSQL can hold. */
function storable(text: string): string {
  return text.slice(0, TEXT_CHARACTERS_MAX).toWellFormed().replaceAll('\0', '\uFFFD');
}
