/** An agent: what a session runs. A session pins a snapshot of it, so later edits never reach the session. */
import { z } from 'zod';
import { Limits } from './limits.ts';
import { OverwinterError } from './error.ts';

export const AgentSnapshot = z.object({
  agent_id: z.string(),
  name: z.string(),
  prompt: z.string(),
  prompt_hash: z.string(),
  /** As the user wrote it, e.g. `anthropic/claude-sonnet-5`. */
  model: z.string(),
  runtime: z.string(),
  revision: z.int(),
  limits: Limits.nullable(),
});
export type AgentSnapshot = z.infer<typeof AgentSnapshot>;

/**
 * The provider's own name of a model written `provider/model`.
 * @throws OverwinterError `invalid` unless the provider is one that the `claude` runtime drives.
 */
export function providerModel(model: string): string {
  const [provider, ...rest] = model.split('/');
  const name = rest.join('/');
  if (provider !== 'anthropic' || name === '') {
    throw new OverwinterError('invalid', 'model must be "anthropic/<model>" for the claude runtime', 'model');
  }
  return name;
}
