/** The API reference: a page that renders /openapi.json and tries requests, from this server alone. Open to all, as the document is. */
import fs from 'node:fs/promises';
import { OverwinterError } from '../resource/error.ts';
import type { Api } from './api.ts';

const PAGE = `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Overwinter API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/reference/swagger-ui.css">
</head>
<body>
<div id="reference"></div>
<script src="/reference/swagger-ui-bundle.js"></script>
<script src="/reference/start.js"></script>
</body>
</html>
`;

const START = `SwaggerUIBundle({
  url: '/openapi.json',
  dom_id: '#reference',
  deepLinking: true,
  docExpansion: 'list',
  persistAuthorization: false,
  validatorUrl: null,
});
`;

/** Scripts of this server only; the renderer sets styles on elements and draws its icons from data URLs. */
const POLICY =
  "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; " +
  "base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const ASSETS = new Map([
  [
    'swagger-ui.css',
    { type: 'text/css; charset=utf-8', file: import.meta.resolve('swagger-ui-dist/swagger-ui.css') },
  ],
  [
    'swagger-ui-bundle.js',
    {
      type: 'text/javascript; charset=utf-8',
      file: import.meta.resolve('swagger-ui-dist/swagger-ui-bundle.js'),
    },
  ],
]);

export function mountReference(app: Api): void {
  const read_by_file = new Map<string, Promise<Buffer<ArrayBuffer>>>();
  /** Once: the bundle is large, and all requests share its bytes. */
  const read = (file: string): Promise<Buffer<ArrayBuffer>> => {
    const bytes = read_by_file.get(file) ?? fs.readFile(new URL(file));
    read_by_file.set(file, bytes);
    void bytes.catch(() => read_by_file.delete(file));
    return bytes;
  };

  app.get('/reference', (context) => {
    context.header('content-security-policy', POLICY);
    context.header('x-content-type-options', 'nosniff');
    return context.html(PAGE);
  });

  app.get('/reference/start.js', (context) => {
    context.header('content-type', 'text/javascript; charset=utf-8');
    return context.body(START);
  });

  app.get('/reference/:asset', async (context) => {
    const asset = ASSETS.get(context.req.param('asset'));
    if (!asset) throw new OverwinterError('not_found', 'there is no such file');
    context.header('content-type', asset.type);
    context.header('cache-control', 'public, max-age=3600');
    return context.body(await read(asset.file));
  });
}
