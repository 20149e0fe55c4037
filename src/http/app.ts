/** The HTTP surface as one app: what runs around every request, the mounts, and the document that describes them. */
import type { Runtime } from '../engine/runtime.ts';
import { createApi, type Api } from './api.ts';
import { createAdmit } from './auth.ts';
import { cors } from './cors.ts';
import { renderError, renderNotFound } from './error.ts';
import { mountHealth } from './health.ts';
import { requestId } from './request-id.ts';
import { mountAgents } from './v3/agents.ts';
import { mountClientTokens } from './v3/client-tokens.ts';
import { mountCredentials } from './v3/credentials.ts';
import { mountEvents } from './v3/events.ts';
import { mountMessages } from './v3/messages.ts';
import { mountSessions } from './v3/sessions.ts';
import { mountTurns } from './v3/turns.ts';

export type AppOptions = {
  /** Aborted when the server stops: open streams then end. */
  signal: AbortSignal;
  version: string;
  /** What `/healthz` tells of the sandbox. */
  capabilities: unknown;
  keepalive_ms?: number;
  stall_ms?: number;
};

const KEEPALIVE_MS = 15_000;
const STALL_MS = 60_000;

/** Serve it with @hono/node-server, whose bindings event streams write to. */
export function createApp(runtime: Runtime, options: AppOptions): Api {
  const app = createApi();
  app.use(requestId((kind) => runtime.newId(kind)));
  app.use(cors());
  app.onError(renderError((fields, message) => runtime.logger.error(fields, message)));
  app.notFound(renderNotFound());
  mountHealth(app, runtime, options);
  app.route('/v3', v3(runtime, options));
  let document: object | undefined;
  app.get('/openapi.json', (context) => context.json((document ??= describe(app, options.version))));
  return app;
}

/** The OpenAPI 3.1 document of an app, from the schemas that its routes check. */
export function describe(app: Api, version: string): object {
  return app.getOpenAPI31Document({
    openapi: '3.1.0',
    info: { title: 'Overwinter', version, description: 'Durable agent sessions.' },
  });
}

function v3(runtime: Runtime, options: AppOptions): Api {
  const api = createApi();
  const admit = createAdmit(runtime);
  const { signal, keepalive_ms = KEEPALIVE_MS, stall_ms = STALL_MS } = options;
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
  mountAgents(api, runtime, admit);
  mountCredentials(api, runtime, admit);
  mountSessions(api, runtime, admit);
  mountEvents(api, runtime, admit, { signal, keepalive_ms, stall_ms });
  mountMessages(api, runtime, admit);
  mountTurns(api, runtime, admit);
  mountClientTokens(api, runtime, admit);
  return api;
}
