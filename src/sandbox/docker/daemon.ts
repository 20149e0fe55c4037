/**
 * The daemon's containers and images that are computers of one installation.
 * Invariant: what does not carry the installation's label is never touched.
 */

import Docker from 'dockerode';
import { COMPUTER_LABEL, INSTALLATION_LABEL } from './container.ts';

export type Daemon = Docker;
export type Container = Docker.Container;

/** A container of a computer. Its name ends with the generation, which a rename changes in one step. */
export type Kept = {
  container: Container;
  computer: string;
  generation: number;
  image_id: string;
  resting: boolean;
};

const NOT_FOUND = 404;
const CONFLICT = 409;
/** Also what the daemon says of a container that is not paused. */
const NOT_PAUSED = 500;
const GONE_MS_MAX = 60_000;
/** States without processes. */
const RESTING = new Set(['created', 'exited', 'dead']);

export function openDaemon(socket_path: string): Daemon {
  return new Docker({ socketPath: socket_path });
}

export function nameOf(installation: string, computer: string, generation: number): string {
  return `overwinter-${installation}-${computer}.${generation}`;
}

/** @param computer null = of all. Newest generation first. */
export async function containersOf(
  daemon: Daemon,
  installation: string,
  computer: string | null,
): Promise<Kept[]> {
  const listed = await daemon.listContainers({ all: true, filters: filtersOf(installation, computer) });
  const kept = listed.map(({ Id, Names, Labels, ImageID, State }) => ({
    container: daemon.getContainer(Id),
    computer: Labels[COMPUTER_LABEL] ?? '',
    generation: Number(/\.(\d+)$/.exec(Names[0] ?? '')?.[1] ?? 0),
    image_id: ImageID,
    resting: RESTING.has(State),
  }));
  return kept.sort((one, other) => other.generation - one.generation);
}

/** Ends all of its processes, and waits until none is left. Idempotent; rejects when they do not die. */
export async function endContainer(container: Container): Promise<void> {
  await container.kill({ signal: 'SIGKILL' }).catch(unless(NOT_FOUND, CONFLICT));
  // The kernel kills nothing that is frozen.
  await container.unpause().catch(unless(NOT_FOUND, CONFLICT, NOT_PAUSED));
  const abortSignal = AbortSignal.timeout(GONE_MS_MAX);
  await container.wait({ condition: 'not-running', abortSignal }).catch(unless(NOT_FOUND));
}

export async function removeContainer(container: Container): Promise<void> {
  await container.remove({ force: true, v: true }).catch(unless(NOT_FOUND, CONFLICT));
}

/** Removes the images that a computer was restored from, but for those that a container needs. */
export async function removeImages(daemon: Daemon, installation: string, computer: string): Promise<void> {
  const images = await daemon.listImages({ all: true, filters: filtersOf(installation, computer) });
  for (const { Id } of images) await daemon.getImage(Id).remove().catch(unless(NOT_FOUND, CONFLICT));
}

/** Lets errors of these kinds pass. */
export function unless(...statuses: number[]): (error: unknown) => void {
  return (error) => {
    if (!statuses.includes(statusOf(error) ?? 0)) throw error;
  };
}

export function isConflict(error: unknown): boolean {
  return statusOf(error) === CONFLICT;
}

function statusOf(error: unknown): number | undefined {
  return (error as { statusCode?: number } | null)?.statusCode;
}

function filtersOf(installation: string, computer: string | null): { label: string[] } {
  const label = [`${INSTALLATION_LABEL}=${installation}`];
  return { label: computer === null ? label : [...label, `${COMPUTER_LABEL}=${computer}`] };
}
