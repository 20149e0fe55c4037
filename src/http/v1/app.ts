/**
 * The Computers API as Celesto's clients of all generations speak it. Invariant: a success is 200 or 201 with JSON, also where there
 * is nothing to say; a refusal is `{"detail": …}`.
 */
import { OpenAPIHono } from '@hono/zod-openapi';
import { getPath } from 'hono/utils/url';
import type { Computers } from '../../engine/computers/computers.ts';
import type { Terminals } from '../../engine/computers/terminals.ts';
import type { Deployments } from '../../engine/deployments/deployments.ts';
import type { Runtime } from '../../engine/runtime.ts';
import type { Api, Env } from '../api.ts';
import type { Admit } from '../auth.ts';
import { noRoute } from '../error.ts';
import type { StreamLimit } from '../rate-limit.ts';
import type { StreamOptions } from '../sse.ts';
import { mountComputers } from './computers.ts';
import { mountDeploymentLogs } from './deploy/logs.ts';
import { mountDeployments } from './deploy/deployments.ts';
import { refuseUnfit, renderDetail } from './error.ts';
import { mountExec } from './exec.ts';
import { mountFiles } from './files.ts';
import { mountHistory } from './history.ts';
import { open, type Open } from './open.ts';
import { mountProjects } from './deploy/projects.ts';
import { mountPublishedPorts } from './published-ports.ts';
import { mountTerminals } from './terminals.ts';
import { mountSnapshots } from './snapshots.ts';
import { mountUnserved } from './unserved.ts';

/** What the routes stand on. */
export type Ground = {
  runtime: Runtime;
  computers: Computers;
  /** Shells of this node, whichever door opened them. */
  terminals: Terminals;
  open: Open;
  /** The same for routes that take their body from the socket. */
  upload: Open;
  /** Whether a command starts a stopped computer without being told to. */
  auto_resume: boolean;
  /** What clients reach this server by; undefined = by the name that they asked for. */
  public_url: string | undefined;
  deployments: Deployments;
  /** Where visitors reach the release of a deployment that serves. */
  deployment_url: (deployment_id: string) => string;
  /** Where visitors reach a published port. */
  port_url: (published_port_id: string) => string;
  streams: StreamOptions & { enter: StreamLimit };
};

/** @param admit bounds bodies by `V1_BODY_BYTES_MAX` (wire.ts). */
export function v1(admit: Admit, parts: Omit<Ground, 'open' | 'upload'>): Api {
  const api = new OpenAPIHono<Env>({ defaultHook: refuseUnfit });
  const { runtime } = parts;
  api.onError(renderDetail((fields, message) => runtime.logger.error(fields, message)));
  const ground = { ...parts, open: open(admit), upload: open(admit, 'upload') };
  mountComputers(api, ground);
  mountExec(api, ground);
  mountFiles(api, ground);
  mountSnapshots(api, ground);
  mountHistory(api, ground);
  mountPublishedPorts(api, ground);
  mountTerminals(api, ground, admit);
  mountUnserved(api, ground);
  mountProjects(api, ground);
  mountDeployments(api, ground);
  mountDeploymentLogs(api, ground);
  api.all('*', () => {
    throw noRoute();
  });
  return api;
}

/**
 * The path that a request is routed by. Clients put base URL and path together as they stand and follow no redirect, so below `/v1` a
 * doubled or trailing slash is none.
 */
export function routedPath(request: Request): string {
  const path = getPath(request);
  if (!/^\/+v1(\/|$)/.test(path)) return path;
  return path.replaceAll(/\/{2,}/g, '/').replace(/(?<=.)\/$/, '');
}
