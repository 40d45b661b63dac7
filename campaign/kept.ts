// Cases that once failed: seeds.json keeps each with what it found, and every campaign in CI carries them out again.
import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import type { Json } from '../src/io/json.ts';

export interface Kept {
  readonly part: string;
  /** The seed that it was drawn from; null: it was written by hand. */
  readonly seed: number | null;
  /** The case itself, so that it stays what it was when the part draws others from that seed. */
  readonly attack: Json;
  /** What it found, in a line. */
  readonly found: string;
}

export const keptCases = async (): Promise<readonly Kept[]> =>
  JSON.parse(await readFile(fileURLToPath(new URL('seeds.json', import.meta.url)), 'utf8')) as Kept[];
