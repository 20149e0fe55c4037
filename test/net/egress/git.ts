/** git's own server for smart HTTP, a CGI program. Invariant: it serves the repositories below one directory, for reading. */
import { spawn } from 'node:child_process';
import type { IncomingMessage, ServerResponse } from 'node:http';

export function backend(request: IncomingMessage, response: ServerResponse, root: string): void {
  const [path_info = '', query = ''] = (request.url ?? '').replace(/^\/git/, '').split('?');
  const { 'content-type': type, 'content-encoding': encoding, 'git-protocol': protocol } = request.headers;
  const program = spawn('git', ['http-backend'], {
    env: {
      PATH: process.env['PATH'],
      GIT_PROJECT_ROOT: root,
      GIT_HTTP_EXPORT_ALL: '1',
      GIT_CONFIG_COUNT: '1',
      GIT_CONFIG_KEY_0: 'safe.directory',
      GIT_CONFIG_VALUE_0: '*',
      REQUEST_METHOD: request.method,
      PATH_INFO: path_info,
      QUERY_STRING: query,
      ...(type !== undefined && { CONTENT_TYPE: type }),
      ...(encoding !== undefined && { HTTP_CONTENT_ENCODING: encoding }),
      ...(typeof protocol === 'string' && { GIT_PROTOCOL: protocol }),
    },
    stdio: ['pipe', 'pipe', 'ignore'],
  });
  program.stdin.on('error', () => {});
  request.pipe(program.stdin);
  const chunks: Buffer[] = [];
  program.stdout.on('data', (chunk: Buffer) => chunks.push(chunk));
  program.on('error', () => response.writeHead(500).end());
  program.on('close', () => answer(response, Buffer.concat(chunks)));
}

function answer(response: ServerResponse, output: Buffer): void {
  const end = output.indexOf('\r\n\r\n');
  const fields = output.subarray(0, end).toString('latin1').split('\r\n');
  const headers = fields.map(
    (field) => [field.split(': ')[0] ?? '', field.split(': ').slice(1).join(': ')] as const,
  );
  const status = Number(headers.find(([name]) => name === 'Status')?.[1]?.slice(0, 3) ?? 200);
  response.writeHead(status, headers.filter(([name]) => name !== 'Status').flat());
  response.end(output.subarray(end + 4));
}
