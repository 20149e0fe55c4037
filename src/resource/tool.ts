/**
 * The tools as the model sees them, and the port that runs them. Definitions are pinned in `session.created`, so
 * that a later version of this file never changes the request of a session that exists.
 */
import type { Computer } from './computer/driver.ts';
import type { Blobs } from './blob.ts';

/** As sent to the provider: Anthropic's own bash and text editor, and two of ours that speak to the user. */
export const TOOL_DEFINITIONS: Record<string, unknown>[] = [
  { type: 'bash_20250124', name: 'bash' },
  { type: 'text_editor_20250728', name: 'str_replace_based_edit_tool' },
  {
    name: 'say',
    description:
      'Tell the user something now, while you go on working. Use it for results and for news that the user should not wait for.',
    input_schema: { type: 'object', properties: { text: { type: 'string' } }, required: ['text'] },
  },
  {
    name: 'ask',
    description:
      'Ask the user a question that you cannot go on without. Your turn ends after this; the answer is the next message.',
    input_schema: { type: 'object', properties: { text: { type: 'string' } }, required: ['text'] },
  },
];

/** What every agent is told about its computer, after its own prompt. */
export const COMPUTER_NOTE =
  'You have a Linux computer: run commands with bash (the working directory and exported variables carry over ' +
  'between calls) and edit files with the edit tool. Your files live in /workspace. Background processes run ' +
  'until the computer sleeps, which it does when you have been idle for a while; files stay.';

/** Whether a call that may have begun can simply be run again after a crash. */
export function isRepeatable(tool: string, input: unknown): boolean {
  if (tool !== 'str_replace_based_edit_tool') return false;
  return typeof input === 'object' && input !== null && 'command' in input && input.command === 'view';
}

/** One line for `tool.call` (contract §9.2: at most 200 characters). */
export function summarizeInput(tool: string, input: unknown): string {
  const fields = (typeof input === 'object' && input !== null ? input : {}) as Record<string, unknown>;
  const text =
    tool === 'bash' && typeof fields['command'] === 'string' ? fields['command'] : JSON.stringify(input);
  return (text ?? '').slice(0, 200);
}

/** What came of one tool call; `content` is what the model reads. */
export type ToolOutcome = {
  outcome: 'ok' | 'error' | 'unknown' | 'canceled';
  content: string;
  /** What `exec.completed` tells of a command (contract §9.2). */
  exec?: { command: string; exit_code: number | null; summary: string; content_ref?: string; bytes: number };
};

export type ToolContext = {
  call_id: string;
  /** Attaches the session's computer on first use. */
  computer: () => Promise<Computer>;
  blobs: Blobs;
  /** Where a blob of this call may be put; a prefix of names. */
  blob_prefix: string;
  signal: AbortSignal;
  limits: { command_timeout_ms: number; output_bytes_max: number };
};

/** Runs one call. Bad input is an `error` outcome for the model, never a throw. */
export interface Tool {
  readonly name: string;
  run(input: unknown, context: ToolContext): Promise<ToolOutcome>;
}
