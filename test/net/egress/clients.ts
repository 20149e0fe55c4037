/**
 * A program for a network namespace: real clients, each with nothing but the variables of a proxy to know the way, and what they fetch.
 * Invariant: between a client and its proxy stands a relay on loopback that copies bytes, as in a computer. Argument: a scratch directory.
 */
import { execFile, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import fs from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import net, { type AddressInfo } from 'node:net';
import path from 'node:path';
import { promisify } from 'node:util';
import { selfSigned } from '../certificate.ts';
import { backend } from './git.ts';
import { serve } from './world.ts';
import { serveNames } from '../zone.ts';

/** `seen`: what the servers were asked for meanwhile. `missing`: the client is not installed. */
export type Fetched = { missing: string } | { code: number; said: string; seen: string[] };

const scratch = process.argv[2]!;
const seen: string[] = [];
const certificate = selfSigned('public.test', '93-184-216-34.ip.test');
const authority = path.join(scratch, 'authority.pem');
fs.writeFileSync(authority, certificate.cert);
const tarball = makePackage();
const wheel = makeWheel();
const repository = makeRepository();
await serveNames();
for (const server of [http.createServer(answer), https.createServer(certificate, answer)]) {
  server.listen(server instanceof https.Server ? 443 : 80, '::');
  await once(server, 'listening');
}

const open = await environment(await serve());
const listed = await environment(await serve({ mode: 'allow', hosts: ['public.test'] }));
const curl = ['-sS', '--max-time', '20'];
const npm = [
  'install',
  '--no-audit',
  '--no-fund',
  '--prefix',
  path.join(scratch, 'npm'),
  '--cache',
  path.join(scratch, 'cache'),
];
const pip = [
  'install',
  '--no-cache-dir',
  '--disable-pip-version-check',
  '--no-deps',
  '--target',
  path.join(scratch, 'pip'),
];
const report: Record<string, Fetched> = {
  'curl http': await run('curl', [...curl, 'http://public.test/file'], open),
  'curl https': await run('curl', [...curl, 'https://public.test/file'], open),
  'curl upload': await run('curl', [...curl, '-T', authority, 'http://public.test/put'], open),
  'curl inside': await run('curl', [...curl, '-f', 'http://10-0-0-1.ip.test/'], open),
  'curl inside, https': await run('curl', [...curl, 'https://169.254.169.254/'], open),
  'curl listed': await run('curl', [...curl, 'https://public.test/file'], listed),
  'curl not listed': await run('curl', [...curl, 'https://93-184-216-34.ip.test/file'], listed),
  'git clone': await run(
    'git',
    ['clone', '-q', 'http://public.test/git/one', path.join(scratch, 'one')],
    open,
  ),
  'git clone, https': await run(
    'git',
    ['clone', '-q', 'https://public.test/git/one', path.join(scratch, 'two')],
    open,
  ),
  npm: await run('npm', [...npm, '--registry', 'http://public.test/npm/', 'left-behind'], open),
  pip: await run('pip', [...pip, '--index-url', 'https://public.test/pip/', 'leftbehind'], open),
};
const files = ['one/README', 'two/README', 'npm/node_modules/left-behind/index.js', 'pip/leftbehind.py'];
const got = files.map((name) =>
  fs.existsSync(path.join(scratch, name)) ? fs.readFileSync(path.join(scratch, name), 'utf8') : '',
);
fs.writeSync(1, JSON.stringify({ report, got }));
process.exit(0);

async function environment(proxy: { path: string }): Promise<NodeJS.ProcessEnv> {
  const relay = net.createServer({ allowHalfOpen: true }, (client) => {
    const socket = net.connect({ path: proxy.path, allowHalfOpen: true });
    for (const each of [client, socket]) each.on('error', () => each.destroy());
    client.pipe(socket).pipe(client);
  });
  relay.listen(0, '127.0.0.1');
  await once(relay, 'listening');
  const url = `http://127.0.0.1:${(relay.address() as AddressInfo).port}`;
  const authorities = { CURL_CA_BUNDLE: authority, GIT_SSL_CAINFO: authority, PIP_CERT: authority };
  const settings = {
    GIT_CONFIG_GLOBAL: '/dev/null',
    GIT_TERMINAL_PROMPT: '0',
    HOME: scratch,
    PIP_CONFIG_FILE: '/dev/null',
  };
  return {
    ...{
      PATH: process.env['PATH'],
      NODE_EXTRA_CA_CERTS: authority,
      LANG: 'C.UTF-8',
      ...authorities,
      ...settings,
    },
    ...{
      http_proxy: url,
      https_proxy: url,
      HTTP_PROXY: url,
      HTTPS_PROXY: url,
      NO_PROXY: 'localhost,127.0.0.1,::1',
    },
  };
}

async function run(program: string, args: string[], env: NodeJS.ProcessEnv): Promise<Fetched> {
  const look = spawnSync(program, ['--version'], { env, stdio: 'ignore' });
  if (look.status !== 0) return { missing: program };
  seen.length = 0;
  const done = await promisify(execFile)(program, args, { env, cwd: scratch, timeout: 40_000 }).then(
    ({ stdout, stderr }) => ({ code: 0, said: stdout + stderr }),
    (error: { code?: number; stdout?: string; stderr?: string }) => ({
      code: error.code ?? -1,
      said: `${error.stdout}${error.stderr}`,
    }),
  );
  return { ...done, seen: seen.splice(0) };
}

function answer(request: http.IncomingMessage, response: http.ServerResponse): void {
  const url = request.url ?? '';
  seen.push(`${request.method} ${url.split('?')[0]}`);
  if (url.startsWith('/git/')) return backend(request, response, path.dirname(repository));
  request.resume();
  if (url.startsWith('/pip/')) response.setHeader('content-type', 'text/html');
  request.on('end', () => response.end(bodyOf(url)));
}

function bodyOf(url: string): string | Buffer {
  if (url.endsWith('.tgz')) return tarball;
  if (url.endsWith('.whl')) return wheel;
  if (url.startsWith('/pip/'))
    return `<a href="/files/leftbehind-1.0-py3-none-any.whl">leftbehind-1.0-py3-none-any.whl</a>`;
  if (!url.startsWith('/npm/')) return 'a file';
  const integrity = `sha512-${createHash('sha512').update(tarball).digest('base64')}`;
  const dist = { tarball: 'http://public.test/npm/left-behind/-/left-behind-1.0.0.tgz', integrity };
  const versions = { '1.0.0': { name: 'left-behind', version: '1.0.0', dist } };
  return JSON.stringify({ name: 'left-behind', 'dist-tags': { latest: '1.0.0' }, versions });
}

function makePackage(): Buffer {
  const folder = path.join(scratch, 'package');
  fs.mkdirSync(folder);
  fs.writeFileSync(path.join(folder, 'package.json'), '{"name":"left-behind","version":"1.0.0"}');
  fs.writeFileSync(path.join(folder, 'index.js'), 'by npm');
  return spawnSync('tar', ['-cz', '-C', scratch, 'package']).stdout;
}

/** A wheel is a zip archive, which Python itself can write. */
function makeWheel(): Buffer {
  const program = `
import io, sys, zipfile
out = io.BytesIO()
with zipfile.ZipFile(out, 'w') as z:
    z.writestr('leftbehind.py', 'by pip')
    z.writestr('leftbehind-1.0.dist-info/METADATA', 'Metadata-Version: 2.1\\nName: leftbehind\\nVersion: 1.0\\n')
    z.writestr('leftbehind-1.0.dist-info/WHEEL', 'Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')
    z.writestr('leftbehind-1.0.dist-info/RECORD', '')
sys.stdout.buffer.write(out.getvalue())`;
  return spawnSync('python3', ['-c', program]).stdout;
}

function makeRepository(): string {
  const bare = path.join(scratch, 'git', 'one');
  const env = { ...process.env, GIT_CONFIG_GLOBAL: '/dev/null', GIT_CONFIG_NOSYSTEM: '1' };
  const script = `
    git init -q -b main "$1" && cd "$1" && echo by git >README && git add README &&
    git -c user.name=t -c user.email=t@test commit -q -m one && git clone -q --bare "$1" "$2"`;
  spawnSync('sh', ['-c', script, 'sh', path.join(scratch, 'work'), bare], { env });
  return bare;
}
