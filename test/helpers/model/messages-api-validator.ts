/**
 * What the Messages API refuses, as a pure function. Invariant: a body that passes here is one the real API accepts; where the
 * two may differ this one is the stricter.
 */
import { createHmac } from 'node:crypto';

/** The message of the 400 that the API would answer to this parsed body, or undefined where it accepts it. */
export function validateRequest(body: unknown): string | undefined {
  if (!isRecord(body)) return 'Input should be a valid dictionary';
  return (
    surrogateError(body) ??
    topLevelError(body) ??
    systemError(body['system']) ??
    toolsError(body['tools'] ?? []) ??
    messagesError(body['messages'])
  );
}

/** The signature that the stand-in puts under its thinking, and asks back. */
export function signThinking(thinking: string): string {
  return createHmac('sha256', 'stand-in').update(thinking).digest('base64');
}

type Fields = Record<string, unknown>;
type Check = string | undefined;
type Turn = { role: string; blocks: Fields[] };

const TOP_LEVEL = [
  'cache_control',
  'container',
  'inference_geo',
  'max_tokens',
  'messages',
  'metadata',
  'model',
  'output_config',
  'service_tier',
  'stop_sequences',
  'stream',
  'system',
  'thinking',
  'tool_choice',
  'tools',
];

const BLOCK_FIELDS = new Map([
  ['text', ['text', 'cache_control', 'citations']],
  ['image', ['source', 'cache_control']],
  ['document', ['source', 'cache_control', 'title', 'context', 'citations']],
  ['thinking', ['thinking', 'signature']],
  ['redacted_thinking', ['data']],
  ['tool_use', ['id', 'name', 'input', 'cache_control', 'caller', 'toolset_name']],
  ['tool_result', ['tool_use_id', 'content', 'is_error', 'cache_control', 'toolset_name']],
]);

const ASSISTANT_ONLY = ['thinking', 'redacted_thinking', 'tool_use'];
const USER_ONLY = ['tool_result', 'image', 'document'];

/** JSON with half a surrogate pair is refused before anything else is read. */
function surrogateError(body: Fields): Check {
  let is_well_formed = true;
  JSON.stringify(body, (key, value: unknown) => {
    if (!key.isWellFormed() || (typeof value === 'string' && !value.isWellFormed())) is_well_formed = false;
    return value;
  });
  return is_well_formed ? undefined : 'The request body is not valid JSON: no low surrogate in string';
}

function topLevelError(body: Fields): Check {
  const extra = Object.keys(body).find((key) => !TOP_LEVEL.includes(key));
  if (extra !== undefined) return `${extra}: Extra inputs are not permitted`;
  if (body['model'] === undefined) return 'model: Field required';
  if (typeof body['model'] !== 'string') return 'model: Input should be a valid string';
  if (body['model'] === '') return 'model: String should have at least 1 character';
  if (body['max_tokens'] === undefined) return 'max_tokens: Field required';
  if (!Number.isInteger(body['max_tokens'])) return 'max_tokens: Input should be a valid integer';
  if ((body['max_tokens'] as number) < 1) return 'max_tokens: Input should be greater than or equal to 1';
  if (typeof (body['stream'] ?? false) !== 'boolean') return 'stream: Input should be a valid boolean';
  return cacheControlError('cache_control', body['cache_control']);
}

function cacheControlError(path: string, value: unknown): Check {
  if (value === undefined || value === null) return undefined;
  if (!isRecord(value) || value['type'] !== 'ephemeral') return `${path}.type: Input should be 'ephemeral'`;
  const extra = Object.keys(value).find((key) => key !== 'type' && key !== 'ttl');
  return extra === undefined ? undefined : `${path}.${extra}: Extra inputs are not permitted`;
}

function systemError(system: unknown): Check {
  if (system === undefined || typeof system === 'string') return undefined;
  if (!Array.isArray(system)) return 'system: Input should be a valid list';
  return firstError(system, (block: unknown, at) => {
    const path = `system.${at}`;
    if (!isRecord(block) || block['type'] !== 'text') return `${path}.type: Input should be 'text'`;
    return fieldsError(path, block) ?? textError(path, block, 'system');
  });
}

const NATIVE_TOOLS = new Map([
  ['bash_20250124', { name: 'bash', fields: [] as string[] }],
  ['text_editor_20250728', { name: 'str_replace_based_edit_tool', fields: ['max_characters'] }],
]);
const TOOL_FIELDS = [
  'type',
  'name',
  'cache_control',
  'strict',
  'defer_loading',
  'allowed_callers',
  'input_examples',
];
const CUSTOM_TOOL_FIELDS = ['description', 'input_schema', 'eager_input_streaming'];

function toolsError(tools: unknown): Check {
  if (!Array.isArray(tools)) return 'tools: Input should be a valid list';
  const names = tools.map((tool: unknown) => (isRecord(tool) ? tool['name'] : undefined));
  const found = firstError(tools, (tool: unknown, at) => toolError(`tools.${at}`, tool));
  return found ?? (new Set(names).size === names.length ? undefined : 'tools: Tool names must be unique.');
}

function toolError(path: string, tool: unknown): Check {
  if (!isRecord(tool)) return `${path}: Input should be a valid dictionary`;
  const type = typeof tool['type'] === 'string' ? tool['type'] : 'custom';
  const native = NATIVE_TOOLS.get(type);
  if (native === undefined && type !== 'custom') {
    return `${path}: Input tag '${type}' found using 'type' does not match any of the expected tags`;
  }
  const allowed = [...TOOL_FIELDS, ...(native?.fields ?? CUSTOM_TOOL_FIELDS)];

  const extra = Object.keys(tool).find((key) => !allowed.includes(key));
  if (extra !== undefined) return `${path}.${type}.${extra}: Extra inputs are not permitted`;
  if (native === undefined) return customToolError(`${path}.custom`, tool);
  return tool['name'] === native.name ? undefined : `${path}.${type}.name: Input should be '${native.name}'`;
}

function customToolError(path: string, tool: Fields): Check {
  const name = tool['name'];
  if (typeof name !== 'string') return `${path}.name: Field required`;
  if (!/^[a-zA-Z0-9_-]{1,64}$/.test(name)) {
    return `${path}.name: String should match pattern '^[a-zA-Z0-9_-]{1,64}$'`;
  }
  if (typeof (tool['description'] ?? '') !== 'string')
    return `${path}.description: Input should be a valid string`;
  const schema = tool['input_schema'];
  if (!isRecord(schema)) return `${path}.input_schema: Field required`;
  return schema['type'] === 'object' ? undefined : `${path}.input_schema.type: Input should be 'object'`;
}

function messagesError(messages: unknown): Check {
  if (messages === undefined) return 'messages: Field required';
  if (!Array.isArray(messages)) return 'messages: Input should be a valid list';
  if (messages.length === 0) return 'messages: at least one message is required';
  const found = firstError(messages, (message: unknown, at) => messageError(`messages.${at}`, message));
  if (found !== undefined) return found;
  const turns = combine(messages as Fields[]);
  if (turns[0]?.role !== 'user') return 'messages: first message must use the "user" role';
  return pairingError(turns) ?? endError(turns);
}

function messageError(path: string, message: unknown): Check {
  if (!isRecord(message)) return `${path}: Input should be a valid dictionary`;
  const extra = Object.keys(message).find((key) => key !== 'role' && key !== 'content');
  if (extra !== undefined) return `${path}.${extra}: Extra inputs are not permitted`;
  const role = message['role'];
  if (role !== 'user' && role !== 'assistant') return `${path}.role: Input should be 'user' or 'assistant'`;
  const { content } = message;
  if (content === undefined) return `${path}.content: Field required`;
  if (typeof content !== 'string' && !Array.isArray(content))
    return `${path}.content: Input should be a valid list`;
  if (content.length === 0) return `${path}: all messages must have non-empty content`;
  return firstError(blocksOf(content), (block, at) => blockError(`${path}.content.${at}`, role, block));
}

function blockError(path: string, role: string, block: unknown): Check {
  if (!isRecord(block)) return `${path}: Input should be a valid dictionary`;
  const type = String(block['type']);
  const misplaced = role === 'user' ? ASSISTANT_ONLY : USER_ONLY;
  const fields = fieldsError(path, block);
  if (fields !== undefined) return fields;
  if (misplaced.includes(type)) return `${path}: \`${type}\` blocks can not be in \`${role}\` messages`;
  switch (type) {
    case 'text':
      return textError(path, block, 'messages');
    case 'thinking':
      return thinkingError(path, block);
    case 'redacted_thinking':
      return typeof block['data'] === 'string' ? undefined : `${path}.redacted_thinking.data: Field required`;
    case 'tool_use':
      return toolUseError(`${path}.tool_use`, block);
    case 'tool_result':
      return toolResultError(`${path}.tool_result`, block);
    default:
      return isRecord(block['source']) ? undefined : `${path}.${type}.source: Field required`;
  }
}

function fieldsError(path: string, block: Fields): Check {
  const type = String(block['type']);
  const fields = BLOCK_FIELDS.get(type);
  if (fields === undefined) {
    return `${path}: Input tag '${type}' found using 'type' does not match any of the expected tags`;
  }
  const extra = Object.keys(block).find((key) => key !== 'type' && !fields.includes(key));
  if (extra !== undefined) return `${path}.${type}.${extra}: Extra inputs are not permitted`;
  return cacheControlError(`${path}.${type}.cache_control`, block['cache_control']);
}

function textError(path: string, block: Fields, whose: string): Check {
  const text = block['text'];
  if (typeof text !== 'string') return `${path}.text.text: Input should be a valid string`;
  if (text === '') return `${whose}: text content blocks must be non-empty`;
  return text.trim() === '' ? `${whose}: text content blocks must contain non-whitespace text` : undefined;
}

function thinkingError(path: string, block: Fields): Check {
  const { thinking, signature } = block;
  if (typeof thinking !== 'string') return `${path}.thinking.thinking: Field required`;
  if (typeof signature !== 'string') return `${path}.thinking.signature: Field required`;
  return signature === signThinking(thinking)
    ? undefined
    : `${path}: Invalid \`signature\` in \`thinking\` block`;
}

function toolUseError(path: string, block: Fields): Check {
  const { id, name, input } = block;
  if (typeof id !== 'string') return `${path}.id: Field required`;
  if (!/^[a-zA-Z0-9_-]+$/.test(id)) return `${path}.id: String should match pattern '^[a-zA-Z0-9_-]+$'`;
  if (typeof name !== 'string') return `${path}.name: Field required`;
  if (name.length < 1 || name.length > 200) return `${path}.name: String should have 1 to 200 characters`;
  return isRecord(input) ? undefined : `${path}.input: Input should be a valid dictionary`;
}

function toolResultError(path: string, block: Fields): Check {
  const { tool_use_id, content, is_error } = block;
  if (typeof tool_use_id !== 'string') return `${path}.tool_use_id: Field required`;
  if (typeof (is_error ?? false) !== 'boolean') return `${path}.is_error: Input should be a valid boolean`;
  const is_empty =
    content === undefined || content === '' || (Array.isArray(content) && content.length === 0);
  if (is_empty)
    return is_error === true ? `${path}: content cannot be empty if \`is_error\` is true` : undefined;
  if (typeof content === 'string') return undefined;
  if (!Array.isArray(content)) return `${path}.content: Input should be a valid list`;
  return firstError(content, (part: unknown, at) => resultPartError(`${path}.content.${at}`, part));
}

function resultPartError(path: string, part: unknown): Check {
  if (!isRecord(part)) return `${path}: Input should be a valid dictionary`;
  const fields = fieldsError(path, part);
  if (fields !== undefined) return fields;
  if (part['type'] === 'text') return textError(path, part, 'messages');
  if (part['type'] === 'image' || part['type'] === 'document') return undefined;
  return `${path}: Input tag '${String(part['type'])}' does not match any of the expected tags`;
}

/** The API makes one message of neighbours with the same role before it looks at calls and results. */
function combine(messages: Fields[]): Turn[] {
  const turns: Turn[] = [];
  for (const message of messages) {
    const blocks = blocksOf(message['content']) as Fields[];
    const last = turns.at(-1);
    if (last !== undefined && last.role === message['role']) last.blocks.push(...blocks);
    else turns.push({ role: String(message['role']), blocks: [...blocks] });
  }
  return turns;
}

function pairingError(turns: Turn[]): Check {
  const all_calls = turns.flatMap((turn) => idsOf(turn, 'tool_use', 'id'));
  if (new Set(all_calls).size !== all_calls.length) return 'messages: `tool_use` ids must be unique';
  return firstError(turns, (turn, at) => {
    if (turn.role === 'user') return resultsError(`messages.${at}`, turns[at - 1], turn);
    return callsError(`messages.${at}`, turn, turns[at + 1]);
  });
}

function resultsError(path: string, before: Turn | undefined, turn: Turn): Check {
  const results = idsOf(turn, 'tool_result', 'tool_use_id');
  const calls = before === undefined ? [] : idsOf(before, 'tool_use', 'id');
  const stray = results.find((id) => !calls.includes(id));
  if (stray !== undefined) {
    return `${path}: unexpected \`tool_use_id\` found in \`tool_result\` blocks: ${stray}. Each \`tool_result\` block must have a corresponding \`tool_use\` block in the previous message.`;
  }
  const repeated = results.find((id, at) => results.indexOf(id) !== at);
  if (repeated === undefined) return undefined;
  return `${path}: each tool_use must have a single result. Found multiple \`tool_result\` blocks with id: ${repeated}`;
}

/** Results count only where they stand before every other block of the next message. */
function callsError(path: string, turn: Turn, after: Turn | undefined): Check {
  const calls = idsOf(turn, 'tool_use', 'id');
  const blocks = after?.blocks ?? [];
  const first_other = blocks.findIndex((block) => block['type'] !== 'tool_result');
  const leading = first_other === -1 ? blocks : blocks.slice(0, first_other);
  const missing = calls.filter((id) => !leading.some((block) => block['tool_use_id'] === id));
  if (missing.length === 0) return undefined;
  return `${path}: \`tool_use\` ids were found without \`tool_result\` blocks immediately after: ${missing.join(', ')}. Each \`tool_use\` block must have a corresponding \`tool_result\` block in the next message.`;
}

function endError(turns: Turn[]): Check {
  if (turns.at(-1)?.role === 'user') return undefined;
  return 'This model does not support assistant message prefill. The conversation must end with a user message.';
}

function idsOf(turn: Turn, type: string, field: string): string[] {
  return turn.blocks.filter((block) => block['type'] === type).map((block) => String(block[field]));
}

function blocksOf(content: unknown): unknown[] {
  return typeof content === 'string' ? [{ type: 'text', text: content }] : (content as unknown[]);
}

function firstError<Item>(items: Item[], check: (item: Item, at: number) => Check): Check {
  for (const [at, item] of items.entries()) {
    const found = check(item, at);
    if (found !== undefined) return found;
  }
  return undefined;
}

function isRecord(value: unknown): value is Fields {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
