/** Deployments as they go over the wire (contract §8), and what an upload says of itself. */
import { z } from '@hono/zod-openapi';
import type { Manifest } from '../../../engine/deployments/upload.ts';
import { FIELD } from '../../../bundle/entry.ts';
import { Variables } from '../../../resource/computer/spec.ts';
import { DEPLOYMENT_STATUSES, ReleaseSettings, statusOf } from '../../../resource/deployment.ts';
import { OverwinterError } from '../../../resource/error.ts';
import type { DeploymentRow } from '../../../store/deployment/deployments.ts';
import type { ReleaseRow } from '../../../store/deployment/releases.ts';
import { text } from '../../api.ts';
import { Time } from '../../wire.ts';

export const AppPath = z.object({
  app_name: text(256).openapi({ description: 'The name or the id of a deployment.' }),
});

const Release = z.object({ number: z.int(), computer_id: z.string().nullable(), created_at: Time });

export const Deployment = z
  .object({
    ...{ id: z.string(), name: z.string(), description: z.string(), status: z.enum(DEPLOYMENT_STATUSES) },
    ...{ organization_id: z.string(), project_id: z.string(), user_id: z.null() },
    url: z
      .string()
      .nullable()
      .openapi({ description: 'Where a release of it is reached, while one serves.' }),
    last_error: z
      .string()
      .nullable()
      .openapi({ description: 'Why the newest release failed, or the app was given up.' }),
    config: z
      .object({ env_names: z.array(z.string()) })
      .extend(ReleaseSettings.shape)
      .openapi({
        description: 'Of the newest release; what its variables hold is not told.',
      }),
    release: Release.nullable().openapi({ description: 'The newest.' }),
    serving: Release.nullable().openapi({ description: 'The one that visitors reach.' }),
    ...{ created_at: Time, updated_at: Time, deployed_at: Time.nullable() },
  })
  .openapi('Deployment');

/** @param releases of this deployment, and others may be among them. */
export function renderDeployment(
  row: DeploymentRow,
  releases: ReleaseRow[],
  url_of: (id: string) => string,
): z.infer<typeof Deployment> {
  const { id, org, project_id, name, description, serving, wanted, broken, last_error, deployed_at } = row;
  const own = releases.filter((each) => each.deployment_id === id);
  const newest = own.toSorted((a, b) => b.number - a.number)[0];
  const served = own.find((each) => each.id === serving);
  return {
    ...{ id, name, description, status: statusOf(row, newest?.status), organization_id: org, project_id },
    user_id: null,
    url: served && wanted === 'running' && !broken ? url_of(id) : null,
    last_error,
    config: { env_names: newest?.env_names ?? [], ...newest?.settings },
    release: newest ? renderRelease(newest) : null,
    serving: served ? renderRelease(served) : null,
    ...{ created_at: row.created_at.toISOString(), updated_at: row.updated_at.toISOString() },
    deployed_at: deployed_at && deployed_at.toISOString(),
  };
}

function renderRelease({ number, computer_id, created_at }: ReleaseRow): z.infer<typeof Release> {
  return { number, computer_id, created_at: created_at.toISOString() };
}

/** Unknown members are passed over, as they mean something to other servers. */
export const DeploymentConfig = ReleaseSettings.extend({ env: Variables.optional() });

/** `env` is sealed, and so goes apart from the rest. Without a config all is as it was. */
export function splitConfig(
  config: z.infer<typeof DeploymentConfig> | undefined,
): Pick<Manifest, 'env' | 'settings'> {
  if (!config) return {};
  const { env, ...settings } = config;
  return { env, settings };
}

const Fields = z.object({
  name: z
    .string()
    .min(1)
    .max(100)
    .regex(/^[^/\p{Cc}]+$/u, 'must hold no slash and no control characters')
    .refine((name) => name.isWellFormed(), 'must be well-formed text')
    .refine((name) => !/^(\.{1,2}|dep_.*)$/.test(name) && name.trim() === name, 'cannot be used as a name'),
  description: text(2000).optional(),
  project_id: text(64).optional(),
  config: z.string().optional(),
});

/**
 * What the fields of a form say. These clients send an empty text for what is not given.
 * @throws OverwinterError `invalid`, with the field named.
 */
export function manifestOf(form: Record<string, string>): Manifest {
  const given = Object.fromEntries(Object.entries(form).filter(([, value]) => value !== ''));
  const { config, ...fields } = parse(Fields, given, '');
  if (config === undefined) return fields;
  return { ...fields, ...splitConfig(parse(DeploymentConfig, jsonOf(config), 'config.')) };
}

function jsonOf(config: string): unknown {
  try {
    return JSON.parse(config);
  } catch {
    throw new OverwinterError('invalid', '"config": must be JSON', 'config');
  }
}

function parse<Schema extends z.ZodType>(schema: Schema, value: unknown, prefix: string): z.infer<Schema> {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const [issue] = result.error.issues;
  const field = `${prefix}${issue?.path.join('.') ?? ''}`.replace(/\.$/, '');
  throw new OverwinterError('invalid', `"${field}": ${issue?.message ?? 'invalid'}`, field);
}

/** The form as the document shows it. */
export const DeploymentForm = {
  type: 'object' as const,
  required: ['name', FIELD],
  properties: {
    name: {
      type: 'string' as const,
      description: 'Of a new deployment, or of the one that this is a release of.',
    },
    description: { type: 'string' as const },
    project_id: { type: 'string' as const, description: 'Default: the default project.' },
    config: {
      type: 'string' as const,
      description:
        'JSON: `env`, and `build_command`, `start_command`, `port`, `health_path`, `vcpus`, `ram_mb`, `disk_size_mb`, `network_policy`.',
    },
    [FIELD]: { type: 'string' as const, format: 'binary', description: 'tar.gz, tar or zip.' },
  },
};
