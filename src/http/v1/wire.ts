/** The nouns of `/v1` as they go over the wire (contract §3). The newest clients fail without fields that the older ones never read. */
import { z } from '@hono/zod-openapi';
import { COMPUTER_STATUSES, type ComputerState } from '../../resource/computer/life.ts';
import { NetworkPolicy, TEMPLATES, type Template as TemplateFacts } from '../../resource/computer/spec.ts';
import type { CommandRow } from '../../store/computer/commands.ts';
import type { PublishedPortRow } from '../../store/computer/ports.ts';
import { text } from '../api.ts';
import { Time } from '../wire.ts';

/** The agents' frameworks send whole files inside of commands. */
export const V1_BODY_BYTES_MAX = 4 * 1024 * 1024;

export const ComputerPath = z.object({
  computer_id: text(256).openapi({ description: 'The id or the name of a computer.' }),
});

export const PublishedPort = z
  .object({
    id: z.string().nullable(),
    computer_id: z.string(),
    port: z.int(),
    status: z.enum(['published', 'unpublished']),
    url: z.string().nullable(),
    created_at: Time.nullable(),
  })
  .openapi('PublishedPort');

export function renderPort(
  row: PublishedPortRow,
  port_url: (id: string) => string,
): z.infer<typeof PublishedPort> {
  const { id, computer_id, port, created_at } = row;
  return {
    ...{ id, computer_id, port, status: 'published', url: port_url(id) },
    created_at: created_at.toISOString(),
  };
}

const ComputeLocation = z.object({
  provider: z.string(),
  region: z.string(),
  country_code: z.string().nullable(),
});
const HERE = { provider: 'overwinter', region: 'local', country_code: null } as const;

export const Computer = z
  .object({
    id: z.string(),
    name: z.string(),
    status: z.enum(COMPUTER_STATUSES),
    vcpus: z.number(),
    ram_mb: z.int(),
    disk_size_mb: z.int(),
    image: z.string(),
    template_id: z.string(),
    template_version: z.string(),
    network_policy: NetworkPolicy,
    external_volume_enabled: z.literal(false),
    published_ports: z.array(PublishedPort),
    compute_location: ComputeLocation,
    connection: z.null(),
    created_at: Time,
    stopped_at: Time.optional().openapi({ description: 'While it is stopped.' }),
    last_error: z.string().optional().openapi({ description: 'Why it is in `error`.' }),
    session_id: z.string().nullable().openapi({ description: 'The session whose computer it is.' }),
    driver: z.string(),
  })
  .openapi('Computer');

/** @param ports of this computer, and others may be among them. */
export function renderComputer(
  state: ComputerState,
  ports: PublishedPortRow[],
  port_url: (id: string) => string,
): z.infer<typeof Computer> {
  const { id, name, status, spec, session, driver, created_at, stopped_at, last_error } = state;
  if (!spec) throw new Error(`computer ${id} has no specification`);
  const { vcpus, ram_mb, disk_size_mb, image, template_id, template_version, network_policy } = spec;
  const own = ports.filter(({ computer_id }) => computer_id === id);
  return {
    ...{ id, name, status, vcpus, ram_mb, disk_size_mb, image, template_id, template_version },
    ...{ network_policy, external_volume_enabled: false, compute_location: HERE, connection: null },
    published_ports: own.map((row) => renderPort(row, port_url)),
    created_at: new Date(created_at).toISOString(),
    ...(status === 'stopped' && stopped_at !== null && { stopped_at: new Date(stopped_at).toISOString() }),
    ...(last_error !== null && { last_error }),
    ...{ session_id: session, driver },
  };
}

export const Template = z
  .object({
    id: z.string(),
    display_name: z.string(),
    description: z.string(),
    version: z.string(),
    default_vcpus: z.number(),
    default_ram_mb: z.int(),
    default_disk_size_mb: z.int(),
    aliases: z.array(z.string()),
    capabilities: z.array(z.string()),
    preinstalled_tools: z.array(z.string()),
    recommended_for: z.array(z.string()),
    default_published_ports: z.array(z.int()),
    has_playwright_browsers: z.boolean(),
    has_browser_system_deps: z.boolean(),
    experimental: z.boolean(),
  })
  .openapi('Template');

export function renderTemplates(): z.infer<typeof Template>[] {
  return TEMPLATES.map(renderTemplate);
}

function renderTemplate(template: TemplateFacts): z.infer<typeof Template> {
  const { vcpus, ram_mb, disk_size_mb, ...named } = template;
  return {
    ...named,
    ...{ default_vcpus: vcpus, default_ram_mb: ram_mb, default_disk_size_mb: disk_size_mb },
    ...{ capabilities: ['exec', 'published_ports'], preinstalled_tools: [], default_published_ports: [] },
    ...{ has_playwright_browsers: false, has_browser_system_deps: false, experimental: false },
  };
}

export const Command = z
  .object({
    command_id: z.string(),
    source: z.string().openapi({
      description: 'Who asked: `api`, `agent`, or `visit` for a server that a visit brought back.',
    }),
    status: z.enum(['running', 'completed', 'failed', 'timed_out', 'lost']),
    started_at: Time,
    ended_at: Time.nullable(),
    duration_ms: z.int().nullable(),
    timeout_seconds: z.number(),
    exit_code: z.int().nullable(),
    stdout_bytes: z.int(),
    stderr_bytes: z.int(),
    error_type: z.string().nullable(),
  })
  .openapi('Command');

export function renderCommand(row: CommandRow): z.infer<typeof Command> {
  const { id, source, status, started_at, ended_at, timeout_ms, exit_code, error_type } = row;
  return {
    ...{ command_id: id, source, status, exit_code, error_type, timeout_seconds: timeout_ms / 1000 },
    ...{ started_at: started_at.toISOString(), ended_at: ended_at?.toISOString() ?? null },
    duration_ms: ended_at && ended_at.getTime() - started_at.getTime(),
    ...{ stdout_bytes: row.stdout_bytes, stderr_bytes: row.stderr_bytes },
  };
}

/** How many to list; unlike on `/v3`, what exceeds the maximum is refused, as these clients were told. */
export const Count = z
  .string()
  .regex(/^\d{1,3}$/, 'must be a whole number from 1 to 200')
  .transform(Number)
  .refine((count) => count >= 1 && count <= 200, 'must be between 1 and 200')
  .default(50)
  .openapi({ type: 'integer', minimum: 1, maximum: 200, default: 50 });
