/** One task, a fresh computer, nothing left: `node examples/computers/create-run-delete.ts`. */
import { call, run, type Computer } from './client.ts';

const computer = await call<Computer>('POST /v1/computers', { vcpus: 1, ram_mb: 512 });
try {
  console.log(await run(computer.id, 'echo "2^10 is $((2 ** 10))"'));
} finally {
  await call(`DELETE /v1/computers/${computer.id}`);
}
