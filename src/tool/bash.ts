/**
 * `bash`: runs a command in the session's computer. Each call is a shell of its own; the working directory and exported variables
 * are saved in the home directory after each, so they carry over calls, sleeps and restarts alike.
 */
import { ComputerLost } from '../resource/computer/driver.ts';
import type { Tool, ToolContext, ToolOutcome } from '../resource/tool.ts';
import { capture, type Captured } from './output.ts';

export const bash: Tool = {
  name: 'bash',
  run: async (input, context) => {
    const { command, restart } = (typeof input === 'object' && input !== null ? input : {}) as Record<
      string,
      unknown
    >;
    if (restart === true) return await startAfresh(context);
    if (typeof command !== 'string' || command.trim() === '') {
      return { outcome: 'error', content: 'bash needs a "command".' };
    }
    return await runCommand(command, SHELL, context);
  },
};

/** Restores what the last call left, and saves it however the command ends. */
const SHELL = `
__ow="$HOME/.overwinter"
[ -f "$__ow/env" ] && . "$__ow/env" 2>/dev/null
{ [ -f "$__ow/cwd" ] && cd "$(cat "$__ow/cwd")"; } 2>/dev/null || cd /workspace 2>/dev/null
trap '__code=$?; mkdir -p "$HOME/.overwinter"; export -p > "$HOME/.overwinter/env"; pwd > "$HOME/.overwinter/cwd"; exit $__code' EXIT
`;

/** Ends every process of the computer, a fork bomb's too, and forgets directory and variables. Files stay. */
async function startAfresh(context: ToolContext): Promise<ToolOutcome> {
  await (await context.computer()).hibernate();
  const { outcome } = await runCommand('rm -rf "$HOME/.overwinter"', '', context);
  return { outcome, content: 'The shell is new. All processes of the computer were ended; files stay.' };
}

async function runCommand(command: string, prologue: string, context: ToolContext): Promise<ToolOutcome> {
  const computer = await context.computer();
  const { command_timeout_ms: timeout_ms, output_bytes_max } = context.limits;
  const execution = computer.exec({
    script: `${prologue}${command}\n`,
    cwd: '/',
    timeout_ms,
    signal: context.signal,
  });
  const name = `${context.blob_prefix}${safeName(context.call_id)}.txt`;
  const [captured, exit] = await Promise.all([
    capture(execution.output, output_bytes_max, context.blobs, name),
    execution.exit,
  ]);
  const exec = execOf(command, exit.exit_code, captured);
  switch (exit.outcome) {
    case 'exited':
      return {
        outcome: exit.exit_code === 0 ? 'ok' : 'error',
        content: report(captured, exit.exit_code),
        exec,
      };
    case 'timeout': {
      const content = `${captured.text}\n[The command was stopped after ${timeout_ms / 1000} s.]`;
      return { outcome: 'error', content, exec };
    }
    case 'aborted':
      return { outcome: 'canceled', content: `${captured.text}\n[The command was interrupted.]`, exec };
    case 'lost':
      throw new ComputerLost(captured.text === '' ? '' : `${captured.text}\n`);
    default:
      return exit.outcome satisfies never;
  }
}

function report(captured: Captured, exit_code: number | null): string {
  const text = captured.text === '' ? '(no output)' : captured.text;
  return exit_code === 0 ? text : `${text}\n[exit code ${exit_code}]`;
}

function execOf(
  command: string,
  exit_code: number | null,
  captured: Captured,
): NonNullable<ToolOutcome['exec']> {
  const { summary, bytes, content_ref } = captured;
  return {
    command: command.slice(0, 200),
    exit_code,
    summary,
    bytes,
    ...(content_ref === undefined ? {} : { content_ref }),
  };
}

/** A call's id comes from the model: only what a blob's name may hold stays. */
function safeName(call_id: string): string {
  return call_id
    .toLowerCase()
    .replaceAll(/[^a-z0-9_-]/g, '')
    .slice(0, 64);
}
