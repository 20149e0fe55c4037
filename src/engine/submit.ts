/** The one door for what people ask of a session: state, decide, append. */
import type { Command } from '../session/command.ts';
import { decide } from '../session/decide.ts';
import type { Appended, AppendOptions } from '../store/log.ts';
import type { Runtime } from './runtime.ts';

/** @throws OverwinterError what the rules refuse; see `Log.append`. */
export async function submit(
  runtime: Pick<Runtime, 'log' | 'now' | 'rules'>,
  stream: string,
  command: Command,
  options: AppendOptions = {},
): Promise<Appended> {
  const { log, now, rules } = runtime;
  return await log.append(stream, options, (state) => decide(state, command, now(), rules));
}
