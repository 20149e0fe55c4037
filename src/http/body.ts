/** Bounds a request body before anything parses it: in bytes, and in how deep its JSON nests. */
import type { Context, Next } from 'hono';
import { bodyLimit } from 'hono/body-limit';
import { OverwinterError } from '../resource/error.ts';

const BODY_BYTES_MAX = 2 * 1024 * 1024;
/** Beyond some thousands a recursive serializer overflows the stack. */
const DEPTH_MAX = 64;

const limitBytes = bodyLimit({
  maxSize: BODY_BYTES_MAX,
  onError: () => {
    throw new OverwinterError('too_large', `the body exceeds ${BODY_BYTES_MAX} bytes`);
  },
});

/** Goes on with a request whose body, if any, is within the bounds. */
export async function boundBody(context: Context, next: Next): Promise<void> {
  if (context.req.method === 'GET' || context.req.method === 'HEAD') return await next();
  await limitBytes(context, async () => {
    if (isTooDeep(await context.req.text())) {
      throw new OverwinterError('invalid', `the body nests deeper than ${DEPTH_MAX} levels`);
    }
    await next();
  });
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
