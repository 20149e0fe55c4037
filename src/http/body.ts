/** Bounds a request body before anything parses it: in bytes, and in how deep its JSON nests. */
import type { Context, Next } from 'hono';
import { bodyLimit } from 'hono/body-limit';
import { OverwinterError } from '../resource/error.ts';

export const BODY_BYTES_MAX = 2 * 1024 * 1024;
/** Beyond some thousands a recursive serializer overflows the stack. */
const DEPTH_MAX = 64;

/** Goes on with a request whose body, if any, is within the bounds. */
export type BoundBody = (context: Context, next: Next) => Promise<void>;

export function boundBody(bytes_max: number): BoundBody {
  const limitBytes = bodyLimit({
    maxSize: bytes_max,
    onError: () => {
      throw new OverwinterError('too_large', `the body exceeds ${bytes_max} bytes`);
    },
  });
  return async (context, next) => {
    if (context.req.method === 'GET' || context.req.method === 'HEAD') return await next();
    await limitBytes(context, async () => {
      if (isTooDeep(await context.req.text())) {
        throw new OverwinterError('invalid', `the body nests deeper than ${DEPTH_MAX} levels`);
      }
      await next();
    });
  };
}

function isTooDeep(json: string): boolean {
  let depth = 0;
  let in_string = false;
  for (let index = 0; index < json.length; index += 1) {
    const character = json[index];
    if (in_string && character === '\\') index += 1;
    else if (character === '"') in_string = !in_string;
    else if (!in_string && (character === '{' || character === '[')) depth += 1;
    else if (!in_string && (character === '}' || character === ']')) depth -= 1;
    if (depth > DEPTH_MAX) return true;
  }
  return false;
}
