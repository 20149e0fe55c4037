/**
 * Source files as text, read without a compiler: what they import, what their literals say, how long their functions are. Invariant:
 * a blanked text has the length and the lines of the original, so a place in one is a place in the other.
 */
import fs from 'node:fs';
import path from 'node:path';

export const ROOT = path.join(import.meta.dirname, '..', '..');

export type SourceFile = {
  /** From the root, with slashes. */
  path: string;
  text: string;
  /** Without comments. */
  bare: string;
  /** Without comments and without the insides of strings, templates and regular expressions. */
  code: string;
  literals: string[];
};

/** Every TypeScript file below the folders, by path. */
export function sourceFiles(...folders: string[]): SourceFile[] {
  const found = folders.flatMap((folder) => {
    const names = fs.readdirSync(path.join(ROOT, folder), { recursive: true, encoding: 'utf8' });
    return names.filter((name) => name.endsWith('.ts')).map((name) => `${folder}/${name}`);
  });
  return found.sort().map((file) => parseSource(file, fs.readFileSync(path.join(ROOT, file), 'utf8')));
}

export function parseSource(file: string, text: string): SourceFile {
  const { comments, literals } = scan(text);
  const bare = blank(text, comments);
  return {
    ...{ path: file, text, bare, code: blank(bare, literals) },
    literals: literals.map(([from, to]) => text.slice(from, to)),
  };
}

/** What the file imports or re-exports, as written. */
export function importsOf(file: SourceFile): string[] {
  const statements = file.code.matchAll(/^(?:import|export)\b(?:[^;=]*?\bfrom)?\s*(?=['"])|\bimport\(\s*/gm);
  return [...statements].map(
    (match) => /^['"](.*?)['"]/.exec(file.text.slice(match.index + match[0].length))?.[1] ?? '',
  );
}

type Span = [from: number, to: number];

const PIECE = /\/\/[^\n]*|\/\*[^]*?\*\/|'(?:\\[^]|[^'\\])*'|"(?:\\[^]|[^"\\])*"|[`{}/]/g;
const TEMPLATE_TEXT = /(?:\\[^]|\$(?!\{)|[^\\`$])*/y;
const REGULAR_EXPRESSION = /\/(?:\\.|\[(?:\\.|[^\]\\\n])*\]|[^/\\[\n])+\//y;
/** A slash after one of these begins a regular expression; after anything else it divides. */
const BEFORE_EXPRESSION = /(?:[(,=:[!&|?{};+*%<>~^-]|\b(?:return|typeof|case|in|of|await))\s*$|^\s*$/;

function scan(text: string): { comments: Span[]; literals: Span[] } {
  const comments: Span[] = [];
  const literals: Span[] = [];
  /** For each `${` that is open, the braces open inside it. */
  const holes: number[] = [];
  const template = (from: number): number => {
    const to = endOf(TEMPLATE_TEXT, text, from);
    literals.push([from, to]);
    if (text[to] === '$') holes.push(0);
    return text[to] === '$' ? to + 2 : to + 1;
  };
  const pieces = new RegExp(PIECE);
  for (let match = pieces.exec(text); match; match = pieces.exec(text)) {
    const [piece] = match;
    const { index } = match;
    if (piece.startsWith('//') || piece.startsWith('/*')) comments.push([index, index + piece.length]);
    else if (piece === '`') pieces.lastIndex = template(index + 1);
    else if (piece === '{' && holes.length > 0) holes.push(holes.pop()! + 1);
    else if (piece === '}' && holes.length > 0) {
      const open = holes.pop()!;
      if (open === 0) pieces.lastIndex = template(index + 1);
      else holes.push(open - 1);
    } else if (piece === '/' && BEFORE_EXPRESSION.test(text.slice(Math.max(0, index - 40), index))) {
      const end = endOf(REGULAR_EXPRESSION, text, index);
      if (end > index) literals.push([index + 1, end - 1]);
      pieces.lastIndex = Math.max(end, index + 1);
    } else if (piece.length > 1) literals.push([index + 1, index + piece.length - 1]);
  }
  return { comments, literals };
}

function endOf(pattern: RegExp, text: string, from: number): number {
  pattern.lastIndex = from;
  return pattern.test(text) ? pattern.lastIndex : from;
}

function blank(text: string, spans: Span[]): string {
  let out = '';
  let at = 0;
  for (const [from, to] of spans) {
    out += text.slice(at, from) + text.slice(from, to).replaceAll(/[^\n]/g, ' ');
    at = to;
  }
  return out + text.slice(at);
}

/** `lines` are a function's own: each function inside it counts as one. `depth` is of control-flow blocks. */
export type FunctionBody = { at: string; lines: number; depth: number };

/** The functions with a block body; braces of types, tables and classes are passed over. */
export function functionsOf(file: SourceFile): FunctionBody[] {
  const { code } = file;
  const found: FunctionBody[] = [];
  const lineAt = (offset: number): number => code.slice(0, offset).split('\n').length;
  const inside: { kind: BlockKind; line: number; inner: number; level: number; depth: number }[] = [];
  for (const { index, 0: brace } of code.matchAll(/[{}]/g)) {
    if (brace === '{') {
      const kind = blockKind(code, index);
      const level = kind === 'function' ? 0 : (inside.at(-1)?.level ?? 0) + (kind === 'control' ? 1 : 0);
      inside.push({ kind, line: lineAt(index), inner: 0, level, depth: 0 });
      const owner = inside.findLast((block) => block.kind === 'function');
      if (owner) owner.depth = Math.max(owner.depth, level);
      continue;
    }
    const block = inside.pop();
    if (block?.kind !== 'function') continue;
    const lines = lineAt(index) - block.line + 1;
    found.push({ at: `${file.path}:${block.line}`, lines: lines - block.inner, depth: block.depth });
    const owner = inside.findLast((outer) => outer.kind === 'function');
    if (owner) owner.inner += lines - 1;
  }
  return found;
}

type BlockKind = 'function' | 'control' | 'other';

function blockKind(code: string, brace: number): BlockKind {
  const before = code.slice(0, brace).trimEnd();
  if (before.endsWith('=>')) return 'function';
  if (/\b(?:else|try|do|finally|catch)$/.test(before)) return 'control';
  if (before.endsWith(')')) {
    const head = before.slice(0, openerOf(before, before.length - 1)).trimEnd();
    return /\b(?:if|for|while|switch|catch|await)$/.test(head) ? 'control' : 'function';
  }
  return followsReturnType(before) ? 'function' : 'other';
}

/** Whether the text ends in `): Type`, read backwards. */
function followsReturnType(before: string): boolean {
  let at = before.length - 1;
  if (!/[\w>\]}'"]/.test(before[at] ?? '')) return false;
  while (at > 0 && /[\w\s.|&<>,'"$=)\]}]/.test(before[at]!)) {
    at = /[)\]}]/.test(before[at]!) ? openerOf(before, at) - 1 : at - 1;
  }
  const type = before.slice(at + 1);
  if (/\b(?:class|interface|type|function|extends|const|return|module|import|export)\b/.test(type))
    return false;
  return before[at] === ':' && before.slice(0, at).trimEnd().endsWith(')');
}

function openerOf(code: string, closer: number): number {
  let open = 0;
  for (let at = closer; at >= 0; at -= 1) {
    if (/[)\]}]/.test(code[at]!)) open += 1;
    if (/[([{]/.test(code[at]!)) open -= 1;
    if (open === 0) return at;
  }
  return 0;
}
