/** What its owner asks of a computer as a whole: make it, find it, start, stop and delete it. */
import { createHash } from 'node:crypto';
import type { DriverName } from '../../resource/computer/driver.ts';
import { expectLegal, type ComputerState } from '../../resource/computer/life.ts';
import {
  DEFAULT_IMAGE,
  TEMPLATES,
  type ComputerSpec,
  type NetworkPolicy,
  type Template,
} from '../../resource/computer/spec.ts';
import { canonicalJson } from '../../resource/canonical-json.ts';
import { OverwinterError } from '../../resource/error.ts';
import { findComputer, IDEMPOTENCY_HEADER } from '../../store/computer/computers.ts';
import { findCreated, type CreateKey } from '../../store/idempotency.ts';
import { getSnapshot } from '../../store/computer/snapshots.ts';
import type { Runtime } from '../runtime.ts';
import type { Computers, StartOptions } from './computers.ts';
import { makeComputer, type Making } from './make.ts';

/** Within the ranges of resource/computer/spec.ts; what is absent is the template's. */
export type CreateComputer = {
  vcpus?: number | undefined;
  ram_mb?: number | undefined;
  disk_size_mb?: number | undefined;
  image?: string | undefined;
  template_id?: string | undefined;
  template_version?: string | undefined;
  network_policy?: NetworkPolicy | undefined;
  driver?: DriverName | undefined;
  /** Its first files come from this snapshot of the org. */
  snapshot_id?: string | undefined;
  idempotency_key?: string | undefined;
};

/** What is no part of the computer itself; of these a repeated create is not asked. */
export type Besides = Pick<Making, 'keeping' | 'env' | 'named_after'>;

/**
 * Makes a computer and starts it; resolves when it runs, or when its start has failed and its state says why.
 * @throws OverwinterError `invalid` (names the field), `not_found` (snapshot), `idempotency_conflict`.
 */
export async function createComputer(
  runtime: Runtime,
  computers: Computers,
  org: string,
  request: CreateComputer,
  besides: Besides = {},
): Promise<ComputerState> {
  const { idempotency_key, ...wanted } = request;
  const create_key = createKey(idempotency_key, wanted);
  // A repetition is one whatever has become of what the first had named.
  const earlier = create_key && (await findCreated(runtime.database.db, org, create_key, IDEMPOTENCY_HEADER));
  if (earlier) return await computers.settled(earlier);
  const driver = driverFor(runtime, wanted.driver);
  const snapshot = await snapshotOf(runtime, org, wanted.snapshot_id);
  const made = await makeComputer(runtime, org, {
    spec: specOf(runtime, driver, wanted, snapshot?.spec),
    driver,
    create_key,
    from_snapshot: snapshot?.blob ?? null,
    ...besides,
  });
  if (!made) throw new OverwinterError('contended', 'the computer could not be made; try again');
  if (!made.is_new) return await computers.settled(made.id);
  return await startFresh(runtime, computers, made.id, { made: true });
}

/** A start that fails leaves a computer in `error`, which says why. */
export async function startFresh(
  runtime: Runtime,
  computers: Computers,
  id: string,
  options: StartOptions = {},
): Promise<ComputerState> {
  try {
    return (await computers.start(id, options)).state;
  } catch (error) {
    if (error instanceof OverwinterError) throw error;
    runtime.logger.warn({ err: error, computer: id }, 'a computer did not start');
    return await runtime.computer_log.state(id);
  }
}

/** @throws OverwinterError `not_found` */
export async function getComputer(runtime: Runtime, org: string, id_or_name: string): Promise<ComputerState> {
  const state = await findComputer(runtime.database.db, org, id_or_name);
  if (!state) throw new OverwinterError('not_found', `no computer "${id_or_name}"`);
  return state;
}

/** Resolves when it runs. @throws OverwinterError `conflict` */
export async function startComputer(
  runtime: Runtime,
  computers: Computers,
  state: ComputerState,
): Promise<ComputerState> {
  expectLegal(state.status, 'start');
  return await startFresh(runtime, computers, state.id);
}

/** Resolves when it is stopped. @throws OverwinterError `conflict` */
export async function stopComputer(computers: Computers, state: ComputerState): Promise<ComputerState> {
  expectLegal(state.status, 'stop');
  // A session's computer may be woken elsewhere next: what it has now must be there too.
  return (await computers.stop(state.id, 'asked', state.session === null ? undefined : 'save')).state;
}

/** Resolves when every byte of it is gone, or, where its files lie with a node that is away, when that node will see to it. */
export async function deleteComputer(computers: Computers, state: ComputerState): Promise<ComputerState> {
  if (state.status === 'deleted') return state;
  return await computers.remove(state.id);
}

/** @throws OverwinterError `invalid` for one that this server does not run. */
function driverFor({ driver, drivers }: Runtime, wanted: DriverName | undefined): DriverName {
  if (wanted === undefined || drivers.has(wanted)) return wanted ?? driver.name;
  const known = [...drivers.keys()].join(', ');
  throw new OverwinterError(
    'invalid',
    `this server does not run the driver "${wanted}"; it runs: ${known}`,
    'driver',
  );
}

async function snapshotOf(runtime: Runtime, org: string, id: string | undefined) {
  if (id === undefined) return undefined;
  const snapshot = await getSnapshot(runtime.database.db, org, id);
  if (!snapshot) throw new OverwinterError('not_found', 'no such snapshot', 'snapshot_id');
  return snapshot;
}

/** What was asked for, else what the snapshot's computer had, else the template's. */
function specOf(
  runtime: Runtime,
  driver: DriverName,
  wanted: CreateComputer,
  earlier: ComputerSpec | undefined,
): ComputerSpec {
  const template = templateOf(wanted);
  const image = wanted.image ?? earlier?.image ?? DEFAULT_IMAGE;
  return {
    vcpus: wanted.vcpus ?? earlier?.vcpus ?? template.vcpus,
    ram_mb: wanted.ram_mb ?? earlier?.ram_mb ?? template.ram_mb,
    disk_size_mb: wanted.disk_size_mb ?? earlier?.disk_size_mb ?? template.disk_size_mb,
    processes_max: runtime.settings.computers.processes_max,
    ...{ image, base_image: baseImage(runtime, driver, image) },
    ...{ template_id: template.id, template_version: template.version },
    network_policy: wanted.network_policy ?? earlier?.network_policy ?? { mode: 'open' },
  };
}

function templateOf({ template_id, template_version, image }: CreateComputer): Template {
  const id =
    template_id ?? TEMPLATES.find(({ aliases }) => image !== undefined && aliases.includes(image))?.id;
  const template = TEMPLATES.find((each) => each.id === (id ?? 'scratch'));
  const known = TEMPLATES.map((each) => each.id).join(', ');
  if (!template) throw new OverwinterError('invalid', `unknown template; there are: ${known}`, 'template_id');
  if (template_version !== undefined && template_version !== template.version)
    throw new OverwinterError('invalid', `the template's version is ${template.version}`, 'template_version');
  return template;
}

/** @throws OverwinterError `invalid` for an image that is not installed. */
function baseImage({ images }: Runtime, driver: DriverName, image: string): string | null {
  if (image === DEFAULT_IMAGE || TEMPLATES.some(({ id }) => id === image)) return null;
  const installed = images.get(driver) ?? [];
  if (installed.includes(image)) return image;
  const known = [DEFAULT_IMAGE, ...installed].join(', ');
  throw new OverwinterError('invalid', `unknown image; there is: ${known}`, 'image');
}

function createKey(key: string | undefined, wanted: object): CreateKey | null {
  if (key === undefined) return null;
  const body_sha256 = createHash('sha256').update(canonicalJson(wanted)).digest();
  return { route: 'computers', key, body_sha256 };
}
