/** Secrets of every kind that a server holds, planted: each is random, so wherever it turns up it has leaked. */
import { randomBytes } from 'node:crypto';

const draw = (): string => randomBytes(24).toString('base64url');

/** What the operator and the callers bring. What the server makes itself is added when it is shown. */
export function plant() {
  return {
    managed: `sk-ant-managed-${draw()}`,
    credential: `sk-ant-credential-${draw()}`,
    rotated: `sk-ant-rotated-${draw()}`,
    inline: `sk-ant-inline-${draw()}`,
    webhook_secret: `whsec_${randomBytes(32).toString('base64')}`,
    webhook_token: `tok-${draw()}`,
    api_key: `ow_${randomBytes(4).toString('hex')}_${randomBytes(32).toString('base64url')}`,
    password: `pw-${draw()}`,
    /** Of a deployment, whose own computer alone may know it. */
    variable: `var-${draw()}`,
    /** The first is put before the other when the master key is changed. */
    master_keys: [randomBytes(32), randomBytes(32)] as [Buffer, Buffer],
  };
}

export type Planted = ReturnType<typeof plant>;

/** By name, for the search: keys as they are written and as bytes. */
export function secretsOf({ master_keys, ...texts }: Planted): Record<string, string | Buffer> {
  const keys = master_keys.flatMap((key, index) => [
    [`master key ${index}`, key.toString('base64')],
    [`bytes of master key ${index}`, key],
  ]);
  return { ...texts, ...(Object.fromEntries(keys) as Record<string, string | Buffer>) };
}

/** What an agent would try in order to find them: its environment, its processes, its files, the ports of the host. */
export function prying(port: number): string {
  return [
    'env; set; export -p; ls -la / /root /home /run /tmp /workspace; cat /proc/self/mountinfo',
    'cat /proc/*/environ /proc/*/cmdline /proc/*/task/*/environ | tr "\\0" "\\n"',
    'find / -xdev -type f -size -32k \\( -path "/etc/*" -o -path "/run/*" -o -path "/tmp/*" -o -path "/var/*" -o -path "/home/*" -o -path "/root/*" -o -path "/workspace/*" \\) -exec cat {} + | tail -c 300000',
    `for host in 127.0.0.1 10.0.2.2 172.17.0.1 169.254.169.254; do (exec 3<>/dev/tcp/$host/${port}) && echo "REA""CHED $host"; done`,
    'true',
  ]
    .map((part) => `{ ${part}; } 2>&1`)
    .join('\n');
}
