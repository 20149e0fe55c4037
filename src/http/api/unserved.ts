/** What OpenComputer's clients know and no computer here has: refused with a sentence instead of as an unknown route. */
import { OverwinterError } from '../../resource/error.ts';
import type { Api } from '../api.ts';
import { noRoute } from '../error.ts';
import type { Ground } from './app.ts';
import { findSandbox } from './find.ts';

/** Below `/sandboxes/{sandbox_id}/`. */
const OF_A_SANDBOX: Record<string, string> = {
  scale: 'a computer keeps its size for life: give cpuCount and memoryMB at create',
  autoscale: 'a computer keeps its size for life: nothing scales it',
  'scaling-lock': 'a computer keeps its size for life: there is nothing to lock',
  limits: 'a computer keeps its size for life: give cpuCount, memoryMB and diskMB at create',
  'allowed-hosts': 'there are no secret stores, and so no hosts that one would allow',
  mounts: 'nothing can be mounted in a computer here',
  agent: 'there is no agent in a computer: make a session of /v3, which has a computer of its own',
  migrate: 'a computer moves between machines by itself, when one is lost',
  logs: 'programs keep their own logs: read the files that they write',
  tags: 'tags are not served: give metadata at create',
  usage: 'nothing is billed here; GET /v1/computers/{id}/observability tells what it uses',
};

/** Below `/`. */
const OF_AN_ORG: Record<string, string> = {
  snapshots: 'prebuilt snapshots are not served: make a checkpoint and a sandbox from it',
  'secret-stores': 'secret stores are not served: give variables with envs at create, which are kept sealed',
  webhooks: 'webhooks of sandboxes are not served',
  templates: 'templates are not built here: an installed image is named as templateID at create',
  usage: 'nothing is billed here',
  tags: 'tags are not served: give metadata at create',
  capacity: 'there is no capacity to reserve: the machine is yours',
  v1: 'browsers are not served',
};
const PATCHES = 'checkpoints are not changed: make a sandbox from one, change it, and make another';
const PUBLISHING = 'checkpoints are for their own org';

/** The last of all routes. */
export function mountUnserved(api: Api, ground: Ground): void {
  const { middleware } = ground.admit.org('read');
  api.all('*', middleware, async (context) => {
    const [first = '', id = '', noun = '', , verb] = stepsOf(context.req.path);
    if (first !== 'sandboxes') throw refusal(OF_AN_ORG, first);
    if (id === 'checkpoints') throw new OverwinterError('not_supported', PATCHES);
    if (noun === 'checkpoints' && (verb === 'publish' || verb === 'unpublish'))
      throw new OverwinterError('not_supported', PUBLISHING);
    if (Object.hasOwn(OF_A_SANDBOX, noun)) await findSandbox(ground, context.get('caller').org, id);
    throw refusal(OF_A_SANDBOX, noun);
  });
}

function refusal(sentences: Record<string, string>, noun: string): OverwinterError {
  const sentence = Object.hasOwn(sentences, noun) ? sentences[noun] : undefined;
  return sentence === undefined ? noRoute() : new OverwinterError('not_supported', sentence);
}

/** Below the mount. */
function stepsOf(path: string): string[] {
  return path.split('/').slice(2).map(decode);
}

function decode(step: string): string {
  try {
    return decodeURIComponent(step);
  } catch {
    return step;
  }
}
