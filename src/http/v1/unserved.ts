/** What the clients know and no computer here has: refused with a sentence instead of as an unknown route. */
import { createRoute } from '@hono/zod-openapi';
import { getComputer } from '../../engine/computers/owner.ts';
import { OverwinterError } from '../../resource/error.ts';
import type { Api } from '../api.ts';
import type { Ground } from './app.ts';
import { details } from './error.ts';
import { ComputerPath } from './wire.ts';

const SENTENCES = {
  display: 'computers of this server have no display',
  browser: 'computers of this server have no browser to control',
};

export function mountUnserved(api: Api, { runtime, open }: Ground): void {
  for (const [noun, sentence] of Object.entries(SENTENCES)) {
    api.openapi(
      createRoute({
        ...{ method: 'post', path: `/computers/{computer_id}/${noun}`, ...open('write') },
        request: { params: ComputerPath },
        responses: details,
      }),
      async (context) => {
        const { computer_id } = context.req.valid('param');
        await getComputer(runtime, context.get('caller').org, computer_id);
        throw new OverwinterError('conflict', sentence);
      },
    );
  }
}
