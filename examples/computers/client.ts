/** The few lines that the examples call the Computers API with. Any of Celesto's clients will do instead. */

const url = process.env['OVERWINTER_URL'] ?? 'http://127.0.0.1:4680';
const key = process.env['OVERWINTER_API_KEY'] ?? '';

export type Computer = { id: string; name: string; status: string };
export type Result = { exit_code: number; stdout: string; stderr: string };

/** `call('POST /v1/computers', {vcpus: 1})`. @throws Error with what the server said. */
export async function call<Answer>(what: string, body?: object): Promise<Answer> {
  const [method = '', path = ''] = what.split(' ');
  const response = await fetch(url + path, {
    method,
    headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
    ...(body && { body: JSON.stringify(body) }),
  });
  const answer = (await response.json()) as Answer & { detail?: string };
  if (!response.ok) throw new Error(`${what}: ${answer.detail}`);
  return answer;
}

/** What the command printed. @throws Error when it failed. */
export async function run(computer: string, command: string): Promise<string> {
  const result = await call<Result>(`POST /v1/computers/${computer}/exec`, { command });
  if (result.exit_code !== 0) throw new Error(result.stderr);
  return result.stdout;
}
