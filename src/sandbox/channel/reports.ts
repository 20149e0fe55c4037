/**
 * What the loop reports of the execs that run.
 * Invariant: a report is only the computer's claim, so its worst lie ends an exec of that computer; one that says much
 * of nothing is ended.
 */

import type { Readable } from 'node:stream';
import { ComputerLost } from '../../resource/computer/driver.ts';
import type { Exit } from '../../resource/computer/driver.ts';

/** Reports that belong to no exec, until the computer is ended: each costs the server work. */
const JUNK_BYTES_MAX = 65_536;
const LINE_BYTES_MAX = 256;

/** An exec that was given to the loop. One that was told to end has ended when its exit and its sweep are reported. */
export type Pending = {
  name: string | null;
  pid: number | null;
  ending: 'timeout' | 'aborted' | null;
  exited: boolean;
  swept: boolean;
  started: () => void;
  settle: (exit: Exit) => void;
};

export type Reports = {
  status: Readable;
  pending: Map<string, Pending>;
  /** Tells the loop to kill what it started. */
  end: (own: Pending) => void;
  /** Ends the computer. */
  kill: () => void;
  closed: Promise<unknown>;
};

/** Settles execs as the loop reports. The promise resolves when the loop runs. */
export function readReports(reports: Reports): Promise<void> {
  const { status, kill, closed } = reports;
  const ready = Promise.withResolvers<void>();
  ready.promise.catch(() => {});
  let junk_bytes = 0;
  let line = '';
  status.on('data', (data: Buffer) => {
    const lines = (line + data.toString('latin1')).split('\n');
    line = lines.pop() ?? '';
    for (const each of lines) {
      if (each === 'ready') ready.resolve();
      if (each === 'ready' || !report(each, reports)) junk_bytes += each.length + 1;
    }
    if (junk_bytes > JUNK_BYTES_MAX || line.length > LINE_BYTES_MAX) kill();
  });
  void closed.then(() => ready.reject(new ComputerLost('the sandbox ended before it was ready')));
  return ready.promise;
}

/** Whether the line said something new about an exec that runs. */
function report(line: string, { pending, end }: Reports): boolean {
  const [, verb, name = '', number] = /^(started|exited|swept) (\d{1,16}) (\d{1,9})$/.exec(line) ?? [];
  const own = pending.get(name);
  if (own === undefined) return false;
  if (verb === 'started') return started(own, Number(number), end);
  if (verb === 'swept' ? own.swept : own.exited) return false;
  if (verb === 'swept') own.swept = true;
  else own.exited = true;
  if (own.ending !== null && !(own.exited && own.swept)) return true;
  pending.delete(name);
  const exit_code = own.ending === null ? Number(number) & 0xff : null;
  own.settle({ outcome: own.ending ?? 'exited', exit_code });
  return true;
}

function started(own: Pending, pid: number, end: Reports['end']): boolean {
  if (own.pid !== null) return false;
  own.pid = pid;
  own.started();
  if (own.ending !== null) end(own);
  return true;
}
