/** One of everything that a path can name, all of one org's: whoever is not found out by it would be let in to something. */
import { noteCommands } from '../../../src/store/computer/commands.ts';
import { publishPort } from '../../../src/store/computer/ports.ts';
import { beginSnapshot, finishSnapshot } from '../../../src/store/computer/snapshots.ts';
import { archive, upload } from '../../conformance/deploy.ts';
import { dataOf, makeKey, type TestServer } from '../../helpers/http.ts';

/** By the parameter that names it; a destination by the collection that its path begins with. */
export type Names = Record<string, string>;

const APP = 'weather-bot';
const PORT = 8000;
/** Of what has ended. */
const COMMAND = `cmd_${'0'.repeat(24)}`;
const TERMINAL = `term_${'0'.repeat(24)}`;

/** Nothing runs here: their owner is told that what they name has ended, and not that there is no such sandbox. */
export const ABOUT_WHAT_RUNS = /\/(exec\/\{exec_id\}\/kill|pty\/\{pty_id\}(\/resize)?)$/;
export const HAS_ENDED = /^no such (command in this sandbox|terminal); it may/;

export async function makeNames(server: TestServer, session: { id: string; agent: string }): Promise<Names> {
  const { ask, org, runtime } = server;
  const at = `/v3/sessions/${session.id}`;
  // Nothing delivers here, and an address needs no name server.
  const hook = { url: 'https://9.9.9.9/' };
  const idOf = async (what: string, body: object): Promise<string> => (await ask(what, { body })).json['id']!;
  const destination = await idOf(`POST ${at}/destinations`, hook);
  await ask(`POST ${at}/destinations/${destination}/replay`, { body: { from_seq: 1 } });
  await makeDeployment(server);
  const sandbox = await makeComputer(server, 'sandbox_id', 'checkpoint_id');
  await makeCommand(server, sandbox['sandbox_id']!);
  return {
    session_id: session.id,
    agent_id: session.agent,
    api_key_id: (await makeKey(runtime, org.id)).key_id,
    credential_id: await idOf('POST /v3/credentials', { key: 'sk-some-key' }),
    event_id: (await ask(`GET ${at}/messages`)).json['data']![0]!['id']!,
    turn_id: (await ask(`GET ${at}/turns`)).json['data']![0]!['id']!,
    token_id: await idOf(`POST ${at}/client-tokens`, {}),
    delivery_id: dataOf((await ask(`GET ${at}/deliveries`)).json)[0]!['id']!,
    '/v3/destinations': await idOf('POST /v3/destinations', hook),
    '/v3/agents': await idOf(`POST /v3/agents/${session.agent}/destinations`, hook),
    '/v3/sessions': destination,
    app_name: APP,
    ...(await makeComputer(server, 'computer_id', 'snapshot_id')),
    ...sandbox,
    ...{ port: String(PORT), exec_id: COMMAND, pty_id: TERMINAL },
  };
}

/** Nothing starts here: it fails, and is there all the same. */
async function makeDeployment({ url, org, ask }: TestServer): Promise<void> {
  const fields = { name: APP, description: '', project_id: '', config: '{}' };
  const bundle = await archive({ 'main.py': 'print("here")\n' });
  const { status, json } = await upload({ url, api_key: org.key }, fields, bundle);
  if (status !== 201) throw new Error(`uploading answered ${status}: ${JSON.stringify(json)}`);
  await ask(`POST /v1/deploy/apps/${APP}/stop`);
}

/** It is in error; what was kept of it while it ran is there. */
async function makeComputer(
  { ask, org, runtime }: TestServer,
  computer_param: string,
  snapshot_param: string,
): Promise<Names> {
  const { db } = runtime.database;
  const computer_id = (await ask('POST /v1/computers', { body: {} })).json['id']!;
  const { spec } = await runtime.computer_log.state(computer_id);
  const [id, port_id] = [runtime.newId('snapshot'), runtime.newId('published_port')];
  const blob = `snapshots/${id}.tar.zst`;
  await beginSnapshot(db, { id, org: org.id, computer_id, name: 'kept', blob, spec: spec! });
  await finishSnapshot(db, id, 1);
  await publishPort(db, { id: port_id, org: org.id, computer_id, port: PORT });
  return { [computer_param]: computer_id, [snapshot_param]: id };
}

async function makeCommand({ org, runtime }: TestServer, computer_id: string): Promise<void> {
  await noteCommands(runtime.database, [
    {
      ...{ id: COMMAND, org: org.id, computer_id, source: 'api', status: 'completed', node: runtime.node },
      ...{ timeout_ms: 1000, started_at: new Date(0), ended_at: new Date(1), exit_code: 0 },
      ...{ stdout_bytes: 0, stderr_bytes: 0, error_type: null },
    },
  ]);
}
