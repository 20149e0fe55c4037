/** What a computer is made of: settled at its creation, for life. Ranges and names are those of Celesto's API (contract §3). */
import { z } from 'zod';

/**
 * `open`: public addresses only. `allow` (ours): the named hosts only, each exact or `*.` and a domain. Everything goes through the
 * egress proxy; nothing else leaves a computer.
 */
export const NetworkPolicy = z.discriminatedUnion('mode', [
  z.object({ mode: z.literal('open') }),
  z.object({ mode: z.literal('off') }),
  z.object({
    mode: z.literal('allow'),
    hosts: z
      .array(
        z
          .string()
          .max(253)
          .regex(
            /^(\*\.)?[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*$/,
            'must be a host name, or *. and a domain',
          ),
      )
      .min(1)
      .max(100),
  }),
]);
export type NetworkPolicy = z.infer<typeof NetworkPolicy>;

export const RANGES = {
  vcpus: { min: 1, max: 16 },
  ram_mb: { min: 512, max: 32_768 },
  disk_size_mb: { min: 512, max: 51_200 },
} as const;

const VARIABLES_MAX = 256;
const VALUE_CHARACTERS_MAX = 32_768;

/** Variables of commands. What they hold is said in no message. */
export const Variables = z
  .record(
    z.string().regex(/^[A-Za-z_][A-Za-z0-9_]{0,127}$/, 'must be a name that a shell can assign'),
    z
      .string()
      .max(VALUE_CHARACTERS_MAX)
      .refine((value) => !value.includes('\0'), 'must hold no NUL'),
  )
  .refine((variables) => Object.keys(variables).length <= VARIABLES_MAX, `must be ${VARIABLES_MAX} at most`);

export const ComputerSpec = z.object({
  vcpus: z.number(),
  ram_mb: z.int(),
  disk_size_mb: z.int(),
  processes_max: z.int(),
  /** As the client named it; what it stands for is `base_image`. */
  image: z.string(),
  /** The driver's name for the base image; null = the driver's own root file system. */
  base_image: z.string().nullable(),
  template_id: z.string(),
  template_version: z.string(),
  network_policy: NetworkPolicy,
});
export type ComputerSpec = z.infer<typeof ComputerSpec>;

/** What clients of all generations call the plain root file system. */
export const DEFAULT_IMAGE = 'ubuntu-desktop-24.04';

export type Template = {
  id: string;
  aliases: string[];
  display_name: string;
  description: string;
  version: string;
  vcpus: number;
  ram_mb: number;
  disk_size_mb: number;
  recommended_for: string[];
};

/** The contract's names that have a meaning here; `browser-agent` has none, as there is no display. */
export const TEMPLATES: readonly Template[] = [
  {
    ...{ id: 'scratch', aliases: [DEFAULT_IMAGE], version: '1', vcpus: 1, ram_mb: 1024, disk_size_mb: 7168 },
    display_name: 'Scratch',
    description: 'A plain computer with the tools of its root file system.',
    recommended_for: ['scripts', 'short tasks'],
  },
  {
    ...{ id: 'coding-agent', aliases: [], version: '1', vcpus: 2, ram_mb: 4096, disk_size_mb: 10_240 },
    display_name: 'Coding agent',
    description: 'The same with more room, for agents that build and test software.',
    recommended_for: ['coding agents', 'builds'],
  },
];
