/** What all routes share: the environment of a request, schemas of common fields, and how a body that does not fit is refused. */
import type { HttpBindings } from '@hono/node-server';
import { OpenAPIHono, z } from '@hono/zod-openapi';
import { HOME } from '../engine/computers/exec.ts';
import { OverwinterError } from '../resource/error.ts';

export type Env = { Bindings: HttpBindings; Variables: { request_id: string; trace_id: string } };

export type Api = OpenAPIHono<Env>;

/** An app whose schema failures name the first wrong field. @param getPath what is routed by; default: the path as it is. */
export function createApi(getPath?: (request: Request) => string): Api {
  return new OpenAPIHono<Env>({
    ...(getPath && { getPath }),
    defaultHook: (result) => {
      if (result.success) return;
      const issue = result.error.issues[0];
      const param = issue?.path.join('.') ?? '';
      const where = param === '' ? 'the request' : `"${param}"`;
      throw new OverwinterError(
        'invalid',
        `${where}: ${issue?.message ?? 'invalid'}`,
        param === '' ? undefined : param,
      );
    },
  });
}

/** A string that PostgreSQL can hold: NUL and lone surrogates are replaced. */
export function text(characters_max: number) {
  return z
    .string()
    .max(characters_max)
    .overwrite((value) => value.toWellFormed().replaceAll('\0', '\uFFFD'));
}

/** A page size of the query: at least 1, and what exceeds the maximum is brought down to it. */
export function limit(fallback: number, max: number) {
  return z
    .string()
    .regex(/^[1-9]\d{0,8}$/, 'must be a whole number from 1 up')
    .optional()
    .transform((value) => Math.min(value === undefined ? fallback : Number(value), max))
    .openapi({ type: 'integer', minimum: 1, maximum: max, default: fallback });
}

/** Years that nothing here has are refused: the database cannot hold all that the format can. */
export const TimeQuery = z.iso
  .datetime({ offset: true })
  .refine((time) => /^(19[7-9]\d|[2-9]\d{3})-/.test(time), 'must lie between 1970 and 9999')
  .transform((time) => new Date(time))
  .openapi({ type: 'string', format: 'date-time' });

/** A path in a computer. */
export const FilePath = z
  .string()
  .min(1)
  .max(4096)
  .refine((path) => !path.includes('\0'), 'must hold no NUL')
  .transform((path) => (path.startsWith('/') ? path : `${HOME}/${path}`))
  .openapi({ type: 'string', description: 'Absolute, or from the home directory on.', example: 'notes.txt' });

/** An opaque cursor of the query that is in truth an id of this form. */
export function idCursor(prefix: string) {
  return z
    .string()
    .regex(new RegExp(`^${prefix}[0-9a-f]{24}$`), 'is not a cursor of this list')
    .optional();
}

/** The cursor of the next page, or null when this page was not full. */
export function nextCursor(rows: { id: string }[], limit: number): string | null {
  return rows.length < limit ? null : (rows.at(-1)?.id ?? null);
}

/** A page of a list; `next_cursor` is null on the last one. */
export function page<Entry extends z.ZodType>(entry: Entry) {
  return z.object({ data: z.array(entry), next_cursor: z.string().nullable() });
}

/** @param limit the page size that was asked for. */
export function renderPage<Entry extends { id: string }>(
  entries: Entry[],
  limit: number,
): { data: Entry[]; next_cursor: string | null } {
  return { data: entries, next_cursor: nextCursor(entries, limit) };
}

/** A JSON response in a route's description. */
export function json<Schema extends z.ZodType>(schema: Schema, description: string) {
  return { description, content: { 'application/json': { schema } } };
}

/** A JSON request body in a route's description. */
export function body<Schema extends z.ZodType>(schema: Schema) {
  return { body: { required: true, content: { 'application/json': { schema } } } };
}
