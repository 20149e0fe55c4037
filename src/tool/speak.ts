/** `say` and `ask`: the agent speaks to the user. Nothing happens outside the log, so both may be repeated. */
import type { Tool, ToolOutcome } from '../resource/tool.ts';

export const say: Tool = {
  name: 'say',
  run: (input) => Promise.resolve(withText(input, (said) => ({ outcome: 'ok', content: 'Said.', said }))),
};

/** The turn ends after this call; the answer comes as the next message. */
export const ask: Tool = {
  name: 'ask',
  run: (input) =>
    Promise.resolve(
      withText(input, (asked) => ({ outcome: 'ok', content: 'Your question was put to the user.', asked })),
    ),
};

function withText(input: unknown, speak: (text: string) => ToolOutcome): ToolOutcome {
  const text = typeof input === 'object' && input !== null && 'text' in input ? input.text : undefined;
  if (typeof text === 'string' && text.trim() !== '') return speak(text);
  return { outcome: 'error', content: 'This tool needs a non-empty "text".' };
}
