/** Files and what was installed are there again after a pause: `node examples/computers/create-stop-start.ts`. */
import { call, run, type Computer } from './client.ts';

const { id } = await call<Computer>('POST /v1/computers', {});
await run(id, 'echo "half of the work" > progress.txt');
await call(`POST /v1/computers/${id}/stop`);
// Hours or weeks later: no process ran and no memory was held in the meantime.
await call(`POST /v1/computers/${id}/start`);
console.log(await run(id, 'cat progress.txt'));
await call(`DELETE /v1/computers/${id}`);
