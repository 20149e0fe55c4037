/**
 * A job that always works in the same workspace, by the computer's id or name:
 * `node examples/computers/known-computer.ts curie`. Without an argument it makes the computer, and leaves it there for the next run.
 */
import { call, run, type Computer } from './client.ts';

const known = process.argv[2] ?? (await call<Computer>('POST /v1/computers', {})).name;
const computer = await call<Computer>(`GET /v1/computers/${known}`);
if (computer.status === 'stopped') await call(`POST /v1/computers/${known}/start`);
console.log(await run(known, 'echo "$(date -u +%F) ran" >> journal.txt; cat journal.txt'));
console.log(`computer: ${computer.name}`);
await call(`POST /v1/computers/${known}/stop`);
