/**
 * Request bodies made from the schemas of the OpenAPI document: one that fits, and one of which something was made wrong. What a field
 * means is known by its name, so that a body that fits is also one that works.
 */
import { ODD_BODIES, ODD_STRINGS, ODD_VALUES, TOO_LARGE, type Raw } from './odd.ts';
import type { Random } from './random.ts';

export type Schema = {
  $ref?: string;
  type?: string | string[];
  properties?: Record<string, Schema>;
  required?: string[];
  items?: Schema;
  enum?: unknown[];
  anyOf?: Schema[];
  oneOf?: Schema[];
  allOf?: Schema[];
  minimum?: number;
  format?: string;
  default?: unknown;
};

/** Finds the schema that a reference names. */
export type Resolve = (reference: string) => Schema;

/** A value for a field of this name, where chance alone would never find a good one. */
export type Known = (field: string) => unknown;

/** A value that the schema takes. */
export function sample(
  schema: Schema,
  random: Random,
  resolve: Resolve,
  known: Known,
  field = 'value',
): unknown {
  const again = (inner: Schema, name = field): unknown => sample(inner, random, resolve, known, name);
  if (schema.$ref !== undefined) return again(resolve(schema.$ref));
  const choices = schema.anyOf ?? schema.oneOf;
  if (choices) return again(random.pick(choices));
  if (schema.allOf) return Object.assign({}, ...schema.allOf.map((part) => again(part)));
  if (schema.enum) return random.pick(schema.enum);
  const meant = known(field);
  if (meant !== undefined) return meant;
  switch ([schema.type].flat().at(0)) {
    case 'object':
      return sampleObject(schema, random, again);
    case 'array':
      return Array.from({ length: 1 + random.below(2) }, () => again(schema.items ?? {}));
    case 'integer':
    case 'number':
      return (schema.minimum ?? 1) + random.below(3);
    case 'boolean':
      return random.chance(0.5);
    case 'string':
      return schema.format === 'date-time' ? '2999-01-01T00:00:00Z' : `some-${field}-${random.below(1000)}`;
    default:
      return { any: random.below(10) };
  }
}

function sampleObject(
  { properties = {}, required = [] }: Schema,
  random: Random,
  again: (schema: Schema, name: string) => unknown,
): Record<string, unknown> {
  const fields = Object.entries(properties).filter(([name]) => required.includes(name) || random.chance(0.3));
  return Object.fromEntries(fields.map(([name, schema]) => [name, again(schema, name)]));
}

/** The body as bytes after one thing was done to it; `fit` is left as it is. */
export function mutate(fit: unknown, random: Random): Buffer {
  const way = random.below(100);
  if (way < 55) return Buffer.from(textOf(mutateField(fit, random)));
  if (way < 70) return mutateText(Buffer.from(textOf(fit)), random);
  if (way < 78) return Buffer.from(withKey(textOf(fit), random));
  if (way < 84) return Buffer.from(textOf(random.pick(ODD_VALUES)));
  if (way < 99) return random.pick(ODD_BODIES);
  return random.chance(0.1) ? TOO_LARGE : Buffer.from(textOf([fit]));
}

export function textOf(value: unknown): string {
  const raws: string[] = [];
  const text = JSON.stringify(value, (_key, part: unknown) => {
    if (!isRaw(part)) return part;
    return `\u0001raw${raws.push(part.raw_json) - 1}\u0001`;
  });
  return (text ?? '').replaceAll(/"\\u0001raw(\d+)\\u0001"/g, (_, at) => raws[Number(at)] ?? '');
}

function isRaw(value: unknown): value is Raw {
  return typeof value === 'object' && value !== null && 'raw_json' in value;
}

type Place = { owner: Record<string, unknown>; key: string };

/** One field, at any depth, gone, replaced by what it must not be, or wrapped. */
function mutateField(fit: unknown, random: Random): unknown {
  const root = { body: structuredClone(fit) };
  const places = placesIn(root);
  const { owner, key } = random.pick(places);
  const way = random.below(10);
  if (way === 0) delete owner[key];
  else if (way === 1) owner[key] = [owner[key]];
  else if (way === 2) owner[key] = { [key]: owner[key] };
  else if (way < 7) owner[key] = random.pick(ODD_STRINGS);
  else owner[key] = random.pick(ODD_VALUES);
  return root.body;
}

function placesIn(owner: object): Place[] {
  const fields = owner as Record<string, unknown>;
  return Object.entries(fields).flatMap(([key, value]) => {
    const inner = typeof value === 'object' && value !== null ? placesIn(value) : [];
    return [{ owner: fields, key }, ...inner];
  });
}

const KEYS = [
  '"__proto__"',
  '"constructor"',
  '"toString"',
  '""',
  '"\\u0000"',
  '"\\ud800"',
  '"unknown_field"',
];

/** One field more, written as no serializer of ours would. */
function withKey(text: string, random: Random): string {
  const value = textOf(random.pick(ODD_VALUES));
  const comma = text === '{}' ? '' : ',';
  return text.replace('{', () => `{${random.pick(KEYS)}:${value}${comma}`);
}

function mutateText(text: Buffer, random: Random): Buffer {
  const at = random.below(text.length + 1);
  const head = text.subarray(0, at);
  switch (random.below(5)) {
    case 0:
      return head;
    case 1:
      return Buffer.concat([head, random.bytes(1 + random.below(4)), text.subarray(at)]);
    case 2:
      return Buffer.concat([head, random.bytes(1), text.subarray(at + 1)]);
    case 3:
      return Buffer.concat([Buffer.from([0xef, 0xbb, 0xbf]), text]);
    default:
      return Buffer.concat([text, random.bytes(1 + random.below(8))]);
  }
}
