/** Deployments as data: what an owner may say of one, and the one status that is derived from what is wanted and what has happened. */
import { z } from 'zod';
import { NetworkPolicy, RANGES } from './computer/spec.ts';

/** Contract §8. */
export const DEPLOYMENT_STATUSES = ['ENQUEUED', 'BUILDING', 'READY', 'FAILED', 'STOPPED'] as const;
export type DeploymentStatus = (typeof DEPLOYMENT_STATUSES)[number];

/** `receiving`: its files are still being uploaded; `retired`: a later one has taken its place. */
export type ReleaseStatus = 'receiving' | 'enqueued' | 'building' | 'ready' | 'failed' | 'retired';

export type Wanted = 'running' | 'stopped' | 'deleted';

const whole = ({ min, max }: { min: number; max: number }) => z.int().min(min).max(max).optional();
const line = z
  .string()
  .min(1)
  .max(4096)
  .refine((text) => !text.includes('\0'), 'must hold no NUL')
  .optional();

/** How a release is built and run; what is absent is found in its files, or is the standard. */
export const ReleaseSettings = z.object({
  /** Bash, instead of what would be done to install and build. */
  build_command: line,
  /** Bash, instead of what the files say. */
  start_command: line,
  /** What it is told to listen on, as `PORT`. */
  port: whole({ min: 1024, max: 65_535 }),
  /** Must not answer with 5xx for the release to count as healthy. */
  health_path: z
    .string()
    .regex(/^\/[\x21-\x7e]{0,1023}$/, 'must begin with a slash')
    .optional(),
  vcpus: whole(RANGES.vcpus),
  ram_mb: whole(RANGES.ram_mb),
  disk_size_mb: whole(RANGES.disk_size_mb),
  network_policy: NetworkPolicy.optional(),
});
export type ReleaseSettings = z.infer<typeof ReleaseSettings>;

export type DeploymentFacts = {
  wanted: Wanted;
  /** The id of the release that visitors reach. */
  serving: string | null;
  broken: boolean;
};

/** While a new release is on its way, that is what one is told; one that failed leaves the older one ready. */
export function statusOf(
  { wanted, serving, broken }: DeploymentFacts,
  newest: ReleaseStatus | undefined,
): DeploymentStatus {
  if (wanted !== 'running') return 'STOPPED';
  if (newest === 'enqueued') return 'ENQUEUED';
  if (newest === 'building') return 'BUILDING';
  return serving !== null && !broken ? 'READY' : 'FAILED';
}
