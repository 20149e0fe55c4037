/** The HTTP surface as one app: what runs around every request, the mounts, and the document that describes them. */
import type { Computers } from '../engine/computers/computers.ts';
import { createExecSessions } from '../engine/computers/exec/sessions.ts';
import { createTerminals, type Terminals } from '../engine/computers/terminals.ts';
import type { Deployments } from '../engine/deployments/deployments.ts';
import type { Runtime } from '../engine/runtime.ts';
import { createApi, type Api } from './api.ts';
import { api } from './api/app.ts';
import { SANDBOX_TITLES } from './api/titles.ts';
import { findUsable } from '../store/api-keys.ts';
import { createAdmit } from './auth.ts';
import { cors } from './cors.ts';
import { renderError, renderNotFound } from './error.ts';
import { mountHealth } from './health.ts';
import {
  createRateLimit,
  createStreamLimit,
  NO_LIMITS,
  type Limits,
  type RateLimit,
  type StreamLimit,
} from './rate-limit.ts';
import { mountReference } from './reference.ts';
import { deploymentUrl, portUrl } from './published/published.ts';
import { requestId } from './request-id.ts';
import { createRevocations, type Revocations } from './revocations.ts';
import { mountAgents } from './v3/agents.ts';
import { mountApiKeys } from './v3/api-keys.ts';
import { mountClientTokens } from './v3/client-tokens.ts';
import { mountCredentials } from './v3/credentials.ts';
import { mountDeliveries } from './v3/deliveries.ts';
import { mountDestinations } from './v3/destinations.ts';
import { mountEvents } from './v3/events.ts';
import { followWrites, mountMasterKey, type Writes } from './v3/master-key.ts';
import { mountMessages } from './v3/messages.ts';
import { mountOrgs } from './v3/orgs.ts';
import { mountSessions } from './v3/sessions.ts';
import { mountTurns } from './v3/turns.ts';
import { routedPath, v1 } from './v1/app.ts';
import { V1_BODY_BYTES_MAX } from './v1/wire.ts';
import { jsonText } from './wire.ts';

export type AppOptions = {
  computers: Computers;
  deployments: Deployments;
  /** Whether a command on `/v1` starts a stopped computer without being told to. */
  auto_resume?: boolean;
  /** The URL of published ports, with a star where the name of each goes. */
  ports_url?: () => string;
  wake_patience_ms?: number;
  public_url?: string | undefined;
  /** Aborted when the server stops: open streams then end. */
  signal: AbortSignal;
  version: string;
  /** What `/healthz` tells of the sandbox. */
  capabilities: unknown;
  /** Without them there are none. */
  limits?: Limits;
  keepalive_ms?: number;
  stall_ms?: number;
};

const KEEPALIVE_MS = 15_000;
const STALL_MS = 60_000;
/** Clients of commands give up on a silent answer sooner than readers of events. */
const COMMAND_KEEPALIVE_MS = 10_000;
/** Clients that ask again while a computer wakes are not asked to when it is quick. */
const WAKE_PATIENCE_MS = 5000;

/** Serve it with http/listener.ts: event streams write to its bindings. */
export function createApp(runtime: Runtime, options: AppOptions): Api {
  const app = createApi(routedPath);
  const shared = shareOf(runtime, options);
  app.use(requestId((kind) => runtime.newId(kind)));
  app.use(cors());
  app.onError(renderError((fields, message) => runtime.logger.error(fields, message)));
  app.notFound(renderNotFound());
  mountHealth(app, runtime, options);
  for (const path of ['/v3/*', '/v1/*', '/api/*']) app.use(path, shared.writes.follow);
  app.route('/v3', v3(runtime, options, shared));
  app.route('/v1', v1Of(runtime, options, shared));
  app.route('/api', apiOf(runtime, options, shared));
  mountReference(app);
  let document: string | undefined;
  app.get('/openapi.json', () => jsonText((document ??= JSON.stringify(describe(app, options.version)))));
  return app;
}

/** The OpenAPI 3.1 document of an app, from the schemas that its routes check; each operation bears the tag of its noun and a title. */
export function describe(app: Api, version: string): object {
  const document = app.getOpenAPI31Document({
    openapi: '3.1.0',
    info: { title: 'Overwinter', version, description: 'Durable agent sessions.' },
  });
  for (const [path, methods] of Object.entries(document.paths ?? {})) {
    for (const [method, operation] of Object.entries(methods as Record<string, Operation>)) {
      Object.assign(operation, { tags: [nounOf(path)], summary: titleOf(method, path) });
    }
  }
  return document;
}

type Operation = { tags?: string[]; summary?: string };

const VERBS: Record<string, string> = {
  ...{ get: 'Read', post: 'Make', put: 'Set', patch: 'Change', delete: 'Delete' },
};
/** Of paths that are not about a collection. */
const TITLES: Record<string, string> = {
  'get /healthz': 'Read the health of the server',
  'post /v3/master-key/rotation': 'Rotate the master key',
  'put /v3/credentials/default': 'Choose the default credential',
  'post /v1/computers/bulk-delete': 'Delete computers',
  'post /v1/computers/{computer_id}/exec': 'Run a command in a computer',
  'post /v1/computers/{computer_id}/exec/stream': 'Run a command in a computer, as a stream',
  'post /v1/computers/{computer_id}/retry-restore': 'Retry the restore of a computer',
  'post /v1/computers/{computer_id}/display': 'Watch a computer',
  'post /v1/computers/{computer_id}/browser': 'Control the browser of a computer',
  'post /v1/deploy/agent': 'Deploy an app',
  'post /v1/deploy/agents/run': 'Ask the agent of a deployment',
  'get /v1/deploy/apps/{app_name}/status': 'Read the status of an app',
  ...SANDBOX_TITLES,
};

/** As one would say it: "List destinations of a session", "Cancel a session". */
function titleOf(method: string, path: string): string {
  const steps = path.split('/').slice(2);
  const last = steps.at(-1)!;
  const collections = steps.filter((_, index) => steps[index + 1]?.startsWith('{')).map(one);
  const of = (owner: string | undefined): string => (owner === undefined ? '' : ` of ${owner}`);
  const known = TITLES[`${method} ${path}`];
  if (known !== undefined) return known;
  if (last.startsWith('{')) return `${VERBS[method]} ${collections.at(-1)}${of(collections.at(-2))}`;
  const whose = of(collections.at(-1));
  const noun = last.replaceAll('-', ' ');
  if (!last.endsWith('s') && method === 'post')
    return `${noun[0]!.toUpperCase()}${noun.slice(1)} ${collections.at(-1)}`;
  if (!last.endsWith('s')) return `${VERBS[method]} the ${noun}${whose}`;
  if (method === 'get') return `List ${noun}${whose}`;
  return `${VERBS[method]} ${method === 'delete' ? `all ${noun}` : one(last)}${whose}`;
}

/** `deliveries` → "a delivery". */
function one(collection: string): string {
  const noun = collection.replace(/ies$/, 'y').replace(/xes$/, 'x').replace(/s$/, '').replaceAll('-', ' ');
  return `${/^[aeiou]/.test(noun) ? 'an' : 'a'} ${noun}`;
}

/** What a path is about: its last collection, `/v3/sessions/{session_id}/events/{event_id}` about events. */
function nounOf(path: string): string {
  const nouns = [...path.matchAll(/\/([a-z-]+s)(?=\/\{|$)/g)].map((match) => match[1]!);
  return nouns.at(-1) ?? path.split('/')[2] ?? 'server';
}

/** What all mounts count together. */
type Shared = {
  rate: RateLimit;
  revocations: Revocations;
  enter: StreamLimit;
  terminals: Terminals;
  writes: Writes;
};

function shareOf(runtime: Runtime, { limits = NO_LIMITS, computers, signal }: AppOptions): Shared {
  const terminals = createTerminals(runtime, computers);
  signal.addEventListener('abort', () => terminals.close(), { once: true });
  const revocations = createRevocations(
    (ids) => findUsable(runtime.database, ids),
    (fields, message) => runtime.logger.debug(fields, message),
  );
  const [rate, enter] = [createRateLimit(limits), createStreamLimit(limits)];
  return { rate, revocations, enter, terminals, writes: followWrites() };
}

function v1Of(runtime: Runtime, options: AppOptions, { rate, revocations, enter, terminals }: Shared): Api {
  const {
    signal,
    computers,
    deployments,
    keepalive_ms = COMMAND_KEEPALIVE_MS,
    stall_ms = STALL_MS,
  } = options;
  const { auto_resume = false, ports_url = localPorts, public_url } = options;
  const port_url = (id: string): string => portUrl(ports_url(), id);
  const deployment_url = (id: string): string => deploymentUrl(ports_url(), id);
  return v1(createAdmit(runtime, rate, V1_BODY_BYTES_MAX), {
    ...{ runtime, computers, deployments, terminals, auto_resume, port_url, deployment_url, public_url },
    streams: { signal, revocations, keepalive_ms, stall_ms, enter },
  });
}

function apiOf(runtime: Runtime, options: AppOptions, { rate, revocations, enter, terminals }: Shared): Api {
  const { signal, computers, keepalive_ms = COMMAND_KEEPALIVE_MS, stall_ms = STALL_MS } = options;
  const { ports_url = localPorts, public_url, wake_patience_ms = WAKE_PATIENCE_MS } = options;
  return api({
    ...{ runtime, computers, terminals, sessions: createExecSessions(runtime, computers) },
    ...{ admit: createAdmit(runtime, rate, V1_BODY_BYTES_MAX), public_url, ports_url, wake_patience_ms },
    streams: { signal, revocations, keepalive_ms, stall_ms, enter },
  });
}

/** Of an app that stands behind no server. */
function localPorts(): string {
  return 'http://*.localhost';
}

function v3(runtime: Runtime, options: AppOptions, { rate, revocations, enter, writes }: Shared): Api {
  const api = createApi();
  const { signal, keepalive_ms = KEEPALIVE_MS, stall_ms = STALL_MS } = options;
  const admit = createAdmit(runtime, rate);
  const streams = { signal, revocations, keepalive_ms, stall_ms, enter };
  const bearer = { type: 'http', scheme: 'bearer' } as const;
  const schemes = api.openAPIRegistry;
  schemes.registerComponent('securitySchemes', 'org_key', {
    ...bearer,
    description: 'An API key of an org.',
  });
  schemes.registerComponent('securitySchemes', 'client_token', {
    ...bearer,
    description: 'A token of one session.',
  });
  schemes.registerComponent('securitySchemes', 'org_key_header', {
    type: 'apiKey',
    in: 'header',
    name: 'X-API-Key',
  });
  mountOrgs(api, runtime, admit);
  mountMasterKey(api, runtime, admit, writes.settled);
  mountApiKeys(api, runtime, admit, revocations);
  mountAgents(api, runtime, admit);
  mountCredentials(api, runtime, admit);
  mountSessions(api, runtime, admit);
  mountDestinations(api, runtime, admit);
  mountDeliveries(api, runtime, admit);
  mountEvents(api, runtime, admit, streams);
  mountMessages(api, runtime, admit);
  mountTurns(api, runtime, admit);
  mountClientTokens(api, runtime, admit, revocations);
  return api;
}
