/**
 * OpenComputer's sandbox API over the computers of this installation (contract §17). Invariant: nothing here begins or ends a computer
 * but through the doors that `/v1` has too; a refusal is `{"error": …, "code": …}`.
 */
import type { Computers } from '../../engine/computers/computers.ts';
import type { ExecSessions } from '../../engine/computers/exec/sessions.ts';
import type { Terminals } from '../../engine/computers/terminals.ts';
import type { Runtime } from '../../engine/runtime.ts';
import { createApi, type Api } from '../api.ts';
import type { Admit } from '../auth.ts';
import type { StreamLimit } from '../rate-limit.ts';
import type { StreamOptions } from '../sse.ts';
import { mountCheckpoints } from './checkpoints.ts';
import { renderRefusal } from './error.ts';
import { mountExec } from './exec.ts';
import { mountExecSessions } from './exec-sessions.ts';
import { mountFiles } from './files.ts';
import { mountLife } from './life.ts';
import { mountPreview } from './preview.ts';
import { mountPty } from './pty.ts';
import { mountSandboxes } from './sandboxes.ts';
import { mountSigned } from './signed.ts';
import { mountUnserved } from './unserved.ts';

/** What the routes stand on. */
export type Ground = {
  runtime: Runtime;
  computers: Computers;
  sessions: ExecSessions;
  terminals: Terminals;
  admit: Admit;
  /** What clients reach this server by; undefined = by the name that they asked for. */
  public_url: string | undefined;
  /** The URL of published ports, with a star where the name of each goes. */
  ports_url: () => string;
  /** So long a request for a file waits for a computer that wakes, where its client can ask again. */
  wake_patience_ms: number;
  streams: StreamOptions & { enter: StreamLimit };
};

/** @param ground `admit` bounds bodies by `V1_BODY_BYTES_MAX`. */
export function api(ground: Ground): Api {
  const routes = createApi();
  routes.onError(renderRefusal((fields, message) => ground.runtime.logger.error(fields, message)));
  mountSandboxes(routes, ground);
  mountLife(routes, ground);
  mountExec(routes, ground);
  mountExecSessions(routes, ground);
  mountFiles(routes, ground);
  mountSigned(routes, ground);
  mountPty(routes, ground);
  mountCheckpoints(routes, ground);
  mountPreview(routes, ground);
  mountUnserved(routes, ground);
  return routes;
}
