/** Terminals of a computer (contract §6): a shell is made or found, and a short-lived token to connect to it with is given out. */
import type { HttpBindings } from '@hono/node-server';
import { createRoute, z } from '@hono/zod-openapi';
import type { MiddlewareHandler } from 'hono';
import { getComputer } from '../../engine/computers/owner.ts';
import { json, type Api } from '../api.ts';
import type { Admit, CallerEnv } from '../auth.ts';
import { Time } from '../wire.ts';
import type { Ground } from './app.ts';
import { details } from './error.ts';
import { findShell, openShell, type ShellGround } from '../socket/shell.ts';
import { mountTerminalSockets } from './terminal-socket.ts';
import { ComputerPath } from './wire.ts';

const TerminalSession = z
  .object({
    terminal_id: z.string(),
    gateway_url: z.string().openapi({ description: 'A WebSocket; connect with the token as `?token=`.' }),
    token: z.string(),
    expires_at: Time,
  })
  .openapi('TerminalSession');

const OpenTerminal = z
  .object({
    terminal_id: z
      .string()
      .min(6)
      .max(160)
      .regex(/^term_[A-Za-z0-9_-]+$/, 'must look like term_…')
      .nullish()
      .openapi({ description: 'Attaches to this shell again; without it a new one is made.' }),
  })
  .nullish()
  .openapi('OpenTerminal', { example: {} });

/** The REST route and both WebSockets, over the shells of this node. */
export function mountTerminals(api: Api, ground: Ground, admit: Admit): void {
  const { runtime, computers, terminals, auto_resume, streams } = ground;
  const shells = { computers, terminals, auto_resume };
  mountOpen(api, ground, shells);
  mountTerminalSockets(api, runtime, admit, { ...shells, ...streams });
}

function mountOpen(api: Api, { runtime, open, public_url }: Ground, shells: ShellGround): void {
  const { middleware, ...admission } = open('write');
  api.openapi(
    createRoute({
      method: 'post',
      path: '/computers/{computer_id}/terminals',
      ...admission,
      middleware: [middleware, absentBody] as const,
      request: {
        params: ComputerPath,
        query: z.object({ resume: z.enum(['true', 'false']).optional() }),
        body: { required: false, content: { 'application/json': { schema: OpenTerminal } } },
      },
      responses: { 201: json(TerminalSession, 'A shell, and what to connect to it with.'), ...details },
    }),
    async (context) => {
      const caller = context.get('caller');
      const computer = await getComputer(runtime, caller.org, context.req.valid('param').computer_id);
      const { terminal_id } = context.req.valid('json') ?? {};
      const resume = context.req.valid('query').resume === 'true';
      const shell = terminal_id
        ? findShell(shells, computer, terminal_id)
        : await openShell(shells, caller.org, computer, resume);
      const { token, expires_at } = shell.tokens.issue(caller);
      const gateway_url = `${originOf(context.env, public_url)}/v1/terminals/${shell.id}/connect`;
      const session = { terminal_id: shell.id, gateway_url, token, expires_at: expires_at.toISOString() };
      return context.json(session, 201);
    },
  );
}

/** Clients announce JSON also where they send nothing. */
const absentBody: MiddlewareHandler<CallerEnv> = async (context, next) => {
  if ((await context.req.text()) === '') context.req.raw.headers.delete('content-type');
  await next();
};

/** By the name that the client knows this server by, where the operator names no other. */
function originOf({ incoming }: HttpBindings, public_url: string | undefined): string {
  if (public_url === undefined) return `ws://${incoming.headers.host ?? ''}`;
  return public_url.replace(/^http/, 'ws').replace(/\/+$/, '');
}
