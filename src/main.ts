/** The program that serves: `npm start`. Exit codes: 0 stopped as asked, 2 could not start for a reason it has said. */
import fs from 'node:fs';
import path from 'node:path';
import { ConfigError, describeSettings, readConfig, type Config } from './config.ts';
import { startServer, StartError, type Server } from './server.ts';

const { version } = JSON.parse(fs.readFileSync(new URL('../package.json', import.meta.url), 'utf8')) as {
  version: string;
};

await main();

async function main(): Promise<void> {
  if (process.argv.includes('--help') || process.argv.includes('-h')) {
    process.stdout.write(`Overwinter ${version}: a self-hosted runtime for durable agent sessions.\n\n`);
    process.stdout.write(`Usage: npm start\n\nSettings, from the environment:\n\n${describeSettings()}\n`);
    return;
  }
  try {
    const config = readConfig(process.env);
    const server = await startServer(config, version);
    greet(server, config);
    stopOnSignal(server);
  } catch (error) {
    if (!(error instanceof ConfigError) && !(error instanceof StartError)) throw error;
    process.stderr.write(`${error.message}\n`);
    process.exitCode = 2;
    // What was opened before the reason was found must not keep the process alive.
    process.exit();
  }
}

function greet(server: Server, config: Config): void {
  const { isolation, limits, disk, identity } = server.capabilities;
  const lines = [
    `Overwinter ${version} serves at ${server.url}`,
    `  API key     ${describeKey(server, config)}`,
    `  computers   isolation: ${isolation}, limits: ${limits}, disk: ${disk}, identity: ${identity}`,
    ...server.capabilities.notes.map((note) => `              ${note}`),
    ...(isolation === 'none' ? ["  WARNING     an agent's commands run without any isolation"] : []),
    `  model key   ${config.ANTHROPIC_API_KEY === undefined ? 'none: set ANTHROPIC_API_KEY, or give each agent a key' : 'from ANTHROPIC_API_KEY'}`,
    '',
    'Next: create an agent and a session as the README shows, with baseUrl',
    `  ${server.url}/v3`,
    'Ctrl-C stops; sessions go on at the next start.',
    '',
  ];
  process.stdout.write(lines.join('\n'));
}

/** Where the key is, never the key: standard output is often a log. */
function describeKey({ api_key_works }: Server, config: Config): string {
  const file = path.join(config.OVERWINTER_DATA_DIR, 'api-key');
  if (config.OVERWINTER_API_KEY !== undefined) {
    return api_key_works
      ? 'from OVERWINTER_API_KEY'
      : 'revoked or expired: OVERWINTER_API_KEY; to have another, set it to a new key';
  }
  if (api_key_works) return `in ${file}`;
  return `revoked or expired: the one in ${file}; to have another, remove the file or set OVERWINTER_API_KEY to a new key, and start again`;
}

/** The first signal drains; a second one does not wait. */
function stopOnSignal(server: Server): void {
  let stopping = false;
  const stop = (): void => {
    if (stopping) process.exit(1);
    stopping = true;
    server.stop().then(
      () => process.exit(0),
      (error: unknown) => {
        process.stderr.write(`stopping failed: ${String(error)}\n`);
        process.exit(1);
      },
    );
  };
  process.on('SIGINT', stop);
  process.on('SIGTERM', stop);
}
