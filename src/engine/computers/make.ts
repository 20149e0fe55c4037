/** Making a computer: a name that is free in its org, and the first event of its log. It has no files and no processes yet. */
import type { DriverName } from '../../resource/computer/driver.ts';
import type { ComputerState } from '../../resource/computer/life.ts';
import { OverwinterError } from '../../resource/error.ts';
import { nameOf } from '../../resource/computer/names.ts';
import type { ComputerSpec } from '../../resource/computer/spec.ts';
import { createComputer, findComputer, freeNames, type NewComputer } from '../../store/computer/computers.ts';
import { KEPT_PLAINLY, type Keeping } from '../../store/computer/keeping.ts';
import type { Runtime } from '../runtime.ts';

export type Making = {
  spec: ComputerSpec;
  driver: DriverName;
  session?: NewComputer['session'];
  create_key?: NewComputer['create_key'];
  /** The blob that its first files come from. */
  from_snapshot?: string | null;
  /** Of a computer that is known by a session's log only: its log begins where that one left it. */
  known?: { id: string; generation: number };
  /** Named after this one, with a number. */
  named_after?: string;
  keeping?: Keeping;
  /** Variables of every command in it. */
  env?: Record<string, string> | undefined;
};

/** Names that are drawn at once; a longer number makes each next one likelier to be free. */
const NAMES_DRAWN = 8;
/** Numbers that are tried for copies of one computer, before a name is drawn. */
const COPIES_NAMED = 100;
/** Two that draw the same name at the same time: one draws again. */
const DRAWS_MAX = 20;

/**
 * The new computer, or the one that an earlier create with the same key made; null when the session's runner does not hold it any more.
 * @throws OverwinterError `idempotency_conflict`; `conflict` when the org has as many as it may
 */
export async function makeComputer(
  runtime: Runtime,
  org: string,
  making: Making,
): Promise<(ComputerState & { is_new: boolean }) | null> {
  const { spec, driver, session = null, create_key = null, from_snapshot = null, known } = making;
  const { db } = runtime.database;
  const { org_max } = runtime.settings.computers;
  for (let draw = 0; draw < DRAWS_MAX; draw += 1) {
    const id = known?.id ?? runtime.newId('computer');
    const name = await freeName(runtime, org, making.named_after);
    const body = {
      machine: runtime.machine,
      name,
      driver,
      spec,
      session: session?.id ?? null,
      from_snapshot,
      generation: known?.generation ?? 0,
    };
    const computer: NewComputer = {
      ...{ id, org, name, template_id: spec.template_id, session, create_key },
      drafts: [{ type: 'computer.created', body }],
      keeping: making.keeping ?? KEPT_PLAINLY,
      org_max: session ? null : org_max,
      sealed_env: sealEnv(runtime, org, id, making.env),
    };
    const result = await createComputer(runtime.database, computer, runtime.now());
    switch (result.made) {
      case 'new':
        runtime.computer_log.adopt(org, { stream: id, state: result.state, rows: result.rows, owes: false });
        await runtime.fail('computer.made');
        return { ...result.state, is_new: true };
      case 'before': {
        const earlier = await findComputer(db, org, result.id);
        return earlier ? { ...earlier, is_new: false } : null;
      }
      case 'not':
        if (result.because === 'not_held') return null;
        if (result.because === 'too_many')
          throw new OverwinterError(
            'conflict',
            `the org has ${org_max} computers, as many as it may have here: delete one first`,
          );
        break;
      default:
        result satisfies never;
    }
  }
  throw new Error('no free name was found for a computer');
}

function sealEnv({ sealer }: Runtime, org: string, id: string, env: Making['env']): string | null {
  if (env === undefined || Object.keys(env).length === 0) return null;
  return sealer.seal(JSON.stringify(env), { org, table: 'computer_env', id, column: 'sealed' });
}

async function freeName(runtime: Runtime, org: string, after: string | undefined): Promise<string> {
  const numbered = Array.from({ length: COPIES_NAMED }, (_, index) => `${after}-${index + 1}`);
  const drawn = Array.from({ length: NAMES_DRAWN }, (_, attempt) => nameOf(runtime.random(), attempt));
  if (after !== undefined) drawn.unshift(...numbered);
  const [free = drawn.at(-1)!] = await freeNames(runtime.database.db, org, drawn);
  return free;
}
