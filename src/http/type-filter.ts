/** The `type` filter of contract §9.7: exact, `prefix.*` or `*.suffix`. Pages apply it in SQL, streams here. */
import { z } from '@hono/zod-openapi';

export const TypeFilter = z
  .string()
  .regex(/^(\*|[a-z0-9_]+)(\.(\*|[a-z0-9_]+))*$/, 'must be an event type, "prefix.*" or "*.suffix"')
  .max(100)
  .optional();

export function matchesType(filter: string | undefined, type: string): boolean {
  if (filter === undefined) return true;
  const [prefix, ...rest] = filter.split('*');
  if (rest.length === 0) return filter === type;
  return (
    type.startsWith(prefix ?? '') &&
    rest.every((part) => type.includes(part)) &&
    type.endsWith(rest.at(-1) ?? '')
  );
}
