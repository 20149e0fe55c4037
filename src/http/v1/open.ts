/** The way into `/v1`: a key of an org, as on `/v3`. An org that a client names beside its key must be the key's own. */
import type { MiddlewareHandler } from 'hono';
import { OverwinterError } from '../../resource/error.ts';
import { isId } from '../../resource/id.ts';
import type { Admission, Admit, CallerEnv } from '../auth.ts';
import type { Power } from '../authorize.ts';

export type Open = (power: Power) => Admission<CallerEnv>;

/** @param kind `upload` for a route that takes its body as it comes. */
export function open(admit: Admit, kind: 'org' | 'upload' = 'org'): Open {
  return (power) => {
    const admission = admit[kind](power);
    const middleware: MiddlewareHandler<CallerEnv> = (context, next) =>
      admission.middleware(context, async () => {
        expectOwn(context.req.header('x-current-organization'), context.get('caller').org);
        await next();
      });
    return { ...admission, middleware };
  };
}

/** Names of organizations that are not ours come from clients that were set up for another server: the key says enough. */
function expectOwn(named: string | undefined, org: string): void {
  if (named === undefined || named === org || !isId('org', named)) return;
  throw new OverwinterError('forbidden', 'the key belongs to another organization than the one named');
}
