/**
 * An agent's session state is saved with the identity of its computer, and taken up later by another process, as the OpenAI
 * SandboxAgent adapter does: `node examples/computers/saved-session.ts begin state.json`, then `… resume state.json`.
 */
import { readFile, writeFile } from 'node:fs/promises';
import { call, run, type Computer } from './client.ts';

type State = { type: 'overwinter'; computer_id: string; delete_on_close: boolean };

const [step, file = 'state.json'] = process.argv.slice(2);
if (step === 'begin') {
  const { id } = await call<Computer>('POST /v1/computers', {});
  await run(id, 'mkdir -p notes && echo "so far: read the code" > notes/agent.md');
  await call(`POST /v1/computers/${id}/stop`);
  const state: State = { type: 'overwinter', computer_id: id, delete_on_close: false };
  await writeFile(file, JSON.stringify(state));
} else {
  const { computer_id } = JSON.parse(await readFile(file, 'utf8')) as State;
  const { status } = await call<Computer>(`GET /v1/computers/${computer_id}`);
  if (status === 'stopped') await call(`POST /v1/computers/${computer_id}/start`);
  console.log(await run(computer_id, 'cat notes/agent.md'));
  await call(`DELETE /v1/computers/${computer_id}`);
}
