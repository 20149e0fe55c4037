/** Where visitors find a port of a sandbox: `<sandbox id>-p<port>.<domain>`, as the clients put it together themselves. */

/** `apps.example.com:8443` of `https://*.apps.example.com:8443`. */
export function domainOf(ports_url: string): string {
  return new URL(ports_url.replace('*.', '')).host;
}

export function hostOf(ports_url: string, sandbox_id: string, port: number): string {
  return `${sandbox_id}-p${port}.${domainOf(ports_url)}`;
}

export function withoutPort(host: string): string {
  return host.replace(/:\d*$/, '');
}
