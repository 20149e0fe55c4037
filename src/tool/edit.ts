/**
 * `str_replace_based_edit_tool`: looks at files and changes them, always inside the computer, through commands that run there:
 * a path never means anything to the host.
 */
import { z } from 'zod';
import type { Computer, Exit } from '../resource/computer/driver.ts';
import { ComputerLost } from '../resource/computer/driver.ts';
import type { Tool, ToolContext, ToolOutcome } from '../resource/tool.ts';

const Path = z.string().min(1).startsWith('/', 'must be absolute');
const Input = z.discriminatedUnion('command', [
  z.object({
    command: z.literal('view'),
    path: Path,
    view_range: z.tuple([z.int(), z.int()]).optional(),
  }),
  z.object({ command: z.literal('create'), path: Path, file_text: z.string() }),
  z.object({
    command: z.literal('str_replace'),
    path: Path,
    old_str: z.string().min(1),
    new_str: z.string().default(''),
  }),
  z.object({
    command: z.literal('insert'),
    path: Path,
    insert_line: z.int().nonnegative(),
    insert_text: z.string(),
  }),
]);
type Input = z.infer<typeof Input>;

const FILE_BYTES_MAX = 1024 * 1024;
const TIMEOUT_MS = 30_000;

export const edit: Tool = {
  name: 'str_replace_based_edit_tool',
  run: async (input, context) => {
    const parsed = Input.safeParse(input);
    if (!parsed.success) return failed(z.prettifyError(parsed.error));
    const computer = await context.computer();
    return await perform(parsed.data, computer, context);
  },
};

async function perform(input: Input, computer: Computer, context: ToolContext): Promise<ToolOutcome> {
  switch (input.command) {
    case 'view':
      return await view(input, computer, context);
    case 'create':
      return await save(input.path, input.file_text, `Wrote ${input.path}.`, computer, context);
    case 'str_replace':
      return await change(input.path, computer, context, (text) =>
        replaceOnce(text, input.old_str, input.new_str),
      );
    case 'insert':
      return await change(input.path, computer, context, (text) =>
        insertAt(text, input.insert_line, input.insert_text),
      );
    default:
      return input satisfies never;
  }
}

const VIEW = `
if [ -d "$OW_PATH" ]; then
  printf 'directory\\n'; cd "$OW_PATH" && find . -maxdepth 2 -not -path '*/.*' | sort | head -n 1000
elif [ -f "$OW_PATH" ]; then
  printf 'file\\n'; head -c ${FILE_BYTES_MAX + 1} "$OW_PATH"
else
  printf '%s does not exist\\n' "$OW_PATH" >&2; exit 1
fi`;

async function view(
  input: Extract<Input, { command: 'view' }>,
  computer: Computer,
  context: ToolContext,
): Promise<ToolOutcome> {
  const seen = await run(computer, context, VIEW, input.path);
  if (seen.exit_code !== 0) return failed(seen.stderr || `cannot read ${input.path}`);
  const [kind, ...rest] = seen.stdout.split('\n');
  if (kind === 'directory') return { outcome: 'ok', content: capped(rest.join('\n'), context) };
  const [from, to] = input.view_range ?? [1, -1];
  const last = to === -1 ? rest.length : to;
  const numbered = rest
    .map((line, index) => `${String(index + 1).padStart(6)}\t${line}`)
    .slice(Math.max(from, 1) - 1, last);
  return { outcome: 'ok', content: capped(numbered.join('\n'), context) };
}

async function change(
  path: string,
  computer: Computer,
  context: ToolContext,
  edited: (text: string) => { text: string } | { error: string },
): Promise<ToolOutcome> {
  const read = await run(computer, context, `head -c ${FILE_BYTES_MAX + 1} -- "$OW_PATH"`, path);
  if (read.exit_code !== 0) return failed(read.stderr || `cannot read ${path}`);
  if (Buffer.byteLength(read.stdout) > FILE_BYTES_MAX)
    return failed(`${path} is too large to edit here; use bash`);
  const result = edited(read.stdout);
  if ('error' in result) return failed(result.error);
  return await save(path, result.text, `Edited ${path}.`, computer, context);
}

function replaceOnce(text: string, old_text: string, new_text: string): { text: string } | { error: string } {
  const at = text.indexOf(old_text);
  if (at < 0) return { error: 'old_str does not occur in the file.' };
  if (text.includes(old_text, at + 1)) return { error: 'old_str occurs more than once; make it unique.' };
  return { text: text.slice(0, at) + new_text + text.slice(at + old_text.length) };
}

function insertAt(text: string, line: number, inserted: string): { text: string } | { error: string } {
  const lines = text.split('\n');
  if (line > lines.length) return { error: `insert_line ${line} is beyond the end of the file.` };
  lines.splice(line, 0, inserted.replace(/\n$/, ''));
  return { text: lines.join('\n') };
}

/** Written beside the file and moved over it, so that no reader ever sees half a file. */
const SAVE = `
mkdir -p -- "$(dirname -- "$OW_PATH")" || exit 1
[ -d "$OW_PATH" ] && { printf '%s is a directory\\n' "$OW_PATH" >&2; exit 1; }
target=$(readlink -f -- "$OW_PATH") && new="$target.overwinter-$$" && cat > "$new" || exit 1
[ -e "$target" ] && chmod --reference="$target" -- "$new"
mv -f -- "$new" "$target"`;

async function save(
  path: string,
  text: string,
  done: string,
  computer: Computer,
  context: ToolContext,
): Promise<ToolOutcome> {
  const saved = await run(computer, context, SAVE, path, Buffer.from(text));
  return saved.exit_code === 0
    ? { outcome: 'ok', content: done }
    : failed(saved.stderr || `cannot write ${path}`);
}

type Ran = { exit_code: number | null; stdout: string; stderr: string };

async function run(
  computer: Computer,
  context: ToolContext,
  script: string,
  path: string,
  stdin?: Uint8Array,
): Promise<Ran> {
  const { signal } = context;
  const spec = { script, cwd: '/', env: { OW_PATH: path }, timeout_ms: TIMEOUT_MS, signal };
  const execution = computer.exec(stdin ? { ...spec, stdin } : spec);
  const kept = { stdout: [] as Uint8Array[], stderr: [] as Uint8Array[] };
  const bytes = { stdout: 0, stderr: 0 };
  for await (const { stream, data } of execution.output) {
    // Read on, but keep no more: what writes into the pipes may be anything in the computer.
    if (bytes[stream] <= FILE_BYTES_MAX) kept[stream].push(data);
    bytes[stream] += data.length;
  }
  const { outcome, exit_code }: Exit = await execution.exit;
  if (outcome === 'lost') throw new ComputerLost('');
  const text = (chunks: Uint8Array[]): string => Buffer.concat(chunks).toString('utf8');
  const note = outcome === 'exited' ? '' : `the file operation did not finish (${outcome})`;
  return {
    exit_code: outcome === 'exited' ? exit_code : null,
    stdout: text(kept.stdout),
    stderr: note || text(kept.stderr),
  };
}

function capped(text: string, context: ToolContext): string {
  const characters_max = context.limits.output_bytes_max;
  if (text.length <= characters_max) return text;
  return `${text.slice(0, characters_max)}\n[… the rest is left out; use view_range]`;
}

function failed(content: string): ToolOutcome {
  return { outcome: 'error', content: content.trim() };
}
