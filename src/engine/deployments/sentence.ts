/** Why something failed, in words that are for the owner: what is nobody's fault but ours stays in our logs. */
import { ComputerLost, Unsupported } from '../../resource/computer/driver.ts';
import { OverwinterError } from '../../resource/error.ts';

/** A release that cannot be; the sentence is for the owner. */
export class ReleaseFailed extends Error {}

const PART_CHARACTERS = 1000;

export function isExpected(error: unknown): error is Error {
  const kinds = [ReleaseFailed, OverwinterError, ComputerLost, Unsupported];
  return kinds.some((kind) => error instanceof kind);
}

export function sentenceOf(error: unknown): string {
  return isExpected(error) ? error.message : 'the server failed';
}

/** Its beginning, which says what it is about, and its end, which says why. */
export function shortened(sentence: string): string {
  if (sentence.length <= 2 * PART_CHARACTERS) return sentence;
  return `${sentence.slice(0, PART_CHARACTERS)} … ${sentence.slice(-PART_CHARACTERS)}`;
}
