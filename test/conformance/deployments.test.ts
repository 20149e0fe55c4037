/**
 * The Deployment API as Celesto's Python client uses it (contract §8), call by call, and what is ours beyond it; apps are built and run in
 * real sandboxes, from files that need nothing of the network.
 */
import { randomBytes } from 'node:crypto';
import net from 'node:net';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  archive,
  ask,
  deploy,
  FORM_TYPE,
  formOf,
  kept,
  settled,
  upload,
  visit,
  type App,
  type Files,
} from './deploy.ts';
import { reply, text } from '../helpers/model/messages-api.ts';
import type { TestNode } from '../helpers/node.ts';
import { recordedFetch } from '../helpers/records.ts';
import { eventually, makeWorld, type World } from '../helpers/world.ts';

let world: World;
let node: TestNode;
beforeAll(async () => {
  world = await makeWorld(() => reply(text('.')), { OVERWINTER_SANDBOX: 'bwrap' });
  node = await world.start();
}, 60_000);
afterAll(() => world.end());

const SERVER = `
import http.server, json, os, sys
VERSION = 'one'
class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self, body, kind='text/plain', status=200):
        self.send_response(status)
        self.send_header('content-type', kind)
        self.end_headers()
        self.wfile.write(body.encode())
    def do_GET(self):
        if self.path == '/crash':
            os._exit(3)
        if self.path == '/env':
            return self.answer(os.environ.get('PLANTED', 'none'))
        self.answer(VERSION)
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers['content-length'])))
        self.answer(json.dumps('heard ' + str(asked['input'])), 'application/json')
    def log_message(self, *_):
        pass
if __name__ == '__main__':
    print('it listens', flush=True)
    http.server.ThreadingHTTPServer(('', int(os.environ['PORT'])), Handler).serve_forever()
`;
const version = (name: string): Files => ({ 'app.py': SERVER.replace("'one'", `'${name}'`) });

describe('the calls of the client', () => {
  it('resolve a project, upload, list, and read the status', { timeout: 60_000 }, async () => {
    const first = await ask(node, 'GET /v1/projects/?skip=0&limit=1');
    expect(first).toMatchObject({ status: 200, json: { total: 1, limit: 1, offset: 0 } });
    const [project] = (first.json as { data: { id: string; name: string }[] }).data;
    expect(project).toMatchObject({ name: 'default', is_default: true, slug: 'default' });
    await ask(node, 'POST /v1/projects', { name: 'My Project' });
    const all = await ask(node, 'GET /v1/projects?skip=0&limit=100');
    expect((all.json as { data: { name: string }[] }).data.map(({ name }) => name)).toEqual([
      'default',
      'My Project',
    ]);
    expect((await ask(node, 'POST /v1/projects', { name: 'My Project' })).status).toBe(409);
    const planted = randomBytes(24).toString('hex');
    const config = JSON.stringify({ env: { PLANTED: planted } });
    const fields = { name: 'weather bot', description: '', project_id: project!.id, config };
    const { status, json } = await upload(node, fields, await archive(version('one')));
    expect([status, json]).toMatchObject([201, { name: 'weather bot', status: 'ENQUEUED', description: '' }]);
    const app = await settled(node, 'weather bot');
    expect(app).toMatchObject({ status: 'READY', last_error: null, config: { env_names: ['PLANTED'] } });
    expect((await ask(node, 'GET /v1/deploy/apps')).json).toMatchObject([{ id: app.id, status: 'READY' }]);
    expect(await visit(app)).toBe('200 one');
    expect(await visit(app, '/env')).toBe(`200 ${planted}`);
    const question = { id: app.id, input: 'rain' };
    expect((await ask(node, 'POST /v1/deploy/agents/run', question)).json).toBe('heard rain');
    // Only its own computer knows the variable.
    const other = (await ask(node, 'POST /v1/computers', { ram_mb: 512 })).json as { id: string };
    const look = { command: 'env' };
    const seen = (await ask(node, `POST /v1/computers/${other.id}/exec`, look)).json as { stdout: string };
    expect(seen.stdout).not.toContain('PLANTED');
    await ask(node, `DELETE /v1/computers/${other.id}`);
    expect((await ask(node, 'DELETE /v1/deploy/apps/weather%20bot')).json).toMatchObject({ id: app.id });
    expect((await ask(node, `GET /v1/deploy/apps/${app.id}`)).status).toBe(404);
    expect(await computers()).toEqual([]);
  });

  it('are refused with the field named, and nothing is left', async () => {
    const bundle = await archive(version('one'));
    const refused: [Record<string, string>, Uint8Array, RegExp][] = [
      [{}, bundle, /"name"/],
      [{ name: '' }, bundle, /"name"/],
      [{ name: 'a/b' }, bundle, /"name"/],
      [{ name: 'dep_1' }, bundle, /"name"/],
      [{ name: 'x', config: '{' }, bundle, /"config"/],
      [{ name: 'x', config: '{"env":{"1":"a"}}' }, bundle, /"config\.env/],
      [{ name: 'x', config: '{"port":1}' }, bundle, /"config\.port"/],
      [{ name: 'x', project_id: 'prj_000000000000000000000000' }, bundle, /no such project/],
      [{ name: 'x' }, Buffer.from('no archive'), /tar\.gz, tar or zip/],
    ];
    for (const [fields, bytes, sentence] of refused) {
      const { status, json } = await upload(node, fields, bytes);
      expect([status, json]).toEqual([
        expect.toSatisfy((code) => code === 400 || code === 404),
        expect.anything(),
      ]);
      expect((json as { detail: string }).detail).toMatch(sentence);
    }
    expect((await ask(node, 'GET /v1/deploy/apps')).json).toEqual([]);
    expect(kept(world)).toEqual([]);
  });
});

describe('a form that ends in the middle of its file', () => {
  it('is refused, wherever that is, and whatever the field is', async () => {
    for (const field of ['code_bundle', 'other'])
      for (const body of ['', 'h', 'hello', 'x'.repeat(70_000)]) {
        const head = `--BB\r\nContent-Disposition: form-data; name="${field}"; filename="b"\r\n\r\n`;
        const response = await recordedFetch(`${node.url}/v1/deploy/agent`, {
          method: 'POST',
          headers: {
            authorization: `Bearer ${node.api_key}`,
            'content-type': 'multipart/form-data; boundary=BB',
          },
          body: head + body,
        });
        expect(response.status).toBe(400);
      }
    expect((await ask(node, 'GET /v1/deploy/apps')).status).toBe(200);
    await eventually(() => kept(world, '.parts').length === 0 && kept(world).length === 0);
  });
});

describe('an upload whose client hangs up', () => {
  it('leaves nothing', async () => {
    const { port } = new URL(node.url);
    const whole = formOf({ name: 'cut' }, Buffer.alloc(500_000, 1));
    const head = [
      ...['POST /v1/deploy/agent HTTP/1.1', 'Host: x', `Authorization: Bearer ${node.api_key}`],
      ...[`Content-Type: ${FORM_TYPE}`, `Content-Length: ${whole.length}`, '', ''],
    ].join('\r\n');
    const socket = net.connect(Number(port), '127.0.0.1');
    socket.write(Buffer.concat([Buffer.from(head), whole.subarray(0, 300_000)]));
    await eventually(() => kept(world, '.parts').length === 1);
    socket.destroy();
    await eventually(() => kept(world, '.parts').length === 0);
    expect(kept(world)).toEqual([]);
  });
});

describe('what files say', () => {
  const package_json = (more: object): string => JSON.stringify({ name: 'x', version: '1.0.0', ...more });
  const serve = (word: string): string =>
    `require('http').createServer((_, r) => r.end(${word})).listen(process.env.PORT);`;
  const cases: [string, Files, string][] = [
    [
      'a start script, after a build',
      {
        'package.json': package_json({
          scripts: { build: `node -e "fs.writeFileSync('built', 'built')"`, start: 'node serve.js' },
        }),
        'serve.js': serve("require('fs').readFileSync('built')"),
      },
      'built',
    ],
    [
      'a main file',
      { 'package.json': package_json({ main: 'lib/x.js' }), 'lib/x.js': serve("'main'") },
      'main',
    ],
    [
      'a dependency in the folder',
      {
        'package.json': package_json({ dependencies: { dep: 'file:./dep' } }),
        'dep/package.json': JSON.stringify({ name: 'dep', version: '1.0.0', main: 'i.js' }),
        'dep/i.js': "module.exports = 'dep'",
        'index.js': serve("require('dep')"),
      },
      'dep',
    ],
    [
      'a Procfile before all else',
      { ...version('no'), Procfile: 'web: python3 other.py\n', 'other.py': SERVER },
      'one',
    ],
    ['a port of its own', { 'main.py': SERVER.replace("os.environ['PORT']", '3456') }, 'one'],
    ['one folder around it', { 'folder/main.py': SERVER }, 'one'],
  ];
  it.each(cases)('is heard: %s', { timeout: 90_000 }, async (_, files, answer) => {
    const app = await deploy(node, 'heard', files);
    expect([app.status, app.last_error]).toEqual(['READY', null]);
    expect(await visit(app)).toBe(`200 ${answer}`);
    await ask(node, `DELETE /v1/deploy/apps/${app.id}`);
  });

  const failures: [string, Files, Record<string, unknown>, RegExp][] = [
    ['nothing that fits', { 'README.md': '#' }, {}, /Nothing says how this is started/],
    ['a Dockerfile only', { Dockerfile: 'FROM scratch' }, {}, /only a Dockerfile/],
    [
      'a build that fails',
      {
        'package.json': package_json({ scripts: { build: 'echo the reason >&2; exit 7', start: 'true' } }),
      },
      {},
      /the build failed.*the reason/s,
    ],
    ['a program that ends', { 'main.py': "raise SystemExit('no luck')" }, {}, /exit code 1.*no luck/s],
    ['a command that is not there', version('x'), { start_command: 'missing-program' }, /exit code 127/],
  ];
  it.each(failures)(
    'fails with the last lines: %s',
    { timeout: 90_000 },
    async (_, files, config, sentence) => {
      const app = await deploy(node, 'fails', files, { env: {}, ...config });
      expect([app.status, app.url]).toEqual(['FAILED', null]);
      expect(app.last_error).toMatch(sentence);
      await eventually(async () => (await computers()).length === 0);
      await ask(node, 'DELETE /v1/deploy/apps/fails');
    },
  );
});

describe('the life of an app', () => {
  it('is redeployed with the old one serving until the new one is healthy', { timeout: 90_000 }, async () => {
    const app = await deploy(node, 'rolling', version('one'), { env: { PLANTED: 'first-value-of-it' } });
    const answers = new Set<string>();
    const over = new AbortController();
    const visits = (async () => {
      while (!over.signal.aborted) answers.add(await visit(app));
    })();
    // As the client would without envs; but nothing is said of them here.
    const second = await upload(node, { name: 'rolling' }, await archive(version('two')));
    expect(second.status).toBe(201);
    await eventually(async () => (await visit(app)) === '200 two', 30_000);
    expect(await visit(app, '/env')).toBe('200 first-value-of-it');
    // Its visitors never meet anything else; the variables stay when nothing is said of them.
    const broken = await deploy(node, 'rolling', { 'main.py': 'nonsense' });
    expect(broken).toMatchObject({
      status: 'READY',
      url: app.url,
      release: { number: 3 },
      serving: { number: 2 },
    });
    expect(broken.last_error).toMatch(/release 3/);
    over.abort();
    await visits;
    expect([...answers]).toEqual(['200 one', '200 two']);
    const again = await ask(node, 'POST /v1/deploy/apps/rolling/redeploy', {
      config: { start_command: 'sleep 0' },
    });
    expect(again.json).toMatchObject({ release: { number: 4 } });
    expect(await settled(node, 'rolling')).toMatchObject({ status: 'READY', serving: { number: 2 } });
    await eventually(async () => (await computers()).length === 1);
    await ask(node, 'DELETE /v1/deploy/apps/rolling');
    expect(await computers()).toEqual([]);
  });

  it(
    'serves its old release while a new one is built, also after a kill of the server',
    { timeout: 90_000 },
    async () => {
      const app = await deploy(node, 'steady', version('one'));
      const config = JSON.stringify({ build_command: 'sleep 1000' });
      await upload(node, { name: 'steady', config }, await archive(version('two')));
      await node.kill();
      node = await world.start();
      const { url } = await status('steady');
      await eventually(async () => (await visit({ url })) === '200 one', 30_000);
      expect(await status('steady')).toMatchObject({
        id: app.id,
        status: 'BUILDING',
        serving: { number: 1 },
      });
      // Joins what is under way.
      await ask(node, 'POST /v1/deploy/apps/steady/start');
      expect(await visit({ url })).toBe('200 one');
      await upload(node, { name: 'steady', config: '{}' }, await archive(version('three')));
      expect(await settled(node, 'steady')).toMatchObject({ status: 'READY', serving: { number: 3 } });
      await eventually(async () => (await computers()).length === 1, 20_000);
      await ask(node, 'DELETE /v1/deploy/apps/steady');
      expect([await computers(), kept(world)]).toEqual([[], []]);
    },
  );

  it(
    'is stopped, started, started again when it crashes, and back after a kill of the server',
    { timeout: 90_000 },
    async () => {
      let app = await deploy(node, 'lasting', version('one'));
      expect((await ask(node, 'POST /v1/deploy/apps/lasting/stop')).json).toMatchObject({
        status: 'STOPPED',
        url: null,
      });
      expect(await visit(app)).toMatch(/^404/);
      expect((await ask(node, 'POST /v1/deploy/agents/run', { id: 'lasting', input: '' })).status).toBe(409);
      expect((await ask(node, 'POST /v1/deploy/apps/lasting/start')).json).toMatchObject({ status: 'READY' });
      expect(await visit(app)).toBe('200 one');
      // A port that its owner takes back is given to it again.
      await ask(node, `DELETE /v1/computers/${app.serving!.computer_id}/published-ports/8000`);
      expect(await visit(app)).toMatch(/^404/);
      await ask(node, 'POST /v1/deploy/apps/lasting/stop');
      await ask(node, 'POST /v1/deploy/apps/lasting/start');
      expect(await visit(app)).toBe('200 one');
      await visit(app, '/crash').catch(() => undefined);
      await eventually(async () => (await visit(app)) === '200 one');
      await node.kill();
      node = await world.start();
      app = await settled(node, 'lasting');
      await eventually(async () => (await visit(app)) === '200 one');
      // Whoever stops its computer has stopped it.
      const { computer_id } = app.serving!;
      await ask(node, `POST /v1/computers/${computer_id}/stop`);
      await eventually(async () => (await settled(node, 'lasting')).status === 'STOPPED');
      await ask(node, 'DELETE /v1/deploy/apps/lasting');
    },
  );

  it('is given up when it ends again and again, and says why', { timeout: 120_000 }, async () => {
    const files = {
      'main.py': SERVER.replace(
        "print('it listens'",
        "print('mark'); open('x', 'a').write('1'); len(open('x').read()) > 1 and os._exit(9)\n    print('it listens'",
      ),
    };
    await deploy(node, 'brittle', files);
    await visit(await settled(node, 'brittle'), '/crash').catch(() => undefined);
    await eventually(async () => (await settled(node, 'brittle')).status === 'FAILED', 60_000);
    expect((await settled(node, 'brittle')).last_error).toMatch(/exit code 9/);
    await ask(node, 'DELETE /v1/deploy/apps/brittle');
  });

  it('is told in its logs, as pages and as a stream', { timeout: 60_000 }, async () => {
    await deploy(node, 'talking', version('one'));
    const page = async (query: string) =>
      (await ask(node, `GET /v1/deploy/apps/talking/logs${query}`)).json as {
        data: { seq: number; text: string; phase: string }[];
        next_cursor: string;
      };
    await eventually(async () => (await page('')).data.some(({ text }) => text.includes('it listens')));
    const all = await page('');
    expect(all.data.some(({ phase, text }) => phase === 'build' && text.includes('It is started with'))).toBe(
      true,
    );
    expect(await page(`?after=${all.next_cursor}`)).toEqual({ data: [], next_cursor: all.next_cursor });
    const response = await fetch(`${node.url}/v1/deploy/apps/talking/logs?follow=true&after=0`, {
      headers: { authorization: `Bearer ${node.api_key}` },
    });
    let said = '';
    for await (const chunk of response.body!) {
      said += Buffer.from(chunk).toString();
      if (said.includes('it listens')) break;
    }
    expect(said).toMatch(/^id: \d+\ndata: \{/);
    await ask(node, 'DELETE /v1/deploy/apps/talking');
  });
});

async function status(name: string): Promise<App> {
  return (await ask(node, `GET /v1/deploy/apps/${name}`)).json as App;
}

async function computers(): Promise<App[]> {
  const { json } = await ask(node, 'GET /v1/computers');
  return (json as { computers: App[] }).computers;
}
